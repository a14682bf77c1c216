"""How a stage begins where another one ended."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.backbones.harmony.checkpoint import harmony_video_tower
from components.backbones.harmony.model import HarmonyTransformer, part_of
from components.backbones.lora import LoRAConfig
from components.errors import InputError
from lightning_modules.harmony.stages import CurriculumConfig
from tests.lightning_modules.harmony.tiny_harmony_module import (
    AUDIO_CHANNELS,
    TinyClips,
    clips,
    fit,
    tiny_module,
    tiny_transformer,
    trainer,
)
from tests.tiny_harmony import audio_tower

pytestmark = pytest.mark.filterwarnings("ignore")


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
    with pytest.raises(InputError, match=r"trained in stage timbre, but this is stage audio: give .* stage audio\."):
        tiny_module(stage="audio", init_from=second)
    (tmp_path / "damaged.ckpt").write_bytes(Path(first).read_bytes()[:1000])
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2", "path": tmp_path}, tmp_path / "code.ckpt")
    for name, message in {
        "nowhere.ckpt": r"curriculum\.init_from: checkpoint '.*nowhere.ckpt' does not exist",
        "damaged.ckpt": r"curriculum\.init_from: '.*damaged.ckpt' is truncated or no checkpoint",
        "code.ckpt": r"curriculum\.init_from: '.*code.ckpt' holds code",
        "": r"curriculum\.init_from: '.*' is a folder without a checkpoint",
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


def test_a_stage_begins_anew_with_weights_of_its_own_and_with_an_export(tmp_path: Path):
    first = checkpoint_of("audio", tmp_path)
    stored = torch.load(first, weights_only=True)["state_dict"]
    again = tiny_module(stage="audio", init_from=first)
    exported = tmp_path / "exported"
    exported.mkdir()
    again.save_pretrained(exported)
    for stage in ("audio", "timbre", "joint"):
        module = again if stage == "audio" else tiny_module(stage=stage, init_from=str(exported))
        for name, value in stored.items():
            assert torch.equal(module.state_dict()[name], value)


def test_weights_are_handed_on_as_they_were_trained_to_a_transformer_in_bfloat16(tmp_path: Path):
    path = checkpoint_of("audio", tmp_path)
    stored = torch.load(path, weights_only=True)["state_dict"]
    module = tiny_module(tiny_transformer().bfloat16(), stage="timbre", init_from=path)
    held = dict(module.named_parameters())
    for name, value in stored.items():
        wanted = value if held[name].requires_grad else value.bfloat16()
        assert held[name].dtype == wanted.dtype and torch.equal(held[name], wanted), name
    assert any(not torch.equal(value, value.bfloat16().float()) for value in stored.values())


def test_averaged_weights_are_handed_on(tmp_path: Path):
    path = checkpoint_of("audio", tmp_path)
    stored = torch.load(path, weights_only=True)
    name = "transformer.audio.proj_out.weight"
    stored["state_dict"]["ema." + name] = stored["state_dict"][name] + 1
    torch.save(stored, path)
    module = tiny_module(stage="timbre", init_from=path)
    assert torch.equal(module.state_dict()[name], stored["state_dict"][name] + 1)


def test_the_video_tower_learns_alone_and_is_handed_on(tmp_path: Path):
    module = tiny_module(stage="video", noise_seed=0)
    before = {name: value.clone() for name, value in module.transformer.state_dict().items()}
    fit(module, tmp_path, max_steps=2)
    assert all(not torch.equal(value, before[name]) for name, value in module.transformer.state_dict().items())
    # neither the sound nor what is said of it is looked at
    batch = clips()
    made = module.eval().generate(batch)
    deaf = module.generate(replace(batch, audio=torch.zeros_like(batch.audio), transcripts=None, reference_audio=None))
    assert torch.equal(made.video, deaf.video)
    assert torch.equal(made.audio, batch.audio)
    assert made.video.shape == batch.video.shape
    assert not torch.equal(made.video, module.generate(replace(batch, captions=["a lake", "a hill"])).video)

    folder = tmp_path / "video"
    folder.mkdir()
    module.save_pretrained(folder)
    exchange, tower = tiny_transformer().interaction_config, harmony_video_tower(str(folder))
    joint = tiny_module(HarmonyTransformer(tower, audio_tower(channels=AUDIO_CHANNELS), exchange))
    for name, value in module.transformer.state_dict().items():
        assert torch.equal(joint.transformer.state_dict()[name], value)
    path = str(tmp_path / "video.ckpt")
    trainer(str(tmp_path), max_steps=1).fit(module, TinyClips())
    module.trainer.save_checkpoint(path)
    assert tiny_module(stage="video", init_from=path).transformer.video is not None
    with pytest.raises(InputError, match=r"trained in stage video, but this is stage joint: give .* timbre or joint"):
        tiny_module(init_from=path)
    with pytest.raises(InputError, match=r"stage video makes pictures alone: leave them out"):
        tiny_module(stage="video", variants=("audio_to_video",))
    with pytest.raises(InputError, match=r"audio_lora adapts the audio tower, but stage video trains the video tower"):
        CurriculumConfig(stage="video", audio_lora=LoRAConfig(2))
