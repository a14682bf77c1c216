"""Loaders under a real trainer: what is seen, in which order, and after an interruption."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from components.contracts import ClipBatch
from components.errors import InputError
from components.media.clock import ClipShape
from datamodules.avsync15 import AVSync15
from tests.processes import run_ranks, told


class Recorder(L.LightningModule):
    """Writes down every batch it is given."""

    def __init__(self, log: Path | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.log_folder = log
        self.train_ids: list[str] = []
        self.positions: list[int | None] = []
        self.val_ids: list[str] = []
        self.draws: list[float] = []

    def training_step(self, batch: ClipBatch, index: int) -> torch.Tensor:
        self.train_ids += list(batch.ids)
        self.positions.append(batch.position)
        self.draws.append(float(torch.rand(())))
        return (self.weight + len(batch)).sum()

    def validation_step(self, batch: ClipBatch, index: int) -> None:
        self.val_ids += [
            name if keep else f"{name} (repeat)" for name, keep in zip(batch.ids, batch.valid, strict=True)
        ]

    def on_train_end(self) -> None:
        if self.log_folder is not None:
            found = {"train": self.train_ids, "positions": self.positions, "val": self.val_ids}
            (self.log_folder / f"rank{self.global_rank}.json").write_text(json.dumps(found))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data(root: Path, batch_size: int = 2, **more: Any) -> AVSync15:
    return AVSync15(
        str(root),
        clip=ClipShape(num_frames=12, fps=12, height=16, width=16),
        batch_size=batch_size,
        num_workers=more.pop("num_workers", 0),
        val_batch_size=2,
        seed=5,
        **more,
    )


def trainer(folder: Path, steps: int, **more: Any) -> L.Trainer:
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "check_val_every_n_epoch": None,
        "val_check_interval": 4,
        "num_sanity_val_steps": 0,
        "max_steps": steps,
        "default_root_dir": folder,
        "enable_checkpointing": False,
    }
    return L.Trainer(**{**settings, **more})


def train(root: Path, folder: Path, steps: int, ckpt: Path | None = None, **more: Any) -> Recorder:
    model, module = Recorder(), data(root, **more)
    run = trainer(folder, steps, limit_val_batches=0)
    run.fit(model, datamodule=module, ckpt_path=ckpt, weights_only=False)
    run.save_checkpoint(folder / f"{steps}.ckpt")
    assert module.state_dict() == {"consumed_samples": steps * 2}
    return model


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resuming_mid_epoch_twice_gives_the_uninterrupted_order(
    avsync_root: Path, tmp_path: Path, num_workers: int
) -> None:
    whole = train(avsync_root, tmp_path, 12)
    assert whole.positions == list(range(0, 24, 2))
    first = train(avsync_root, tmp_path, 5, num_workers=num_workers)
    second = train(avsync_root, tmp_path, 9, tmp_path / "5.ckpt", num_workers=num_workers)
    third = train(avsync_root, tmp_path, 12, tmp_path / "9.ckpt", num_workers=num_workers)
    assert first.train_ids + second.train_ids + third.train_ids == whole.train_ids
    assert first.positions + second.positions + third.positions == whole.positions


BY_EPOCHS = {"check_val_every_n_epoch": 1, "val_check_interval": 1.0}  # Lightning's defaults


class Cuts(Recorder):
    """Also writes down the pictures it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.cuts: list[torch.Tensor] = []

    def training_step(self, batch: ClipBatch, index: int) -> torch.Tensor:
        self.cuts.append(batch.video.clone())
        return super().training_step(batch, index)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_cut_short_is_followed_by_other_clips(avsync_root: Path, tmp_path: Path, num_workers: int) -> None:
    endless = train(avsync_root, tmp_path, 6)
    model = Recorder()
    run = trainer(tmp_path, -1, max_epochs=3, limit_train_batches=2, limit_val_batches=0, **BY_EPOCHS)
    run.fit(model, datamodule=data(avsync_root, num_workers=num_workers))
    assert model.positions == [0, 2, 4, 6, 8, 10] and model.train_ids == endless.train_ids
    assert run.global_step == 6


