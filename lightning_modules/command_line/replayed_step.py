"""Builds the experiment of a replay file without its data and callbacks, and runs the step in it."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.bad_step import HeldBatch, clips_of
from callbacks.replay_file import Replay
from callbacks.step_again import run_again
from components.errors import InputError
from lightning_modules.command_line.broken_runs import input_error_sentence
from lightning_modules.command_line.cli import CLI_SETTINGS, AVSyncCLI
from lightning_modules.command_line.startup import import_own_modules, keep_console_clear

_OF_PROCESSES = ("context_parallel_size", "replicas")
"""Settings of a strategy that group processes."""
_OF_NUMBERS = ("accelerator", "strategy", "precision", "plugins", "deterministic", "benchmark")
"""Settings of the trainer on which the numbers of a step depend."""
_ONE_STEP = {"devices": 1, "num_nodes": 1, "max_epochs": 1, "limit_val_batches": 0}
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n\s*(.*)')
_NO_DATA = {"class_path": "lightning.pytorch.LightningDataModule"}


@dataclass(frozen=True)
class Found:
    """What a replay finds.

    Attributes:
        told: what the training said.
        clips: the batch's clips, with what is drawn for each.
        loss: of the batch.
        bad: names of the gradients that are not finite.
        num_gradients: how many gradients there are.
        operation: the operation that anomaly detection names, and where it was called; None if it names none.
    """

    told: str
    clips: Sequence[str]
    loss: float
    bad: Sequence[str]
    num_gradients: int
    operation: str | None


def replayed(path: Path, options: Sequence[str] = ()) -> Found:
    """Runs the step in a file.

    Args:
        path: of the file.
        options: of ``avsync fit``, after those in the file.

    Raises:
        InputError: if the file cannot be read or has no configuration, or its experiment cannot be built here.
    """
    keep_console_clear()
    import_own_modules()
    replay = Replay.read(path)
    if replay.config_yaml is None:
        raise InputError(
            f"replay file '{path}' holds no configuration, because its training was not started by avsync fit; run "
            "callbacks.replay_file.Replay.read(...).batch through the model where that is built"
        )
    run = _ReplayRun(replay)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(_configuration(replay, folder), encoding="utf-8")
        try:
            _ReplayCLI(run, args=["fit", "--config", str(config), *options], **CLI_SETTINGS)
        except _Replayed as done:
            return done.found
        except Exception as error:
            if (sentence := input_error_sentence(error)) is None:
                raise
            raise InputError(sentence.replace(str(config), f"the configuration in '{path}'")) from error
    raise AssertionError("the trainer has ended before the step")


class _Replayed(BaseException):
    """The step has run: nothing else of a training is wanted."""

    def __init__(self, found: Found) -> None:
        super().__init__()
        self.found = found


class _ReplayRun(Callback):
    """Runs the step once model and processes are set up, before any data are read."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts everything where it was and runs the batch twice: as it was, and under anomaly detection."""
        replay = self.replay
        pl_module.on_load_checkpoint(replay.weights)
        trainer.strategy.load_model_state_dict(replay.weights, strict=pl_module.strict_loading)
        # a module may ask how far the training is
        loop = trainer.fit_loop
        loop.epoch_progress.current.completed = replay.epoch
        loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = replay.step
        loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = replay.step
        pl_module.train()
        batch = move_data_to_device(replay.batch, pl_module.device)
        loss, gradients = run_again(trainer, pl_module, batch, replay.batch_idx, replay.random)
        clips = clips_of(pl_module, HeldBatch(batch, replay.batch_idx, replay.random))
        operation = _anomaly(trainer, pl_module, replay, batch)
        raise _Replayed(Found(replay.told, clips, loss, gradients.bad(), len(gradients.sound), operation))


class _ReplayCLI(AVSyncCLI):
    """Builds model and trainer as ``avsync fit`` does, and runs a step in place of the training."""

    def __init__(self, run: _ReplayRun, **kwargs: Any) -> None:
        self._run = run
        super().__init__(**kwargs)

    def before_instantiate_classes(self) -> None:
        """The settings were looked at when the training began; here most of them are left out."""

    def _has_run_folder(self) -> bool:
        return False

    def _run_subcommand(self, subcommand: str) -> None:
        self.trainer.callbacks.append(self._run)  # type: ignore[attr-defined]
        self.trainer.fit(self.model, train_dataloaders=[self._run.replay.batch])


def _configuration(replay: Replay, folder: str) -> str:
    """Of a saved configuration what the step's numbers depend on; whatever is written goes to ``folder``."""
    content = yaml.safe_load(str(replay.config_yaml))
    kept = {key: value for key, value in content["trainer"].items() if key in _OF_NUMBERS}
    if isinstance(strategy := kept.get("strategy"), dict):
        # one process has all weights, and all tokens of the clips
        given = {key: value for key, value in (strategy.get("init_args") or {}).items() if key not in _OF_PROCESSES}
        kept["strategy"] = {**strategy, "init_args": given}
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    # of a step: a batch may be too small by itself
    batches = content["trainer"].get("accumulate_grad_batches", 1) * replay.world_size
    chosen = {
        "seed_everything": content.get("seed_everything", False),
        "model": content["model"],
        "data": _NO_DATA,
        "trainer": {**kept, **quiet, **_ONE_STEP, "accumulate_grad_batches": batches, "default_root_dir": folder},
    }
    text: str = yaml.safe_dump(chosen, sort_keys=False)
    return text


def _anomaly(trainer: Trainer, module: LightningModule, replay: Replay, batch: Any) -> str | None:
    """The backward operation that gives the first nan, and the line that had called its forward."""
    with warnings.catch_warnings(record=True) as warned, torch.autograd.detect_anomaly():
        warnings.simplefilter("always")
        try:
            run_again(trainer, module, batch, replay.batch_idx, replay.random)
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            told = " ".join(str(error).split())
        else:
            return None
    frames = [frame for one in warned for frame in _FRAME.findall(str(one.message))]
    own = [frame for frame in frames if "site-packages" not in frame[0]] or frames
    if not own:
        return told
    file, line, function, code = own[-1]
    return f"{told} It was called in {file}, line {line}, in {function}: {code}"
