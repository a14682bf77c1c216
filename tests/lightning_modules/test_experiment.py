"""Model and data of a checkpoint in one call: as trained, with changes, and with a sentence where it fails."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from components.errors import InputError
from components.weights.pretrained import PACKAGE_ROOT
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.sharded import write_shards
from lightning_modules.command_line.cli import main
from lightning_modules.experiment import load_experiment
from lightning_modules.syncphony import SyncphonyModule

QUICKSTART = "configs/quickstart.yaml"
SHIPPED = "configs/weights/quickstart_syncphony.ckpt"
FEW = ["--data.num_train=4", "--data.num_test=2", "--data.batch_size=4", "--data.val_batch_size=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of two steps of the quickstart, with moving averages and a slim checkpoint; its folder."""
    folder = tmp_path_factory.mktemp("run")
    small = {
        "trainer": {"max_steps": 2, "limit_val_batches": 0, "log_every_n_steps": 1, "enable_model_summary": False},
        "callbacks": {
            "throughput": None,  # counts for seconds what a step costs
            "ema": {"class_path": "callbacks.ema.EMA", "init_args": {"decay": 0.5}},
            "slim": {"class_path": "callbacks.slim_checkpoint.SlimCheckpoint"},
            "checkpoint": {"class_path": "ModelCheckpoint", "init_args": {"save_last": True, "every_n_train_steps": 2}},
        },
    }
    (folder / "few.yaml").write_text(yaml.safe_dump({"base": QUICKSTART, **small}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["avsync"])
        others = ["--trainer.callbacks=null", "--trainer.precision=32-true", f"--data.root={folder / 'clips'}"]
        assert main(["fit", "--config", "few.yaml", *FEW, *others]) == 0
    yield folder / "runs/few/version_0"
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["notebook", "--with", "arguments"])


def trained(run: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return weights


@pytest.mark.parametrize("averaged", [True, False])
def test_the_weights_are_those_of_the_checkpoint(run: Path, averaged: bool):
    experiment = load_experiment(run / "checkpoints/last.ckpt", averaged=averaged)
    stored, held = trained(run), experiment.module.state_dict()
    names = [name for name in stored if not name.startswith("ema.")]
    assert len(names) > 10
    for name in names:
        assert torch.equal(held[name], stored[f"ema.{name}" if averaged else name])
    assert any(not torch.equal(stored[name], stored[f"ema.{name}"]) for name in names)
    assert not any(part.training for part in experiment.module.modules())


def test_it_generates_what_a_run_does_and_needs_no_trainer(run: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", lambda *_, **__: pytest.fail("a trainer was built"))
        before, state = dict(os.environ), torch.get_rng_state()
        experiment = load_experiment(run / "checkpoints/last.ckpt")
        assert dict(os.environ) == before and torch.equal(torch.get_rng_state(), state)
        data = experiment.datamodule
        data.prepare_data()
        data.setup("validate")
        batch = next(iter(data.val_dataloader()))
        assert isinstance(experiment.module, SyncphonyModule) and len(batch.ids) == 2
        video = experiment.module.predict_step(batch, 0).video

    seen: list[torch.Tensor] = []
    step = SyncphonyModule.validation_step

    def noted(module: SyncphonyModule, *args: object) -> object:
        result = step(module, *args)  # type: ignore[arg-type]
        seen.append(result.video)
        return result

    monkeypatch.setattr(SyncphonyModule, "validation_step", noted)
    monkeypatch.setattr(sys, "argv", ["avsync"])
    given = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/last.ckpt")]
    assert main(["validate", *given, "--trainer.limit_val_batches=1", "--model.variants=[]"]) == 0
    assert torch.allclose(video, seen[0], atol=1e-5)


def test_changes_as_options_and_mappings(run: Path):
    sampler = {"model.sampler.init_args.sync_scale": 3.5, "--data.root": run}
    experiment = load_experiment(run / "checkpoints/slim.ckpt", "--data.num_test=7", sampler)
    assert experiment.config["data"]["init_args"]["num_test"] == 7
    assert experiment.config["data"]["init_args"]["root"] == str(run)
    assert experiment.config["model"]["init_args"]["sampler"]["init_args"]["sync_scale"] == 3.5
    assert experiment.config.keys() == {"model", "data", "clip"}


def test_a_folder_of_shards(run: Path, tmp_path: Path):
    (tmp_path / "sharded.ckpt").mkdir()
    stored = AtomicCheckpointIO().load_checkpoint(run / "checkpoints/last.ckpt")
    write_shards(stored, tmp_path / "sharded.ckpt", is_global_zero=True)
    held = load_experiment(tmp_path / "sharded.ckpt", averaged=False).module.state_dict()
    assert all(torch.equal(held[name], value) for name, value in trained(run).items() if not name.startswith("ema."))


@pytest.mark.parametrize("option", ["--trainer.max_steps=3", "--config=a.yaml", "--data.num_test", "num_test=3"])
def test_what_is_not_built_cannot_be_changed(option: str):
    with pytest.raises(InputError, match=rf"takes options of model, data, clip such as .*, but was given '{option}'"):
        load_experiment(SHIPPED, option)


def test_a_wrong_key_is_named_and_where_it_stands(run: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"unknown key data\.init_args\.num_tset; did you mean num_test\?"):
        load_experiment(run / "checkpoints/slim.ckpt", {"data.num_tset": 3})
    stored = torch.load(run / "checkpoints/slim.ckpt", weights_only=True)
    stored["config_yaml"] = stored["config_yaml"].replace("num_test", "num_tset")
    torch.save(stored, tmp_path / "old.ckpt")
    with pytest.raises(InputError, match=r"^the configuration in '.*old\.ckpt': unknown key data\.init_args\.num_tset"):
        load_experiment(tmp_path / "old.ckpt")


def test_a_checkpoint_without_configuration_is_given_one(tmp_path: Path):
    checkpoint = torch.load(PACKAGE_ROOT / SHIPPED, weights_only=True)
    del checkpoint["config_yaml"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    with pytest.raises(InputError, match=r"holds no configuration; name the file it was trained with, such as config="):
        load_experiment(str(tmp_path / "old.ckpt"))
    with pytest.raises(InputError, match=r"checkpoint: checkpoint 'none\.ckpt' does not exist"):
        load_experiment("none.ckpt", config=QUICKSTART)
    fewer = "--model.init_args.dit.init_args.first_late_block=4"
    with pytest.raises(InputError, match="does not fit this model"):
        load_experiment(SHIPPED, fewer, config=QUICKSTART)


def test_the_checkpoint_of_another_model_does_not_fit(run: Path):
    with pytest.raises(InputError, match=r"checkpoint: '.*last\.ckpt' does not fit the configured model"):
        load_experiment(run / "checkpoints/last.ckpt", config="configs/v2a.yaml")
