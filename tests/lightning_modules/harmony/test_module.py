"""The Harmony module: what each stage trains, logs, saves, begins with, generates and refuses."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from components.backbones.harmony.model import HarmonyTransformer, part_of
from components.backbones.lora import LoRAConfig
from components.codecs.audio.log_mel import LogMelCodec
from components.codecs.video.pixel import PixelCodec
from components.contracts import ClipBatch
from components.encoders.text.hashed_words import HashedWords
from components.errors import InputError
from components.guidance.sync_cfg import SyncCFG
from components.media.clock import LatentClock
from components.objectives.cross_task import CrossTaskSynergy
from components.objectives.noise_levels import NoiseLevels
from components.samplers.joint_sampler import JointSampler
from components.schedules.flow_schedule import FlowSchedule
from lightning_modules.command_line.cli import main
from lightning_modules.harmony.conditions import GenerationConfig, NegativesConfig
from lightning_modules.harmony.inputs import DropoutConfig, carries_motion, carries_sound
from lightning_modules.harmony.module import HarmonyModule
from lightning_modules.harmony.stages import CurriculumConfig
from tests.lightning_modules.harmony.tiny_harmony_module import (
    AUDIO_CHANNELS,
    NUM_AUDIO,
    RATE,
    TinyClips,
    clips,
    tiny_module,
    tiny_transformer,
    trainer,
)
from tests.tiny_harmony import audio_tower, video_tower

pytestmark = pytest.mark.filterwarnings("ignore")
STAGES = ("audio", "timbre", "joint")


def step(module: HarmonyModule, batch: ClipBatch, batch_idx: int = 0) -> torch.Tensor:
    """The training step without a Trainer to log into."""
    module.log = module.log_dict = lambda *_args, **_kwargs: None  # type: ignore[method-assign]
    return module.training_step(batch, batch_idx)


def fit(module: HarmonyModule, folder: Path, make: Callable[[int], ClipBatch] | None = None, **settings: Any):
    data = TinyClips()
    if make is not None:
        data.make = make  # type: ignore[method-assign]
    run = trainer(str(folder), **settings)
    run.fit(module, data)
    return run


# --- training ----------------------------------------------------------------------------------------------------


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


def test_pictures_and_sounds_are_described_apart():
    """A tower reads the description of its own modality; without one of the sounds, captions serve both."""
    module, given = tiny_module(dropout=DropoutConfig(text=0.0)), []
    module.transformer.register_forward_pre_hook(lambda m, args, kwargs: given.append(kwargs), with_kwargs=True)
    batch, scenes = clips(position=0), ["a street", "a bang"]
    captions, sounds = (module.text_encoder(texts).tokens for texts in (batch.captions, scenes))
    assert not torch.equal(captions[:, :2], sounds[:, :2])
    for described, expected in ((batch, captions), (replace(batch, scenes=scenes), sounds)):
        given.clear()
        step(module, described)
        module.generate(described, SyncCFG("none"))
        assert len(given) == 1 + module.sampler.num_steps
        for call in given:
            assert torch.equal(call["text_v"].tokens, captions)
            assert torch.equal(call["text_a"].tokens, expected)


def test_dropouts_replace_texts_and_references():
    calls = []
    for probability in (1.0, 0.0):
        module = tiny_module(dropout=DropoutConfig(probability, probability, probability))
        module.transformer.register_forward_pre_hook(lambda m, args, kwargs: calls.append(kwargs), with_kwargs=True)
        step(module, clips())
    dropped, kept = calls
    assert dropped["ref_len"].tolist() == [0, 0]
    assert kept["ref_len"].tolist() == [3, 0], "2000 samples are three whole latents"
    assert dropped["text_v"].mask.sum(1).tolist() == [1, 1]
    assert kept["text_v"].mask.sum(1).tolist() == [3, 2]
    assert dropped["transcript"].mask.sum(1).tolist() == [1, 1]
    assert kept["transcript"].mask.sum(1).tolist() == [9, 1]


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


# --- an end to runs in which a modality idles ----------------------------------------------------------------------


def test_silent_and_motionless_data_end_the_run(tmp_path: Path):
    def silent(position: int) -> ClipBatch:
        return replace(clips(position=position), audio=torch.zeros(2, 6000))

    def still(position: int) -> ClipBatch:
        batch = clips(position=position)
        return replace(batch, video=batch.video[:, :1].expand(-1, 9, -1, -1, -1))

    with pytest.raises(InputError, match="audio is trained, but no clip of the last 2 steps carried sound"):
        fit(tiny_module(patience=2), tmp_path, silent, max_steps=9)
    with pytest.raises(InputError, match="video is trained, but no clip of the last 3 steps carried motion"):
        fit(tiny_module(patience=3), tmp_path, still, max_steps=9)
    run = fit(tiny_module(stage="audio", patience=2), tmp_path, still, max_steps=3)
    assert run.global_step == 3, "a stage that trains no video needs no motion"


def test_a_part_without_gradient_ends_the_run(tmp_path: Path):
    tasks = CrossTaskSynergy("all", audio_weight=0.0)
    module = tiny_module(stage="audio", patience=2, tasks=tasks)
    with pytest.raises(InputError, match="the audio part of the transformer is trained, but had no gradient"):
        fit(module, tmp_path, max_steps=9)


def test_what_counts_as_sound_and_motion():
    batch = clips()
    quiet = batch.audio.clone()
    quiet[0] = 5e-4
    assert carries_sound(replace(batch, audio=quiet)).tolist() == [False, True]
    assert carries_sound(replace(batch, audio=torch.zeros(2, 0))).tolist() == [False, False]
    frozen = batch.video.clone()
    frozen[1] = frozen[1, :1]
    assert carries_motion(replace(batch, video=frozen)).tolist() == [True, False]
    latents = torch.randn(2, 4, 5, 2, 2)
    latents[0, :, 1:] = latents[0, :, 1:2]
    prepared = replace(batch, video=batch.video[:, :1], video_latents=latents)
    assert carries_motion(prepared).tolist() == [False, True]


# --- stages and checkpoints ----------------------------------------------------------------------------------------


def checkpoint_of(stage: str, folder: Path, **settings: Any) -> str:
    module = tiny_module(stage=stage, **settings)
    run = fit(module, folder, max_steps=1)
    path = str(folder / f"{stage}.ckpt")
    run.save_checkpoint(path)
    return path


def test_the_curriculum_hands_its_weights_on(tmp_path: Path):
    first = checkpoint_of("audio", tmp_path)
    second = checkpoint_of("timbre", tmp_path, init_from=first)
    stored = torch.load(second, weights_only=True)
    assert stored["harmony_stage"] == "timbre"
    joint = tiny_module(init_from=second)
    for name, value in stored["state_dict"].items():
        assert torch.equal(joint.state_dict()[name], value)
    fresh = tiny_module()
    assert torch.equal(joint.transformer.video.proj_out.weight, fresh.transformer.video.proj_out.weight)
    third = checkpoint_of("joint", tmp_path, init_from=second, train_video=False)
    names = [name.removeprefix("transformer.") for name in torch.load(third)["state_dict"]]
    assert {part_of(name) for name in names} == {"audio", "interaction"}
    again = tiny_module(init_from=third)
    assert torch.equal(
        again.transformer.audio.proj_out.weight, torch.load(third)["state_dict"]["transformer.audio.proj_out.weight"]
    )

    with pytest.raises(InputError, match=r"trained in stage audio, but this is stage joint: give .* timbre or joint"):
        tiny_module(init_from=first)
    with pytest.raises(InputError, match=r"but stage audio is the first: leave curriculum\.init_from out"):
        tiny_module(stage="audio", init_from=first)
    (tmp_path / "damaged.ckpt").write_bytes(Path(first).read_bytes()[:1000])
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2", "path": tmp_path}, tmp_path / "code.ckpt")
    for name, message in {
        "nowhere.ckpt": r"curriculum\.init_from: checkpoint '.*nowhere.ckpt' does not exist",
        "damaged.ckpt": r"curriculum\.init_from: '.*damaged.ckpt' is truncated or no checkpoint",
        "code.ckpt": r"curriculum\.init_from: '.*code.ckpt' holds code",
        "": r"curriculum\.init_from: '.*' holds no checkpoint",
    }.items():
        with pytest.raises(InputError, match=message):
            tiny_module(init_from=str(tmp_path / name))
    stored["frozen"]["audio_codec"] |= {"name": "v1-16.pth", "sha256": "0" * 64}
    torch.save(stored, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"trained with another audio_codec: v1-16.pth \(sha256 0{12}\), but"):
        tiny_module(init_from=str(tmp_path / "other.ckpt"))
    wider = HarmonyTransformer(audio=audio_tower(channels=AUDIO_CHANNELS, ffn_dim=60))
    with pytest.raises(InputError, match=r"does not fit this transformer: missing \[\].* of another shape \['layers"):
        tiny_module(wider, stage="timbre", init_from=first)
    with pytest.raises(
        InputError, match=r"trained in stage audio, but this is stage timbre.* curriculum\.init_from instead"
    ):
        trainer(str(tmp_path)).fit(tiny_module(stage="timbre"), TinyClips(), ckpt_path=first)


def test_averaged_weights_are_handed_on(tmp_path: Path):
    path = checkpoint_of("audio", tmp_path)
    stored = torch.load(path, weights_only=True)
    name = "transformer.audio.proj_out.weight"
    stored["state_dict"]["ema." + name] = stored["state_dict"][name] + 1
    torch.save(stored, path)
    module = tiny_module(stage="timbre", init_from=path)
    assert torch.equal(module.state_dict()[name], stored["state_dict"][name] + 1)


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


# --- generating ----------------------------------------------------------------------------------------------------


def trained_module(**settings: Any) -> HarmonyModule:
    return tiny_module(tiny_transformer(trained=True), **settings).eval()


def test_variants_share_what_is_encoded_and_their_noise():
    module, encoded = trained_module(variants=["no_synccfg"]), []
    encode = module.video_codec.encode
    module.video_codec.encode = lambda *a: encoded.append(a[0].shape[1]) or encode(*a)  # type: ignore[method-assign]
    batch = clips()
    result = module.validation_step(batch, 0)
    assert encoded == [1, 9], "the first frame and its still, once"
    plain = result.variants["no_synccfg"]
    again = module.generate(batch, SyncCFG("text"))
    assert torch.equal(plain.video, again.video)
    assert torch.equal(plain.audio, again.audio)
    assert not torch.allclose(plain.video, result.video)
    assert not torch.allclose(plain.audio, result.audio)


@pytest.mark.parametrize("task", ["audio_to_video", "video_to_audio"])
def test_a_driven_variant_is_the_driven_task(task: str):
    batch, module = clips(), trained_module(variants=[task])
    encoded = []
    encode = module.video_codec.encode
    module.video_codec.encode = lambda *a: encoded.append(a[0].shape[1]) or encode(*a)  # type: ignore[method-assign]
    made = module.validation_step(batch, 0).variants[task]
    assert encoded == [1, 9] + [9] * (task == "video_to_audio"), "beside joint generation only what drives is encoded"
    alone = trained_module(task=task).generate(batch)
    torch.testing.assert_close(made.video, alone.video)
    torch.testing.assert_close(made.audio, alone.audio)
    given = made.audio if task == "audio_to_video" else made.video
    assert torch.equal(given, batch.audio if task == "audio_to_video" else batch.video / 255)


def test_joint_generation():
    module, batch = trained_module(), replace(clips(), valid=torch.tensor([True, False]))
    result = module.generate(batch)
    assert result.video.shape == batch.video.shape
    assert result.audio.shape == batch.audio.shape
    assert result.sample_rate == RATE
    assert result.reference is batch
    assert result.valid_mask().tolist() == [True, False]
    first = module.video_codec.decode(module.video_codec.encode(batch.video[:, :1] / 127.5 - 1)).add(1) / 2
    torch.testing.assert_close(result.video[:, :1], first.clamp(0, 1), msg="the first frame is kept")
    alone = module.generate(replace(clips(), ids=["clip0_0", "another"]))
    torch.testing.assert_close(alone.audio[0], result.audio[0])
    assert not torch.allclose(alone.audio[1], result.audio[1]), "a clip's noise comes from its name"


def test_one_modality_from_the_other():
    batch = clips()
    result = trained_module(task="audio_to_video").generate(batch)
    assert torch.equal(result.audio, batch.audio)
    assert not torch.allclose(result.video, batch.video / 255.0)
    short = replace(batch, video=batch.video[:, :1])
    assert trained_module(task="audio_to_video").generate(short).video.shape[1] == 9, "as long as the sound"
    with pytest.raises(InputError, match=r"the sound of clip0_0 is shorter than the shortest video \(0.21 s\)"):
        trained_module(task="audio_to_video").generate(replace(short, audio=batch.audio[:, :2000]))
    with pytest.raises(
        InputError, match=r"clip0_0 has no sound, but generation\.task is 'audio_to_video': give sounds"
    ):
        trained_module(task="audio_to_video").generate(replace(batch, audio=torch.zeros_like(batch.audio)))
    result = trained_module(task="video_to_audio").generate(batch)
    torch.testing.assert_close(result.video, batch.video / 255.0)
    assert not torch.allclose(result.audio, batch.audio)


@pytest.mark.parametrize("still", ["grey", "none"])
def test_without_an_image(still: str):
    module = trained_module(from_image=False, still_without_image=still)
    encoded = module.encode_conditions(clips())
    assert encoded.conditions.image is None
    assert (encoded.conditions.still is None) == (still == "none")
    if still == "grey":
        assert encoded.conditions.still.shape == (2, 24, 3, 4, 4)
    assert module.generate(clips()).video.shape == clips().video.shape
    unseen = replace(clips(), video=clips().video[:, :0])  # sounds without picture, for their words and voices
    assert module.generate(unseen).video.shape == clips().video.shape
    with pytest.raises(InputError, match="clip0_0 has no picture, but videos are made from their first frame"):
        tiny_module().generate(unseen)


def test_sound_alone():
    module = tiny_module(tiny_transformer(False, trained=True), stage="timbre").eval()
    result = module.generate(clips())
    assert result.audio.shape == clips().audio.shape
    torch.testing.assert_close(result.video, clips().video / 255.0)


def test_negative_texts_are_encoded_only_where_they_are_read():
    asked: list[list[str]] = []
    module = trained_module(negatives=NegativesConfig("blurred", "noise", "umm"))
    encoder = module.text_encoder.forward
    module.text_encoder.forward = lambda prompts: asked.append(list(prompts)) or encoder(prompts)  # type: ignore
    given = module.encode_conditions(clips()).conditions
    assert asked[1:] == [["blurred"] * 2, ["noise"] * 2]
    assert given.audio_text.negative_transcript.mask.sum(1).tolist() == [3, 3]
    module.sampler = JointSampler(1, guidance=SyncCFG("sync"))
    given = module.encode_conditions(clips()).conditions
    assert given.video_text.negative is None
    assert len(asked) == 4


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


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({}, {"video": torch.zeros(2, 8, 3, 8, 8, dtype=torch.uint8)}, "8 frames do not fit the codec"),
        (
            {},
            {"video": torch.zeros(2, 1, 3, 8, 8, dtype=torch.uint8)},
            "clip0_0 has 1 video frames, so it is a sound",
        ),
        ({}, {"video": torch.zeros(2, 9, 3, 10, 8, dtype=torch.uint8)}, "height 10 .* multiple of 4; .* to 8 or 12"),
        ({}, {"audio": torch.zeros(2, 0)}, "clip clip0_0 has no sound"),
        ({}, {"sample_rate": 44100}, "works at 16000 Hz but got audio at 44100 Hz"),
        (
            {"dropout": DropoutConfig(transcript=0.0)},
            {"transcripts": ["x" * 30, ""]},
            "transcript of clip 'clip0_0' has 30",
        ),
        (
            {"stage": "timbre"},
            {"reference_audio": None, "reference_lengths": None},
            "stage timbre learns voices .* reference_s",
        ),
    ],
)
def test_batches_that_do_not_fit_are_named(settings: dict, change: dict, message: str):
    module = tiny_module(**settings)
    with pytest.raises(InputError, match=message):
        step(module, replace(clips(), **change))


def test_a_null_that_the_parser_made_a_word_of_is_refused():
    """``--model.init_args.negatives.transcript null`` arrives as a word; the section's own value does not."""
    with pytest.raises(
        InputError, match=r"^negatives\.transcript is the word None: .*\.negatives '\{transcript: null\}'"
    ):
        NegativesConfig(transcript="None")
    assert NegativesConfig(transcript=None).transcript is None