@pytest.mark.parametrize("settings", [{"max_epochs": 2}, {"max_steps": 10}])
def test_an_epoch_is_one_pass_over_the_training_list(
    avsync_root: Path, tmp_path: Path, settings: dict[str, int]
) -> None:
    module, model = data(avsync_root, batch_size=2), Recorder()
    run = trainer(tmp_path, settings.get("max_steps", -1), max_epochs=settings.get("max_epochs"), **BY_EPOCHS)
    run.fit(model, datamodule=module)
    items, epochs = len(module.dataset("train").parts[0]), run.current_epoch
    assert items == 7 and run.global_step == settings.get("max_steps", 8)  # four batches of two a pass
    assert epochs == (2 if "max_epochs" in settings else 3)  # one that was begun counts
    assert model.positions == list(range(0, 2 * run.global_step, 2))
    assert len(set(model.train_ids[:items])) == items  # nothing is left out, nothing comes twice
    assert module.consumed_samples == 2 * run.global_step
    assert len(model.val_ids) == 2 * 3  # all clips, at the end of each


def test_an_epoch_goes_on_where_it_was_left(avsync_root: Path, tmp_path: Path) -> None:
    def run(folder: Path, ckpt: Path | None = None) -> Recorder:
        model, keep = Recorder(), ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=6)
        settings = {"limit_val_batches": 0, "enable_checkpointing": True, "callbacks": [keep], **BY_EPOCHS}
        one = trainer(tmp_path, -1, max_epochs=3, **settings)
        one.fit(model, datamodule=data(avsync_root), ckpt_path=ckpt, weights_only=False)
        return model

    whole = run(tmp_path / "whole")
    second = run(tmp_path / "second", tmp_path / "whole/step=6.ckpt")  # in the middle of the second epoch
    assert whole.positions == list(range(0, 24, 2)) and second.positions == whole.positions[6:]
    assert second.train_ids == whole.train_ids[12:]


