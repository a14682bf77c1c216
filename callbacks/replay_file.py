"""Files that hold one bad step of a training: its batch, its draws, the weights before it, the configuration."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer

from callbacks.bad_step import BadBatch, HeldBatch
from callbacks.ema import EMA_PREFIX
from callbacks.run_record import config_text, run_folder
from callbacks.step_again import RandomState
from components.backbones.data_place import data_place
from components.backbones.sharding import reshard, whole
from components.contracts import AudioFeatures, ClipBatch, PreparedClips, TextFeatures
from components.errors import InputError
from components.weights.whole_file import whole_file

_CLASSES = (ClipBatch, AudioFeatures, PreparedClips, TextFeatures)
"""What a file may hold beside tensors and plain values; anything else is refused when it is read."""


@dataclass(frozen=True)
class Replay:
    """A bad step.

    Attributes:
        told: what the training said of it.
        config_yaml: the configuration of the run, or None if it was not started from one.
        step: number of the optimizer step.
        epoch: number of the epoch.
        rank: the process whose batch it was.
        world_size: how many there were.
        batch_idx: of the batch, as Lightning counts.
        batch: on the CPU.
        random: where torch's generators stood before the batch.
        weights: what trains, before the step, as a checkpoint of the module has it.
    """

    told: str
    config_yaml: str | None
    step: int
    epoch: int
    rank: int
    world_size: int
    batch_idx: int
    batch: Any
    random: RandomState
    weights: dict[str, Any]

    def write(self, path: Path) -> None:
        """Writes a file that is there whole or not at all.

        Raises:
            UnpicklingError: if the batch is of a class that `read` would refuse.
        """
        record = {field.name: getattr(self, field.name) for field in fields(self)} | {"random": asdict(self.random)}
        with whole_file(path) as stream:
            torch.save(record, stream)
        try:
            _load(path)
        except pickle.UnpicklingError:
            path.unlink()
            raise

    @classmethod
    def read(cls, path: Path) -> Self:
        """The step in a file. Code in it is never run.

        Raises:
            InputError: if there is no such file, it is damaged, or it holds anything but a step.
        """
        if not path.is_file():
            raise InputError(f"replay file '{path}' does not exist; give one that a training has written")
        try:
            record = _load(path)
            return cls(**record | {"random": RandomState(**record["random"])})
        except pickle.UnpicklingError as error:
            if "GLOBAL" in str(error):
                raise InputError(
                    f"replay file '{path}' holds code, which is not run; give one that a training has written"
                ) from None
            raise InputError(f"replay file '{path}' is damaged; give another one") from None
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"'{path}' is damaged or no replay file ({' '.join(str(error).split())[:200]})") from None


def keep_for_replay(
    trainer: Trainer, module: LightningModule, bad: BadBatch, held: Sequence[HeldBatch], text: str
) -> str:
    """Keeps a bad batch in the run's folder; gives the command that replays it, or says why there is none.

    The process that had it writes; every process has to call it.
    """
    folder = run_folder(trainer)
    if folder is None:
        return "this run keeps no files to replay it from"
    config = trainer.strategy.broadcast(config_text(folder))
    mine = trainer.global_rank == bad.rank
    weights = _weights(module, mine)
    answer = ""
    if mine:
        one, place = held[bad.index], data_place(trainer)
        path = folder / "replay" / f"step{trainer.global_step}_rank{bad.rank}.pt"
        replay = Replay(
            told=text,
            config_yaml=config,
            step=trainer.global_step,
            epoch=trainer.current_epoch,
            rank=place.rank,
            world_size=place.size,
            batch_idx=one.batch_idx,
            batch=move_data_to_device(one.batch, "cpu"),
            random=one.random,
            weights=weights,
        )
        try:
            replay.write(path)
            answer = f"run it again with avsync replay {path}"
        except (pickle.PicklingError, pickle.UnpicklingError):
            answer = f"batches that are a {type(one.batch).__name__} cannot be kept to replay them"
        # a full disk, which torch may tell in its own words, must not hide what is told
        except (OSError, RuntimeError) as error:
            answer = f"'{path}' could not be written to replay it ({' '.join(str(error).split())[:100]})"
    return str(trainer.strategy.broadcast(answer, src=bad.rank))


def _weights(module: LightningModule, keep: bool) -> dict[str, Any]:
    """What a checkpoint holds of the module, without its average; empty where it is not kept."""
    reshard(module)
    chosen = getattr(module, "checkpoint_tensors", module.state_dict)()
    held: dict[str, Any] = {}
    for name, tensor in chosen.items():
        if not name.startswith(EMA_PREFIX):
            value = whole(tensor.detach())  # all ranks take part
            if keep:
                held[name] = value.cpu()
    checkpoint: dict[str, Any] = {"state_dict": held}
    if keep:
        module.on_save_checkpoint(checkpoint)
    return checkpoint


def _load(path: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals(list(_CLASSES)):
        record: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return record