@pytest.mark.parametrize("name", ["reference", "text", "transcript"])
@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_a_dropout_that_is_no_probability_is_refused(name: str, probability: float):
    with pytest.raises(InputError, match=rf"^dropout\.{name} is {probability}: give a probability from 0 to 1"):
        DropoutConfig(**{name: probability})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stage": "video"}, r"^curriculum\.stage is 'video': give audio, timbre or joint"),
        ({"patience": 0}, r"^curriculum\.patience is 0: give at least 1"),
        ({"future_temporal_factor": 0}, r"^curriculum\.future_temporal_factor is 0"),
        (
            {"stage": "audio", "init_from": "a.ckpt"},
            r"^curriculum\.init_from is 'a.ckpt', but stage audio is the",
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


def test_latents_follow_the_experiment_and_padding_is_not_learnt():
    module = tiny_module()
    sound = module.inputs.audio(replace(clips(), audio=clips().audio[:, : 8 * 512]))
    assert sound.latents.shape == (2, AUDIO_CHANNELS, NUM_AUDIO)
    assert sound.lengths.tolist() == [8, 8]
    assert module.inputs.audio(clips()).lengths is None


@pytest.mark.parametrize(("reference_s", "num"), [(2.05, 65), (5.0, 157), (1.0, 32), (0.01, 1)])
def test_the_slot_of_references_follows_from_their_length(reference_s: float, num: int):
    """2.05 s and 5.0 s are those of the shipped experiments, at 31.25 latents per second."""
    samples = round(reference_s * RATE)
    batch = replace(clips(), reference_audio=torch.zeros(2, samples), reference_lengths=torch.tensor([samples, 0]))
    latents, lengths = tiny_module().inputs.reference(batch)
    assert latents.shape == (2, AUDIO_CHANNELS, num)
    assert lengths.tolist() == [max(1, samples // 512), 0], "whole latents, but at least one"


def test_rates_come_from_clips_and_codecs():
    """The frame rate is the batch's; without a video codec the temporal factor is that of the stage to come."""
    module = tiny_module(video_codec=PixelCodec(temporal_factor=4), future_temporal_factor=8)
    assert module.inputs.clock(clips()) == LatentClock(24.0, 4, 31.25)
    assert module.inputs.clock(replace(clips(), fps=30.0)) == LatentClock(30.0, 4, 31.25)
    alone = tiny_module(stage="audio", audio_codec=LogMelCodec(num_mels=2, latent_hop=256), future_temporal_factor=8)
    assert alone.inputs.clock(clips()) == LatentClock(24.0, 8, 62.5)
    calls: list[dict] = []
    alone.transformer.register_forward_pre_hook(lambda m, args, kwargs: calls.append(kwargs), with_kwargs=True)
    step(alone, clips())
    alone.generate(clips())
    assert {call["clock"] for call in calls} == {LatentClock(24.0, 8, 62.5)}
