"""Runs of every layout and option: the losses and weights of one process, and each goes on from the others' files."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from components.backbones.sharding import reshard
from components.errors import InputError
from components.samplers.pyramid_sampler import PyramidSampler
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.background import BackgroundCheckpointIO
from lightning_modules.checkpoints.resume import BatchesToAStep
from lightning_modules.command_line.trainer import AVSyncTrainer
from lightning_modules.strategies.fsdp2 import FSDP2Strategy
from lightning_modules.syncphony.module import SyncphonyModule
from tests.collectives import Collectives
from tests.lightning_modules.tiny_module import Endless, TinyData, clips, tiny_dit, tiny_module, trainer
from tests.ranks import run_ranks

pytestmark = [pytest.mark.gate, pytest.mark.filterwarnings("ignore")]
TOLERANCE = 2e-7
FULLY: dict[str, Any] = {}
HYBRID: dict[str, Any] = {"replicas": 2, "frozen": "replicated", "prefetch": 1}


class Dealt(TinyData):
    """Batches of all processes in one order, however many a step is accumulated of."""

    def train_dataloader(self) -> DataLoader:
        self.consumed //= self.trainer.world_size
        return DataLoader(Endless(self), batch_size=None)

    def state_dict(self) -> dict[str, int]:
        return {"consumed": self.trainer.global_step * self.trainer.accumulate_grad_batches * self.trainer.world_size}


class Losses(L.Callback):
    """Of this process's batches."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.seen.append(float(trainer.callback_metrics["train/loss"]))


def module() -> SyncphonyModule:
    def plain(groups: Any) -> torch.optim.Optimizer:
        # descent with momentum: it has a state to keep, and does not hide how large a gradient is
        return torch.optim.SGD(groups, lr=1e-3, momentum=0.9)

    sampler = PyramidSampler(video_steps=(1, 1, 1), video_text_scale=1.0)
    return tiny_module(tiny_dit(first_late_block=2), random_audio=True, optimizer=plain, sampler=sampler)


