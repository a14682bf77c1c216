"""Which checkpoint a run goes on from; all of its processes choose the same and end together where it is damaged."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from components.errors import InputError
from components.weights.pretrained import located
from lightning_modules.checkpoints.check import check_checkpoint
from lightning_modules.checkpoints.sharded import of_all_ranks, read_table

_HANDED_ON = "AVSYNC_LAST_CHECKPOINT"
"""Where a process leaves its choice to those that Lightning lets it start."""


class ChosenCheckpoint(NamedTuple):
    """What a run goes on from.

    Attributes:
        path: file or folder.
        damage: what this process alone has found wrong with its content: the others must be told (`SharedVerdict`).
    """

    path: str
    damage: str | None = None


def chosen_checkpoint(given: str, experiment: Path, to_train: bool, connects: bool = True) -> ChosenCheckpoint:
    """The checkpoint meant: a path, also of one that we ship, or ``last`` for the experiment's newest whole one.

    The content is read by the first process of a machine. Where the others run already (torchrun, ``srun``), they could
    not be told that one is passed over, or that a process is gone, until they are connected: all choose by what
    checkpoints say of themselves, and ``damage`` is for all to hear.

    Args:
        given: the value of ``ckpt_path``.
        experiment: folder of its runs.
        to_train: whether the optimizer's state is needed.
        connects: whether the processes will hear each other; otherwise each is for itself.

    Raises:
        InputError: if there is none, or it is not whole.
    """
    alone = not (connects and _others_run())
    if given != "last":
        path = given if given in ("best", "hpc") else str(located(given))
        check_checkpoint(path, content="once" if alone else "nowhere")
        return ChosenCheckpoint(path, None if alone else _damage(path))
    if not alone and _HANDED_ON in os.environ and os.environ.get("LOCAL_RANK", "0") != "0":
        return ChosenCheckpoint(os.environ[_HANDED_ON])
    path = str(newest_checkpoint(experiment, to_train, in_full=alone))
    if alone:
        os.environ[_HANDED_ON] = path
    return ChosenCheckpoint(path, None if alone else _damage(path))


class SharedVerdict(Callback):
    """Ends all processes, once they are connected, if one has found the checkpoint's content damaged.

    Args:
        damage: what this process has found.

    Raises:
        InputError: on every rank.
    """

    def __init__(self, damage: str | None) -> None:
        self.damage = damage

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before anything is loaded."""
        for damage in of_all_ranks(self.damage):
            if damage is not None:
                raise InputError(damage)


def _others_run() -> bool:
    """Whether other processes of this run have begun, by what has started them."""
    if SLURMEnvironment.detect() and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        return True
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _damage(path: str) -> str | None:
    try:
        check_checkpoint(path)
    except InputError as error:
        return str(error)
    return None


def newest_checkpoint(experiment: Path, to_train: bool, option: str = "ckpt_path", in_full: bool = True) -> Path:
    """The checkpoint that was written last in any run of an experiment and is whole.

    One with weights alone gives way to another of the same run and step that has all.

    Args:
        experiment: folder of the runs, ``<root>/<experiment>``, with ``version_*/checkpoints`` below.
        to_train: pass over those without the optimizer's state, with which no training can go on.
        option: what the user gave ``last`` as.
        in_full: read all of them, and pass over one that has lost a part of its content.

    Raises:
        InputError: if there is none; a run that began anew would look as if it went on.
    """
    # a name that begins with a dot is a part of a checkpoint, left by a process that was killed
    found = [path for path in experiment.glob("*/checkpoints/*.ckpt") if not path.name.startswith(".")]
    found = [path for path in found if path.exists()]  # a link is renewed after the file it names was replaced
    refused: list[str] = []
    # of names for one file (``last.ckpt`` may be a link) and of copies, any will do
    for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            check_checkpoint(str(path), option, "everywhere" if in_full else "nowhere")
        except InputError as error:
            refused.append(str(error))
            continue
        if _holds_optimizer(path):
            return path
        if not to_train:
            # SlimCheckpoint writes after the whole one of the same step, and rounds
            return next((one for one in _of_the_same_step(path, found, in_full) if _holds_optimizer(one)), path)
        refused.append(f"'{path}' holds weights alone")
    why = f" ({'; '.join(refused[:3])})" if refused else ""
    raise InputError(
        f"{option} is last, but no run in '{experiment}' has left a whole checkpoint to go on from{why}; leave "
        f"{option} out to begin anew, or give the path of one"
    )


def _of_the_same_step(path: Path, found: Iterable[Path], in_full: bool) -> Iterator[Path]:
    """Whole checkpoints beside a file."""
    step = None if path.is_dir() else _step_of(path)
    for other in found:
        if step is None or other.parent != path.parent or other.is_dir() or other == path:
            continue
        with contextlib.suppress(InputError, pickle.UnpicklingError):
            check_checkpoint(str(other), content="everywhere" if in_full else "nowhere")
            if _step_of(other) == step:
                yield other


def _step_of(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("global_step")


def _holds_optimizer(path: Path) -> bool:
    if path.is_dir():
        return "param_groups" in read_table(path)[0]
    try:
        return "optimizer_states" in torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:  # code, which nobody has asked to trust
        return False
