"""The Harmony module: what each stage trains, logs, saves and refuses, and how a config says it."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from components.backbones.harmony.model import HarmonyTransformer, part_of
from components.backbones.lora import LoRAConfig
from components.codecs.audio.log_mel import LogMelCodec
from components.codecs.video.pixel import PixelCodec
from components.encoders.text.hashed_words import HashedWords
from components.errors import InputError
from components.guidance.sync_cfg import SyncCFG
from components.objectives.cross_task import CrossTaskSynergy, NoiseLevels
from components.schedules.flow_schedule import FlowSchedule
from lightning_modules.command_line.cli import main
from lightning_modules.harmony.conditions import GenerationConfig, NegativesConfig
from lightning_modules.harmony.inputs import DropoutConfig
from lightning_modules.harmony.module import HarmonyModule
from lightning_modules.harmony.stages import CurriculumConfig
from tests.lightning_modules.harmony.tiny_harmony_module import (
    TinyClips,
    clips,
    fit,
    step,
    tiny_module,
    tiny_transformer,
    trainer,
)
from tests.tiny_harmony import audio_tower, video_tower

pytestmark = pytest.mark.filterwarnings("ignore")


STAGES = ("audio", "timbre", "joint")


@pytest.mark.parametrize("stage", STAGES)
def test_every_trained_parameter_gets_a_gradient_and_nothing_else(stage: str):
    module = tiny_module(tiny_transformer(stage == "joint", trained=True), stage=stage, tasks=CrossTaskSynergy("all"))
    step(module, clips()).backward()
    graded = {name for name, p in module.named_parameters() if p.grad is not None}
    assert graded == {name for name, p in module.named_parameters() if p.requires_grad}
    parts = {part_of(name.removeprefix("transformer.")) for name in graded}
    assert parts == ({"video", "audio", "interaction"} if stage == "joint" else {"audio"})
    held = [id(p) for group in module.configure_optimizers().param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({"train_video": False}, ("audio", "interaction")),
        ({"train_audio": False}, ("video", "interaction")),
        ({"train_video": False, "train_audio": False}, ("interaction",)),
    ],
)
def test_towers_can_be_frozen_in_the_joint_stage(flags: dict, parts: tuple):
    module = tiny_module(**flags)
    assert module.watch.parts == parts
    assert {part_of(n.removeprefix("transformer.")) for n, p in module.named_parameters() if p.requires_grad} == set(
        parts
    )
    assert "transformer" in module.frozen_parts()
    assert "transformer" not in tiny_module().frozen_parts()


def test_training_lowers_the_loss_on_a_fixed_batch():
    fast = {"optimizer": lambda groups: torch.optim.AdamW(groups, lr=1e-2)}
    module = tiny_module(dropout=DropoutConfig(text=0.0), tasks=CrossTaskSynergy("all"), **fast)
    optimizer, losses = module.configure_optimizers(), []
    for _ in range(8):
        loss = step(module, clips(position=0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_is_a_function_of_position_and_seed():
    module = tiny_module()
    before = torch.random.get_rng_state()
    first = step(module, clips(position=8))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(step(module, clips(position=8), batch_idx=5), first)
    assert torch.equal(step(module, clips(), batch_idx=4), first)
    assert not torch.equal(step(module, clips(position=10)), first)
    assert not torch.equal(step(tiny_module(noise_seed=1), clips(position=8)), first)


def test_audio_stages_never_run_the_video_tower():
    calls: list[dict] = []
    module = tiny_module(tiny_transformer(), stage="audio")
    module.transformer.register_forward_pre_hook(lambda m, args, kwargs: calls.append(kwargs), with_kwargs=True)
    step(module, replace(clips(reference=False), video=torch.zeros(2, 1, 3, 8, 8, dtype=torch.uint8)))
    assert calls[0]["active"] == ("audio",)
    assert calls[0]["z_v"] is None
    assert calls[0]["ref_len"].tolist() == [0, 0], "without a reference the null token is shown"


def test_what_is_logged(tmp_path: Path):
    module = tiny_module(tasks=CrossTaskSynergy("all", first_frame_probability=0.0))
    logged = fit(module, tmp_path, lambda position: clips(position=position), max_steps=4, log_every_n_steps=4)
    logged = {name.removeprefix("train/"): value.item() for name, value in logged.callback_metrics.items()}
    assert logged["clips"] == logged["clips_with_sound"] == logged["clips_with_motion"] == 8
    assert logged["rows/video"] == logged["rows/audio"] == 16
    assert 0 < logged["sigma/video"] < 1
    assert all(logged[f"grad_norm/{part}"] > 0 for part in ("video", "audio", "interaction"))
    assert logged["loss/video"] == pytest.approx((logged["loss/joint/video"] + logged["loss/audio_driven/video"]) / 2)
    assert logged["loss/audio"] == pytest.approx((logged["loss/joint/audio"] + logged["loss/video_driven/audio"]) / 2)
    assert "loss/video_driven/video" not in logged
    assert any(name.startswith("loss/joint/audio_sigma") for name in logged)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path):
    def run(steps: int, resume: str | None = None) -> HarmonyModule:
        module, data = tiny_module(), TinyClips()
        if resume is not None:
            data.make = lambda position: clips(position=position + 4, seed=position + 4)  # type: ignore[method-assign]
        fitting = trainer(str(tmp_path), max_steps=steps)
        fitting.fit(module, data, ckpt_path=resume)
        fitting.save_checkpoint(str(tmp_path / f"{steps}.ckpt"))
        return module

    straight = run(4)
    run(2)
    resumed = run(4, str(tmp_path / "2.ckpt"))
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_folder_holds_the_transformer(tmp_path: Path):
    from components.backbones.harmony.checkpoint import load_harmony

    module = tiny_module(tiny_transformer(trained=True))
    module.save_pretrained(tmp_path)
    loaded = load_harmony(str(tmp_path)).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in module.transformer.state_dict().items())


SECTIONS = {
    "curriculum": {"stage": "joint", "video_lora": {"rank": 8, "targets": ["to_q"]}, "patience": 9},
    "dropout": {"text": 0.2},
    "generation": {"from_image": False, "variants": ["no_synccfg"]},
    "negatives": {"scene": "noise", "transcript": None},
}


def test_everything_can_be_said_in_a_config():
    """Nested class paths, dataclasses and tuples, as YAML files give them."""
    from lightning.pytorch.cli import LightningArgumentParser

    tower = {"num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 96, "text_dim": 16}
    parts = {
        "transformer": (
            "components.backbones.harmony.HarmonyTransformer",
            {
                "video": {
                    "class_path": "components.backbones.wan.WanTower",
                    "init_args": tower | {"in_channels": 24, "out_channels": 24},
                },
                "audio": {
                    "class_path": "components.backbones.harmony.AudioTower",
                    "init_args": tower | {"channels": 4, "transcript_dim": 10},
                },
                "interaction": {"width": 24, "num_heads": 1},
            },
        ),
        "audio_codec": ("components.codecs.audio.log_mel.LogMelCodec", {"num_mels": 2}),
        "video_codec": ("components.codecs.video.pixel.PixelCodec", {"temporal_factor": 4}),
        "text_encoder": ("components.encoders.text.hashed_words.HashedWords", {"dim": 16}),
        "transcript_encoder": ("components.encoders.transcript.characters.CharacterTranscript", {"dim": 10}),
        "tasks": (
            "components.objectives.cross_task.CrossTaskSynergy",
            {"task_mode": "sample", "audio_levels": {"shift": 3.0}, "probabilities": [0.4, 0.3, 0.3]},
        ),
        "sampler": (
            "components.samplers.joint_sampler.JointSampler",
            {
                "num_steps": 4,
                "audio_schedule": {"solver": "euler", "shift": 3.0},
                "guidance": {"guidance": "sync", "sync_sigmas": [0.2, 0.9]},
            },
        ),
    }
    arguments = {name: {"class_path": path, "init_args": init} for name, (path, init) in parts.items()}
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(HarmonyModule, "model", subclass_mode=True)
    path = f"{HarmonyModule.__module__}.{HarmonyModule.__name__}"
    config = parser.parse_object({"model": {"class_path": path, "init_args": arguments | SECTIONS}})
    module = parser.instantiate_classes(config).model
    assert module.curriculum == CurriculumConfig("joint", video_lora=LoRAConfig(8, targets=("to_q",)), patience=9)
    assert module.conditions.generation == GenerationConfig(from_image=False, variants=("no_synccfg",))
    assert module.conditions.negatives == NegativesConfig(scene="noise", transcript=None)
    assert module.rows.dropout == DropoutConfig(text=0.2)
    assert module.sampler.guidance == SyncCFG("sync", sync_sigmas=(0.2, 0.9))
    assert module.sampler.audio_schedule == FlowSchedule("euler", 3.0)
    assert module.sampler.video_schedule == FlowSchedule()
    assert module.tasks.audio_levels == NoiseLevels(3.0)
    assert module.tasks.video_levels == NoiseLevels()


def test_one_field_of_a_section_is_set_over_files_that_set_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Through the real command line: files are merged field by field, and an option changes its field alone."""
    monkeypatch.setattr(sys, "argv", ["avsync"])
    options = {
        "curriculum.video_lora.alpha": "4",
        "curriculum.train_audio": "false",
        "curriculum": "{audio_lora: null}",
        "dropout.text": "0.3",
        "generation.task": "audio_to_video",
        "negatives.scene": "noise",
    }
    files = [f"--config=configs/harmony/{name}.yaml" for name in ("stage3_joint", "lora")]
    given = [f"--model.init_args.{name}={value}" for name, value in options.items()]
    assert main(["predict", *files, *given, "--print_config"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    adapters = found["curriculum"].pop("video_lora")
    assert LoRAConfig(**adapters | {"targets": tuple(adapters["targets"])}) == LoRAConfig(32, alpha=4.0)
    assert CurriculumConfig(**found["curriculum"]) == CurriculumConfig(
        "joint", "runs/stage2_timbre/version_0/checkpoints/last.ckpt", train_audio=False
    )
    assert DropoutConfig(**found["dropout"]) == DropoutConfig(text=0.3)
    found["generation"]["variants"] = tuple(found["generation"]["variants"])
    assert GenerationConfig(**found["generation"]) == GenerationConfig("audio_to_video", variants=("no_synccfg",))
    assert NegativesConfig(**found["negatives"]) == NegativesConfig(scene="noise")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stage": "text"}, r"^curriculum\.stage is 'text': give audio, timbre, video or joint"),
        ({"patience": 0}, r"^curriculum\.patience is 0: give at least 1"),
        ({"future_temporal_factor": 0}, r"^curriculum\.future_temporal_factor is 0"),
        (
            {"stage": "audio", "init_from": "a.ckpt"},
            r"^curriculum\.init_from: checkpoint 'a.ckpt' does not exist",
        ),
        ({"init_from": "None"}, r"^curriculum\.init_from is the word None: .*\.curriculum '\{init_from: null\}'"),
        ({"variants": ["w0"]}, r"^generation\.variants names \['w0'\]"),
        ({"task": "video"}, r"^generation\.task is 'video': give one of joint, audio_to_video, video_to_audio"),
        ({"still_without_image": "blue"}, r"^generation\.still_without_image is 'blue': give one of grey, none"),
        ({"variants": ["audio_to_video"], "task": "video_to_audio"}, "stand beside joint generation"),
        (
            {"stage": "audio", "variants": ["audio_to_video"]},
            r"^generation\.variants names \['audio_to_video'\], but stage audio makes sounds alone: .*\.stage",
        ),
        (
            {"stage": "timbre", "task": "video_to_audio"},
            r"^generation\.task is 'video_to_audio', but stage timbre",
        ),
        ({"video_codec": None}, "stage joint encodes videos: give video_codec"),
        ({"transcript_encoder": None}, "transcript_dim and transcript_encoder must both"),
        ({"text_encoder": HashedWords(7)}, "transformer.audio.text_dim is 16 but the text encoder gives 7"),
        (
            {"video_codec": PixelCodec(4, 4)},
            "video.in_channels is 24 but the video codec's latents have 96",
        ),
        (
            {"audio_codec": LogMelCodec(num_mels=3)},
            "audio.channels is 4 but the audio codec's latents have 6",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        tiny_module(**settings)


@pytest.mark.parametrize(
    ("transformer", "message"),
    [
        (lambda: tiny_transformer(with_video=False), "stage joint needs the transformer's video tower"),
        (lambda: HarmonyTransformer(video_tower(), None), "stage joint needs the transformer's audio tower"),
        (lambda: HarmonyTransformer(video_tower(), audio_tower()), "stage joint needs the transformer's interaction"),
    ],
)
def test_a_stage_without_its_towers_is_refused(transformer: Callable, message: str):
    with pytest.raises(InputError, match=message):
        tiny_module(transformer())
