"""Beginning with another training's weights alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from components.backbones.syncphony.model import SyncphonyDiT
from components.errors import InputError
from lightning_modules.command_line.trainer import AVSyncTrainer
from lightning_modules.syncphony.module import SyncphonyModule
from tests.lightning_modules.tiny_module import WORDS, TinyData, tiny_dit, tiny_module, trainer
from tests.tiny_syncphony import tiny_backbone

pytestmark = pytest.mark.filterwarnings("ignore")


def checkpoint_of(module: SyncphonyModule, folder: Path, name: str, **settings: Any) -> Path:
    run = trainer(folder, 2)
    run.fit(module, TinyData())
    run.save_checkpoint(folder / name, **settings)
    return folder / name


def trained_weights(module: SyncphonyModule) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}


def test_whole_slim_and_exported_weights_begin_a_training_at_step_0(tmp_path: Path):
    before = tiny_module(random_audio=True)
    path = checkpoint_of(before, tmp_path, "whole.ckpt")
    stored = torch.load(path, weights_only=True)
    slim = {key: value for key, value in stored.items() if key not in ("optimizer_states", "lr_schedulers")}
    slim["state_dict"] = {key: value.bfloat16() for key, value in stored["state_dict"].items()}
    torch.save(slim, tmp_path / "slim.ckpt")
    exported = tmp_path / "exported"
    before.save_pretrained(exported)
    wanted = trained_weights(before)
    for source, atol in ((path, 0.0), (tmp_path / "slim.ckpt", 0.02), (exported, 0.0)):
        module = tiny_module(init_from=str(source))
        for name, value in trained_weights(module).items():
            torch.testing.assert_close(value, wanted[name], atol=atol, rtol=0)
    run = trainer(tmp_path, 1)
    run.fit(module, TinyData())
    assert run.global_step == 1  # from 0, not from 2
    averaged = {**stored["state_dict"], **{f"ema.{k}": v + 1 for k, v in stored["state_dict"].items()}}
    torch.save({**stored, "state_dict": averaged}, tmp_path / "averaged.ckpt")
    for name, value in trained_weights(tiny_module(init_from=str(tmp_path / "averaged.ckpt"))).items():
        torch.testing.assert_close(value, wanted[name] + 1)


def test_weights_arrive_as_they_were_trained_where_the_backbone_is_loaded_in_bfloat16(tmp_path: Path):
    def module(**settings: Any) -> SyncphonyModule:
        dit = tiny_dit()
        dit.backbone.to(torch.bfloat16)  # as `pretrained_backbone` with ``dtype: bfloat16``
        return tiny_module(dit, random_audio=True, **settings)

    run = trainer(tmp_path, 20, AVSyncTrainer, precision="bf16-mixed")
    run.fit(module(), TinyData())
    run.save_checkpoint(path := tmp_path / "whole.ckpt")
    wanted = torch.load(path, weights_only=True)["state_dict"]
    assert any(not torch.equal(value, value.bfloat16().float()) for value in wanted.values())
    run.export(module(), folder=str(tmp_path / "exported"), ckpt_path=str(path))
    for source in (path, tmp_path / "exported"):
        begun = module(init_from=str(source))
        for name, value in trained_weights(begun).items():
            assert value.dtype == torch.float32 and torch.equal(value, wanted[name]), name
        frozen = [value for value in begun.dit.backbone.parameters() if not value.requires_grad]
        assert {value.dtype for value in frozen} == {torch.bfloat16}


def test_a_pretrained_backbone_leaves_audio_layers_as_they_are(tmp_path: Path):
    silent = tiny_module(
        tiny_dit(first_late_block=0, audio_dim=None, train_embedders=True, train_head=True, seed=1), audio_encoder=None
    )
    path = checkpoint_of(silent, tmp_path, "silent.ckpt")
    begun, fresh = tiny_module(init_from=str(path)), tiny_module()
    for name, value in begun.dit.state_dict().items():
        source = silent.dit if name.startswith("backbone.") else fresh.dit
        assert torch.equal(value, source.state_dict()[name]), name
    assert begun.identities()["backbone"].sha256 != fresh.identities()["backbone"].sha256


def test_other_models_and_frozen_weights_are_refused(tmp_path: Path):
    path = checkpoint_of(tiny_module(), tmp_path, "whole.ckpt")
    stored = torch.load(path, weights_only=True)
    stored["frozen"]["codec"] = {"name": "vae.pth", "sha256": "0" * 64}
    torch.save(stored, tmp_path / "other.ckpt")
    refused = {
        r"trained with another backbone: MiniFlux.*; use the same": {"dit": tiny_dit(seed=1)},
        r"trained with another codec: vae.pth \(sha256 0{12}\)": {"init_from": str(tmp_path / "other.ckpt")},
        r"does not fit this transformer: missing \[.*audio_layers.3": {"dit": tiny_dit(first_late_block=1)},
        r"init_from: checkpoint '.*' does not exist": {"init_from": str(tmp_path / "gone.ckpt")},
    }
    for sentence, settings in refused.items():
        with pytest.raises(InputError, match=sentence):
            tiny_module(**{"init_from": str(path), **settings})
    wide = tiny_backbone("miniflux", latent_channels=12, text_dim=WORDS, pooled_dim=WORDS)
    with pytest.raises(InputError, match="unexpected"):
        tiny_module(SyncphonyDiT(wide, 2, None), audio_encoder=None, init_from=str(path))
