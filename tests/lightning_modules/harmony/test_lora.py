"""Adapters in Harmony's stages: what trains, what checkpoints hold, how runs go on or begin with them, exports."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.testing import assert_close

from callbacks.ema import EMA
from components.backbones.harmony.checkpoint import harmony_audio_tower, load_harmony
from components.backbones.harmony.model import HarmonyTransformer, part_of
from components.backbones.lora import LoRAConfig, is_adapter
from components.errors import InputError
from components.weights.identity import record_identity
from lightning_modules.command_line.cli import main
from lightning_modules.command_line.trainer import AVSyncTrainer
from lightning_modules.harmony.inputs import DropoutConfig
from lightning_modules.harmony.module import HarmonyModule
from tests.lightning_modules.harmony.tiny_harmony_module import (
    AUDIO_CHANNELS,
    CHANNELS,
    TinyClips,
    clips,
    step,
    tiny_module,
    tiny_transformer,
    trainer,
)
from tests.tiny_harmony import audio_tower, tiny_interaction, video_tower
from tests.tiny_syncphony import randomise

pytestmark = pytest.mark.filterwarnings("ignore")
LORA = LoRAConfig(2, alpha=4.0)
OWN = ("audio.null_reference", "audio.reference_segment", "audio.transcript_type", "audio.transcript_embedder.")


def lora_module(transformer: HarmonyTransformer | None = None, **settings: Any) -> HarmonyModule:
    """Adapters in the video tower, or as ``settings`` say."""
    settings = {"video_lora": LORA} | settings if "audio_lora" not in settings else settings
    joint = settings.get("stage", "joint") == "joint"
    fast = {"optimizer": lambda groups: torch.optim.AdamW(groups, lr=3e-2)}
    return tiny_module(transformer or tiny_transformer(joint, trained=True), **fast | settings)


def fit(
    module: HarmonyModule, folder: Path, steps: int = 2, resume: str | None = None, begin: int = 0, **settings: Any
) -> str:
    """Path of a checkpoint behind ``steps`` steps; ``begin`` is the first step's number."""
    data = TinyClips()
    data.make = lambda position: clips(position=position + 2 * begin, seed=position + 2 * begin)  # type: ignore
    run = trainer(str(folder), max_steps=steps, **settings)
    run.fit(module, data, ckpt_path=resume)
    path = folder / f"{module.curriculum.stage}{len(list(folder.iterdir()))}.ckpt"
    run.save_checkpoint(path)
    return str(path)


def names_in(path: str) -> set[str]:
    return {name.removeprefix("transformer.") for name in torch.load(path, weights_only=True)["state_dict"]}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# --- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"video_lora": LORA}, {"video", "audio", "interaction"}),
        ({"audio_lora": LORA}, {"video", "audio", "interaction"}),
        ({"video_lora": LORA, "audio_lora": LORA}, {"video", "audio", "interaction"}),
        ({"video_lora": LORA, "audio_lora": None, "train_audio": False}, {"video", "interaction"}),
        ({"stage": "timbre", "audio_lora": LORA}, {"audio"}),
    ],
)
def test_gradients_reach_exactly_what_trains(settings: dict, parts: set):
    plain = {key: value for key, value in settings.items() if not key.endswith("_lora")}
    before = step(tiny_module(tiny_transformer("stage" not in settings, trained=True), **plain), clips())
    module = lora_module(**settings)
    assert set(module.watch.parts) == parts
    loss = step(module, clips())
    assert torch.equal(loss, before), "fresh adapters change no bit"
    loss.backward()
    adapted = {side for side in ("video", "audio") if settings.get(f"{side}_lora")}
    for name, parameter in module.transformer.named_parameters():
        part = part_of(name)
        trains = part in parts and (part not in adapted or is_adapter(name) or name.startswith(OWN))
        assert parameter.requires_grad == trains == (parameter.grad is not None), name
        if ".lora_B." in name:
            assert parameter.grad.abs().max() > 0, name
    held = [id(p) for group in module.configure_optimizers().param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in module.parameters() if p.requires_grad)