def fit(
    rank: int,
    world: int,
    out: str,
    steps: int,
    options: dict[str, Any] | None,
    background: bool,
    go_on: tuple[Path, int] | None,
) -> None:
    """``<out>.<rank>.json`` and the checkpoint ``<out>.ckpt``; ``go_on``: from a checkpoint of so many processes."""
    settings: dict[str, Any] = {"accumulate_grad_batches": 4 // world}
    if options is not None:
        settings |= {"devices": world, "strategy": FSDP2Strategy(compute_dtype="float32", **options)}
    plugins = [BackgroundCheckpointIO() if background else AtomicCheckpointIO()]
    path, before = go_on or (None, world)
    # as the command does: a step may now be accumulated of more batches or of fewer
    losses, counts = Losses(), BatchesToAStep(4 // before, 4 // world)
    run = trainer(Path(out).parent, steps, AVSyncTrainer, plugins=plugins, callbacks=[losses, counts], **settings)
    run.fit(module(), Dealt(), ckpt_path=path)
    run.save_checkpoint(f"{out}.ckpt")
    run.strategy.checkpoint_io.teardown()
    Path(f"{out}.{rank}.json").write_text(json.dumps(losses.seen))


def seen(out: Path) -> list[list[float]]:
    """Losses of every rank."""
    return [json.loads(file.read_text()) for file in sorted(out.parent.glob(f"{out.name}.[0-9].json"))]


def assert_same(mine: Path, theirs: Path) -> None:
    first, second = (AtomicCheckpointIO().load_checkpoint(f"{path}.ckpt") for path in (mine, theirs))
    assert first["state_dict"].keys() == second["state_dict"].keys() and first["frozen"] == second["frozen"]
    for name, value in first["state_dict"].items():
        torch.testing.assert_close(value, second["state_dict"][name], atol=TOLERANCE, rtol=0, msg=name)
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (first, second)]
    assert states[0].keys() == states[1].keys() and first["global_step"] == second["global_step"]
    for index, values in states[0].items():
        for name, value in values.items():
            torch.testing.assert_close(value, states[1][index][name], atol=1e-5, rtol=1e-5)
    losses = [[loss for step in zip(*seen(path), strict=True) for loss in step] for path in (mine, theirs)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6) and losses[0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps of four batches: one (``alone1``), two (``alone2``) of one process."""
    folder = tmp_path_factory.mktemp("layouts")
    fit(0, 1, str(folder / "alone1"), 1, None, False, None)
    fit(0, 1, str(folder / "alone2"), 2, None, False, (folder / "alone1.ckpt", 1))
    return folder


def through(folder: Path, world: int, first: dict[str, Any], then: dict[str, Any]) -> None:
    """One step in one layout, the next one in another, and in both what one process does."""
    name = f"{world}_{'hybrid' if first else 'fully'}"
    run_ranks(world, fit, world, str(folder / f"{name}1"), 1, first, bool(first), None)
    assert (folder / f"{name}1.ckpt").is_dir() and not list(folder.glob(".*"))
    assert_same(folder / f"{name}1", folder / "alone1")
    run_ranks(world, fit, world, str(folder / f"{name}2"), 2, then, bool(then), (folder / f"{name}1.ckpt", world))
    assert_same(folder / f"{name}2", folder / "alone2")


def test_two_replicas_go_on_as_shards_in_the_steps_of_one_process(alone: Path):
    through(alone, 2, HYBRID, FULLY)
    fit(
        0, 1, str(alone / "back"), 2, None, False, (alone / "2_hybrid1.ckpt", 2)
    )  # a folder of replicas, by one process
    assert_same(alone / "back", alone / "alone2")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(HYBRID, FULLY), (FULLY, HYBRID)])
def test_four_processes_in_two_groups_go_on_as_four_shards_and_back(alone: Path, first: Any, then: Any):
    through(alone, 4, first, then)
    of_four = alone / f"4_{'hybrid' if first else 'fully'}1.ckpt"
    run_ranks(2, fit, 2, str(alone / "two"), 2, FULLY, False, (of_four, 4))
    assert_same(alone / "two", alone / "alone2")


def sampled(rank: int, out: str) -> None:
    """Validates with weights gathered in every step and once; both must be the same clips."""
    found = {}
    for once in (False, True):
        run = trainer(out, 1, devices=2, strategy=FSDP2Strategy(gather_once_in_sampling=once), limit_val_batches=1)
        model, clip = module(), clips(2, seed=77)
        run.validate(model, DataLoader([clip], batch_size=None), verbose=False)
        reshard(model)
        with torch.no_grad(), Collectives() as counted:
            made = model.predict_step(clip, 0)
        found[once] = counted.gathers, made.video
    (anew, first), (gathered, second) = found[False], found[True]
    units = len(model.dit.backbone.blocks) + len(model.dit.audio_layers or ()) + 1
    assert torch.equal(first, second)
    assert gathered == units and anew > 3 * units, (anew, gathered, units)


def test_a_sampling_gathers_every_unit_once_and_makes_the_same_clips(tmp_path: Path):
    run_ranks(2, sampled, str(tmp_path))


class Modes(L.Callback):
    """Whether each kind of evaluation runs in inference mode."""

    def __init__(self) -> None:
        self.seen: dict[str, bool] = {}

    def on_validation_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.seen[trainer.state.fn.value] = torch.is_inference_mode_enabled()

    on_test_start = on_predict_start = on_validation_start


def evaluated(rank: int, out: str) -> None:
    """Every command, on one process that keeps all shards, where Lightning does not know the backend as gloo."""
    model, data, modes = module(), DataLoader([clips(2, seed=77)], batch_size=None), Modes()
    for command in ("validate", "test", "predict", "fit"):
        strategy = FSDP2Strategy()
        strategy._process_group_backend = "cpu:gloo"
        run = trainer(out, 1, strategy=strategy, callbacks=[modes], limit_val_batches=1)
        options = {"return_predictions": False} if command == "predict" else {}
        getattr(run, command)(model, TinyData() if command == "fit" else data, **options)
    assert modes.seen == dict.fromkeys(("validate", "test", "predict", "fit"), False)


def test_sharded_weights_are_evaluated_outside_of_inference_mode(tmp_path: Path):
    run_ranks(1, evaluated, str(tmp_path))


class AFewTrain(BoringModel):
    """A model that leaves what fits to the strategy, of which so many tensors train."""

    def __init__(self, training: int) -> None:
        super().__init__()
        for parameter in list(self.parameters())[training:]:
            parameter.requires_grad_(False)

    def configure_model(self) -> None:
        fully_shard(self.layer, mesh=self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1, momentum=0.9)


def refused(rank: int, out: Path) -> None:
    """Fewer parameters train than did: a checkpoint that does not fit, not a number out of range."""
    for make, data in (
        (lambda first: tiny_module(tiny_dit(first_late_block=first)), TinyData()),
        (lambda first: AFewTrain(3 - first), None),
    ):
        for first in (1, 2):
            run = trainer(out, first, strategy=FSDP2Strategy(compute_dtype="float32"))
            fits = first == 1
            sentence = "does not fit this model: .*unexpected|has 2 parameters, but here 1 train"
            with nullcontext() if fits else pytest.raises(InputError, match=sentence):
                run.fit(make(first), data, ckpt_path=None if fits else out / "a.ckpt")
            if fits:
                run.save_checkpoint(out / "a.ckpt")


def test_a_checkpoint_in_which_more_trains_is_refused_in_a_sentence(tmp_path: Path):
    run_ranks(1, refused, tmp_path)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"reduce_dtype": "float16"}, "reduce_dtype is 'float16': give one of bfloat16, float32"),
        ({"frozen": "whole"}, "frozen is 'whole': give one of sharded, replicated"),
        ({"prefetch": -1}, "prefetch is -1: give 0 to leave it to PyTorch"),
        ({"replicas": 0}, "replicas is 0: give a number of groups from 1 on, or nodes"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], sentence: str):
    with pytest.raises(InputError, match=sentence):
        FSDP2Strategy(**settings)


def test_replicas_that_do_not_divide_the_processes_are_named(tmp_path: Path):
    run = trainer(tmp_path, 1, devices=4, strategy=FSDP2Strategy(replicas=3))
    with pytest.raises(InputError, match=r"replicas is 3, which does not divide the 4 processes"):
        run.strategy.setup_environment()