def test_an_epoch_that_had_just_begun_begins_again(avsync_root: Path, tmp_path: Path) -> None:
    """Where a signal in an epoch's last batch stops a run (`GracefulStop`)."""

    class Keep(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
            if trainer.global_step == 8:
                trainer.save_checkpoint(tmp_path / "begun.ckpt")

    def run(ckpt: Path | None = None) -> Recorder:
        model = Recorder()
        settings = {"limit_val_batches": 0, "callbacks": [] if ckpt else [Keep()], **BY_EPOCHS}
        trainer(tmp_path, -1, max_epochs=4, **settings).fit(
            model, datamodule=data(avsync_root), ckpt_path=ckpt, weights_only=False
        )
        return model

    whole, second = run(), run(tmp_path / "begun.ckpt")
    assert whole.positions == list(range(0, 32, 2)) and second.positions == whole.positions[8:]
    assert second.train_ids == whole.train_ids[16:]


@pytest.mark.parametrize("amount", [2, 0.67])
def test_overfitting_holds_the_clips_and_not_the_positions(
    avsync_root: Path, tmp_path: Path, amount: int | float
) -> None:
    model = Cuts()
    run = trainer(tmp_path, 6, overfit_batches=amount, limit_val_batches=0, **BY_EPOCHS)
    run.fit(model, datamodule=data(avsync_root))
    assert model.positions == [0, 2, 4, 6, 8, 10]  # what noise is drawn from
    assert model.train_ids[:4] == model.train_ids[4:8] == model.train_ids[8:]
    assert all(torch.equal(model.cuts[i], model.cuts[i % 2]) for i in range(6))
    assert not torch.equal(model.cuts[0], model.cuts[1])


def test_validation_shows_each_clip_once_and_leaves_training_alone(avsync_root: Path, tmp_path: Path) -> None:
    quiet, watched = Recorder(), Recorder()
    for model, limit in ((quiet, 0), (watched, 1.0)):
        L.seed_everything(0, verbose=False)
        trainer(tmp_path, 8, limit_val_batches=limit).fit(
            model, datamodule=data(avsync_root, clips_per_video=2, num_workers=1)
        )
    assert watched.train_ids == quiet.train_ids
    assert watched.draws == quiet.draws
    once = [
        f"{kind}/test_{k}_clip-0{c}"
        for k, kind in enumerate(("dog_barking", "hammering", "dog_barking"))
        for c in (0, 1)
    ]
    assert watched.val_ids == once * 2


def test_validation_can_be_limited_to_clips_spread_over_the_list(avsync_root: Path) -> None:
    module = data(avsync_root, max_val_clips=3, clips_per_video=2)
    module.setup("validate")
    found = [name for batch in module.val_dataloader() for name in batch.ids]
    assert found == ["dog_barking/test_0_clip-00", "dog_barking/test_0_clip-01", "hammering/test_1_clip-00"]
    module = data(avsync_root, max_val_clips=2)
    module.setup("test")
    found = [name for batch in module.test_dataloader() for name in batch.ids]
    assert found == ["dog_barking/test_0", "hammering/test_1"]


def fit_on_two_ranks(root: Path, folder: Path) -> None:
    """What one of the two processes does."""
    run = trainer(folder, 4, devices=2, strategy="ddp")
    run.fit(Recorder(folder), datamodule=data(root))
    run.save_checkpoint(folder / "two.ckpt")


def test_two_ranks_share_one_order_and_one_rank_can_go_on(avsync_root: Path, tmp_path: Path) -> None:
    ended = run_ranks(fit_on_two_ranks, (avsync_root, tmp_path), 2)
    assert [one.status for one in ended] == [0, 0], told(ended)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0]["positions"] == [0, 4, 8, 12]
    assert ranks[1]["positions"] == [2, 6, 10, 14]
    single = Recorder()
    trainer(tmp_path, 6, limit_val_batches=0).fit(single, datamodule=data(avsync_root, batch_size=4))
    batches = [[rank["train"][k : k + 2] for k in range(0, 8, 2)] for rank in ranks]  # the ranks take turns
    assert [name for turn in zip(*batches, strict=True) for batch in turn for name in batch] == single.train_ids[:16]
    assert ranks[0]["val"] == ["dog_barking/test_0", "dog_barking/test_2"]
    assert ranks[1]["val"] == ["hammering/test_1", "dog_barking/test_0 (repeat)"]
    resumed = Recorder()
    trainer(tmp_path, 6, limit_val_batches=0).fit(
        resumed, datamodule=data(avsync_root, batch_size=4), ckpt_path=tmp_path / "two.ckpt", weights_only=False
    )
    assert resumed.train_ids == single.train_ids[16:]
    assert resumed.positions == [16, 20]


def test_lightnings_own_sampler_is_refused_on_several_ranks(avsync_root: Path) -> None:
    module = data(avsync_root)
    module.setup("fit")

    class Connector:
        use_distributed_sampler = True

    class TwoRanks:
        world_size, global_rank, _accelerator_connector = 2, 1, Connector()

    module.trainer = TwoRanks()  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"trainer\.use_distributed_sampler is true; set it to false"):
        module.val_dataloader()


@pytest.mark.gpu
def test_a_pinned_batch_has_all_its_tensors_there(avsync_root: Path) -> None:
    module = data(avsync_root)
    module.setup("validate")
    batch = next(iter(module.val_dataloader())).pin_memory()
    assert batch.video.is_pinned() and batch.audio.is_pinned()
    moved = batch.to("cuda", non_blocking=True)
    torch.cuda.synchronize()
    assert torch.equal(moved.video.cpu(), batch.video)