def test_frozen_weights_keep_their_precision_and_adapters_learn_in_float32(tmp_path: Path):
    def half() -> HarmonyTransformer:
        video, audio = video_tower(in_channels=CHANNELS, out_channels=CHANNELS), audio_tower(channels=AUDIO_CHANNELS)
        return HarmonyTransformer(video.bfloat16(), audio.bfloat16(), tiny_interaction())

    module = lora_module(half(), video_lora=LORA, audio_lora=LORA, dropout=DropoutConfig(text=0.0))
    before = {name: value.clone() for name, value in module.transformer.state_dict().items()}
    fit(module, tmp_path, 2)
    for name, parameter in module.transformer.named_parameters():
        frozen = not parameter.requires_grad
        assert parameter.dtype == (torch.bfloat16 if frozen else torch.float32), name
        assert torch.equal(parameter, before[name].to(parameter.dtype)) == frozen, name


def test_the_watch_counts_adapters_to_their_tower(tmp_path: Path):
    module = lora_module(video_lora=LORA, audio_lora=LORA)
    run = trainer(str(tmp_path), max_steps=1)
    run.fit(module, TinyClips())
    logged = {name: value.item() for name, value in run.callback_metrics.items()}
    assert all(logged[f"train/grad_norm/{part}"] > 0 for part in ("video", "audio", "interaction"))


def test_dropout_follows_position_and_seed():
    def loss(**settings: Any) -> torch.Tensor:
        torch.manual_seed(4)  # of the adapters
        module = lora_module(video_lora=LoRAConfig(2, dropout=0.5), **settings)
        torch.manual_seed(5)
        for name, parameter in module.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(parameter)
        before = torch.random.get_rng_state()
        found = step(module.train(), clips(position=8))
        assert torch.equal(before, torch.random.get_rng_state())
        torch.rand(3)
        assert torch.equal(step(module, clips(position=8)), found)
        assert not torch.equal(step(module.eval(), clips(position=8)), found)
        return found

    assert torch.equal(loss(), loss())
    assert not torch.equal(loss(noise_seed=1), loss())


# --- checkpoints -------------------------------------------------------------------------------------------------


def test_checkpoints_hold_adapters_and_what_they_stand_on(tmp_path: Path):
    path = fit(lora_module(), tmp_path, 1)
    stored = torch.load(path, weights_only=True)
    video = {name for name in names_in(path) if part_of(name) == "video"}
    assert video and all(is_adapter(name) for name in video)
    assert stored["harmony_lora"] == {
        "video": {"rank": 2, "alpha": 4.0, "targets": ["to_k", "to_out.0", "to_q", "to_v"]}
    }
    frozen = tiny_module(tiny_transformer(trained=True), train_video=False).identities()
    assert stored["frozen"]["transformer"]["sha256"] == frozen["transformer"].sha256, "the same weights are frozen"
    assert stored["frozen"]["video_tower"]["name"] == "WanTower"
    other = tiny_transformer()
    randomise(other, seed=6)
    with pytest.raises(InputError, match="was trained on top of other frozen weights: its transformer was"):
        fit(lora_module(other), tmp_path, 2, resume=path)
    for settings, message in (
        (
            {"video_lora": LoRAConfig(3, 4.0)},
            r"LoRA of rank 2 and alpha 4 on to_k.* but curriculum\.video_lora .* rank 3",
        ),
        ({"video_lora": LoRAConfig(2)}, r"but curriculum\.video_lora gives LoRA of rank 2 and alpha 2 on"),
        ({"video_lora": None}, r"but curriculum\.video_lora gives no LoRA"),
        (
            {"audio_lora": LORA, "video_lora": LORA},
            r"no LoRA in the audio tower, but curriculum\.audio_lora gives LoRA of",
        ),
    ):
        with pytest.raises(InputError, match=message):
            fit(lora_module(**settings), tmp_path, 2, resume=path)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path):
    def module(seed: int) -> HarmonyModule:
        torch.manual_seed(seed)  # what adapters start with must come out of the checkpoint
        return lora_module(video_lora=LoRAConfig(2, dropout=0.2), audio_lora=LORA)

    def averages() -> dict[str, Any]:
        return {"callbacks": [EMA(0.5)]}

    half, whole = fit(module(0), tmp_path, 2, **averages()), module(0)
    straight = torch.load(fit(whole, tmp_path, 4, **averages()), weights_only=True)
    again = torch.load(fit(module(1), tmp_path, 4, resume=half, begin=2, **averages()), weights_only=True)
    assert same(straight["state_dict"], again["state_dict"])
    averaged = {name.removeprefix("ema.") for name in straight["state_dict"] if name.startswith("ema.")}
    assert averaged == {name for name, p in whole.named_parameters() if p.requires_grad}
    states = [found["optimizer_states"][0]["state"] for found in (straight, again)]
    assert all(same(values, states[1][index]) for index, values in states[0].items())


# --- stages ------------------------------------------------------------------------------------------------------


def test_adapters_begin_on_the_weights_of_the_stage_before(tmp_path: Path):
    first = fit(tiny_module(stage="audio"), tmp_path)
    module = lora_module(stage="timbre", audio_lora=LORA, init_from=first)
    trained = tiny_module(stage="timbre", init_from=first)
    assert torch.equal(step(module, clips()), step(trained, clips()))
    timbre = fit(trained, tmp_path, 1)
    joint = lora_module(tiny_transformer(), video_lora=LORA, audio_lora=LORA, init_from=timbre)
    assert torch.equal(step(joint, clips()), step(tiny_module(init_from=timbre), clips()))
    weight = "audio_block.attn1.to_q.base_layer.weight"
    stored = torch.load(timbre, weights_only=True)["state_dict"]
    assert torch.equal(
        joint.transformer.layers[1].get_parameter(weight),
        stored["transformer.layers.1.audio_block.attn1.to_q.weight"],
    )


def test_a_tower_from_files_whose_frozen_weights_were_replaced_is_told_by_its_tensors(tmp_path: Path):
    first, file = fit(tiny_module(stage="audio"), tmp_path), tmp_path / "weights.bin"
    file.write_bytes(b"weights")

    def identities(**settings: Any) -> dict[str, Any]:
        transformer = tiny_transformer(False)
        record_identity(transformer.audio, "some/release", [file])
        return lora_module(transformer, stage="timbre", audio_lora=LORA, **settings).identities()

    assert identities()["audio_tower"].name == "some/release"
    replaced = identities(init_from=first)["audio_tower"]
    assert replaced.name == "AudioTower"
    assert replaced == lora_module(stage="timbre", audio_lora=LORA, init_from=first).identities()["audio_tower"]


def test_a_stage_goes_on_with_adapters_or_merges_them(tmp_path: Path):
    def begun(**settings: Any) -> HarmonyModule:
        return tiny_module(tiny_transformer(trained=True), init_from=first, **settings).eval()

    module = lora_module(video_lora=LORA, audio_lora=LORA)
    first = fit(module.train(), tmp_path)
    held = module.transformer.state_dict()
    assert same(begun(video_lora=LORA, audio_lora=LORA).transformer.state_dict(), held)
    golden = step(module.eval(), clips(position=4))
    without, plain = begun(), tiny_transformer(trained=True).state_dict()
    without.transformer.load_state_dict(plain | {name: value for name, value in held.items() if name in plain})
    assert (step(without, clips(position=4)) - golden).abs() > 1e-3, "the adapters matter"
    assert_close(step(begun(), clips(position=4)), golden, atol=1e-5, rtol=1e-5)
    assert_close(step(begun(video_lora=LORA, train_audio=False), clips(position=4)), golden, atol=1e-5, rtol=1e-5)
    second = fit(begun(video_lora=LORA, audio_lora=LORA), tmp_path, 1)
    begun_again = tiny_module(tiny_transformer(trained=True), init_from=second, video_lora=LORA, audio_lora=LORA)
    assert same(
        {name: value for name, value in begun_again.state_dict().items() if is_adapter(name)},
        {name: v for name, v in torch.load(second, weights_only=True)["state_dict"].items() if is_adapter(name)},
    )
    with pytest.raises(InputError, match=r"LoRA of rank 2 .* but curriculum\.audio_lora gives LoRA of rank 3 .* to m"):
        begun(audio_lora=LoRAConfig(3))
    with pytest.raises(
        InputError, match=r"LoRA in the video tower on top of WanTower .* export .*\.load_harmony loads the tr"
    ):
        tiny_module(init_from=first)


def test_an_adapted_audio_tower_is_handed_on_as_a_folder(tmp_path: Path):
    first = fit(tiny_module(stage="audio"), tmp_path)
    timbre = lora_module(stage="timbre", audio_lora=LORA, init_from=first)
    second = fit(timbre, tmp_path, 1)
    with pytest.raises(InputError, match=r"on top of AudioTower .* avsync export .*\.harmony_audio_tower lo"):
        tiny_module(init_from=second)
    run = AVSyncTrainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    again = lora_module(stage="timbre", audio_lora=LORA, init_from=first)
    run.export(again, folder=str(tmp_path / "timbre"), ckpt_path=second)
    tower = harmony_audio_tower(str(tmp_path / "timbre"))
    joint = HarmonyTransformer(video_tower(in_channels=CHANNELS, out_channels=CHANNELS), tower, tiny_interaction())
    given = {"z_a": torch.ones(1, AUDIO_CHANNELS, 5), "t_a": torch.tensor([500.0]), "active": ["audio"]}
    given |= {"text_a": timbre.text_encoder(["a door"]), "clock": timbre.inputs.clock(clips())}
    with torch.no_grad():
        assert_close(joint(None, **given)[1], timbre.transformer(None, **given)[1], atol=1e-5, rtol=1e-5)


def test_adapters_of_audio_pre_training_go_on_with_a_voice(tmp_path: Path):
    path = fit(lora_module(stage="audio", audio_lora=LORA), tmp_path)
    module = lora_module(stage="timbre", audio_lora=LORA, init_from=path)
    stored = torch.load(path, weights_only=True)["state_dict"]
    assert same({name: module.state_dict()[name] for name in stored}, stored)
    with pytest.raises(InputError, match=r"\.harmony_audio_tower loads the audio tower from the folder"):
        lora_module(tiny_transformer(False), stage="timbre", audio_lora=LORA, init_from=path)


def test_averaged_adapters_are_exported_as_plain_weights(tmp_path: Path):
    module = lora_module(video_lora=LORA, audio_lora=LORA)
    path = fit(module, tmp_path, 2, callbacks=[EMA(0.5)])
    run = AVSyncTrainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    run.export(lora_module(video_lora=LORA, audio_lora=LORA), folder=str(tmp_path / "out"), ckpt_path=path)
    loaded = load_harmony(str(tmp_path / "out"))
    assert loaded.state_dict().keys() == tiny_transformer().state_dict().keys()
    with torch.no_grad():
        for name, average in module.ema.transformer.named_parameters():
            module.transformer.get_parameter(name).copy_(average)
    assert_close(step(tiny_module(loaded).eval(), clips()), step(module.eval(), clips()), atol=1e-5, rtol=1e-5)
    assert all(
        p.requires_grad == (is_adapter(n) or part_of(n) == "interaction" or n.startswith(OWN))
        for n, p in module.transformer.named_parameters()
    ), "exporting changes nothing"


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"train_video": False, "video_lora": LORA},
            r"video_lora .* curriculum\.train_video is false: set that to true, or leave",
        ),
        ({"train_audio": False, "audio_lora": LORA}, r"curriculum\.audio_lora .* curriculum\.train_audio is false"),
        (
            {"stage": "timbre", "video_lora": LORA},
            r"stage timbre trains the audio tower alone: leave curriculum\.vid",
        ),
        ({"video_lora": LoRAConfig(targets=("to_qkv",))}, r"targets of LoRA names \['to_qkv'\]"),
    ],
)
def test_adapters_that_would_not_train_are_refused(settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        lora_module(**settings)


# --- the experiment ------------------------------------------------------------------------------------------------


def test_the_overlay_adapts_the_towers_of_stage_three(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["avsync"])
    files = ("configs/harmony/stage3_joint.yaml", "configs/harmony/lora.yaml")
    assert main(["fit", *(part for file in files for part in ("--config", file)), "--print_config"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert settings["curriculum"]["stage"] == "joint"
    assert settings["transformer"]["init_args"]["video"]["init_args"]["dtype"] == "bfloat16"
    assert settings["optimizer"]["init_args"]["lr"] == 1e-4
    for side in ("video", "audio"):
        found = settings["curriculum"][f"{side}_lora"]
        assert LoRAConfig(**found | {"targets": tuple(found["targets"])}) == LoRAConfig(32)
