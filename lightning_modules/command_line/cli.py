"""The command line ``avsync``: one LightningCLI for every model and every data set."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.clip_files import ClipFiles
from callbacks.failures import TRACEBACKS, collect_failures
from callbacks.graceful_stop import STOPPED_CHECKPOINT, GracefulStop, RunStopped
from callbacks.logger_guard import LoggerGuard
from callbacks.nan_guard import NaNGuard
from callbacks.rank_roll import RankRoll
from callbacks.results import ResultsWriter
from callbacks.superseded import RemoveSuperseded
from components.errors import InputError
from components.media.clock import ClipShape
from components.weights.whole_folder import check_target
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.check import checkpoint_error_sentence
from lightning_modules.checkpoints.chosen import ChosenCheckpoint, SharedVerdict, chosen_checkpoint
from lightning_modules.checkpoints.resume import BatchesToAStep, ConfiguredRates
from lightning_modules.command_line.broken_runs import (
    EvaluationFailed,
    RunBroken,
    broken_run_sentence,
    input_error_sentence,
)
from lightning_modules.command_line.changed_settings import (
    ACCUMULATED,
    OPTIMIZER,
    SCHEDULE,
    Change,
    below,
    changes_since,
)
from lightning_modules.command_line.class_paths import class_path_sentence
from lightning_modules.command_line.config_errors import parse_error_sentence
from lightning_modules.command_line.config_files import (
    all_removed,
    callback_names,
    moved_to_clip,
    refuse_clips_of_data,
    refuse_removal_of_nothing,
    with_bases,
)
from lightning_modules.command_line.extra_commands import extra_help, run_extra
from lightning_modules.command_line.moved import old_metric
from lightning_modules.command_line.nulls import parse_with_nulls
from lightning_modules.command_line.preflight import check_clip_is_taken, check_settings
from lightning_modules.command_line.prepared_experiment import PreparedExperiment, prepared_experiment
from lightning_modules.command_line.run_folders import (
    experiment_folder,
    given_version,
    name_loggers,
    new_run_folder,
    refuse_unwritable_checkpoints,
    version_of,
)
from lightning_modules.command_line.startup import import_own_modules, keep_console_clear
from lightning_modules.command_line.tracebacks import keep_tracebacks_in, tracebacks_kept
from lightning_modules.command_line.trainer import AVSyncTrainer

_OF_ONE_COMMAND = ("verbose", "return_predictions")
"""Arguments of a command that no configuration of ours uses and other commands do not know."""
AS_BUILT = "pretrained"
"""As ``ckpt_path``: no checkpoint, but the weights that the configuration builds the model with."""


class ConfigInCheckpoint(SaveConfigCallback):
    """Saves the configuration in the run folder, with every logger and, as text, in every checkpoint.

    What is saved is for any command, in any folder.

    Args:
        parser: writes it.
        config: of the command that runs.
        **kwargs: see ``SaveConfigCallback``.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        super().__init__(parser, config.clone(), **kwargs)
        for name in _OF_ONE_COMMAND:
            self.config.pop(name, None)
        # a callback that was removed is not there: a file that removes what no other has would be refused
        callbacks = self.config.get("callbacks")
        for name in [name for name, callback in vars(callbacks).items() if callback is None] if callbacks else []:
            callbacks.pop(name)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the loggers every value under its dotted key. Called on rank 0 alone."""
        values = yaml.safe_load(self._text)
        for logger in trainer.loggers:
            logger.log_hyperparams(values)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds ``config_yaml``."""
        checkpoint["config_yaml"] = self._text

    @cached_property
    def _text(self) -> str:
        """The configuration, which stays as it is while the command runs; the parser takes long to write it."""
        # ``skip_none=False``: a null that was given must still say so
        return str(self.parser.dump(self.config, skip_none=False))


class AVSyncCLI(LightningCLI):
    """Runs ``fit``, ``validate``, ``test``, ``predict`` and ``export`` as the configuration says.

    Everything a run writes goes into ``runs/<experiment>``.

    Beside ``trainer.callbacks``, a list that later files replace as a whole, a configuration may have ``callbacks``: a
    name for each, so that a later file or an option changes one setting of one callback, or removes it with ``null``
    (``--callbacks null`` removes all that files name). Ours name theirs, so a list adds to them.

    Args:
        args: the command line, with bases expanded.
        **kwargs: see ``LightningCLI``.
    """

    def __init__(self, args: list[str], **kwargs: Any) -> None:
        args = all_removed(args)
        # before the parser: it would take both places and keep one in silence
        refuse_clips_of_data(args)
        refuse_removal_of_nothing(args)
        self._callback_names = callback_names(args)
        self._run_folder: Path | None = None
        self._checkpoint: ChosenCheckpoint | None = None
        self._goes_on_from: Path | None = None
        self._changes: list[Change] = []
        self._callbacks: list[Callback] = []
        self._prepared: PreparedExperiment | None = None
        self._asked = args[0] if args and args[0] in self.subcommands() else None
        super().__init__(args=args, **kwargs)

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """Builds the parser; its help also names the commands that run no experiment."""
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        self.parser.epilog = extra_help()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the name of the experiment, the files it builds on and the named callbacks."""
        text = "Folder of the run below trainer.default_root_dir (default: the last config file's name)."
        parser.add_argument("--experiment", type=str | None, default=None, help=text)
        text = "Configuration files this one builds on, relative to it; only read inside a file."
        parser.add_argument("--base", type=str | list[str] | None, default=None, help=text)
        for name in self._callback_names:
            text = "A callback beside those of trainer.callbacks; null removes it."
            parser.add_argument(f"--callbacks.{name}", type=Callback | None, default=None, help=text)
        text = "What every clip of the experiment looks like (default: what the data set says)."
        parser.add_argument("--clip", type=ClipShape | None, default=None, help=text)
        # overwrites what the data section says, hence `refuse_clips_of_data`
        parser.link_arguments("clip", "data.init_args.clip")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, and ``export``."""
        return {**LightningCLI.subcommands(), "export": {"model", "datamodule"}}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Callbacks print results and write predictions: by default the trainer neither repeats nor keeps them."""
        if self._asked not in (None, subcommand):
            return self.init_parser(**kwargs)  # known by its name, which is all that is needed of it
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        arguments = inspect.signature(getattr(klass, subcommand)).parameters
        parser.set_defaults({name: False for name in _OF_ONE_COMMAND if name in arguments})
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses; complains in one sentence instead of pages of usage."""
        try:
            self.config = parse_with_nulls(parser, args)
        except Exception as error:  # a module of the user's may raise anything while the parser imports it
            if sentence := class_path_sentence(args):
                raise InputError(sentence) from None
            if not isinstance(error, argparse.ArgumentError):
                raise
            raise InputError(moved_to_clip(parse_error_sentence(str(error), args))) from None

    # Lightning would load the whole checkpoint on every rank for its hyperparameters, and let them win
    def _parse_ckpt_path(self) -> None:
        """The configuration decides: hyperparameters stored in a checkpoint never override it."""

    def before_instantiate_classes(self) -> None:
        """Looks at settings, files and checkpoint before anything slow happens."""
        # a saved configuration is called config.yaml, whatever it is of
        self.config.get(str(self.subcommand), self.config).experiment = self._experiment()
        if found := old_metric(self.config.as_dict()):
            key, old, new = found
            raise InputError(
                f"{key.partition('.')[2]} names the metric '{old}', which is called '{new}' in the log as in "
                f"results.json: write {new}"
            )
        data = self._chosen(self.config, "data")
        check_clip_is_taken(data, self._chosen(self.config, "clip"))
        # now, not after minutes of building models
        if self.subcommand == "fit":
            self._prepared = prepared_experiment(self._chosen(self.config, "model"), data)
        if self.subcommand is not None:
            check_settings(self.subcommand, self.config[self.subcommand].as_dict())
        if self.subcommand == "export":
            check_target(Path(self._chosen(self.config, "folder")))
        ckpt_path = self._chosen(self.config, "ckpt_path")
        if self.subcommand == "predict" and not ckpt_path:
            raise InputError(
                "ckpt_path is not given, so that what is trained would be random: give a .ckpt file or last, or "
                f"{AS_BUILT} to predict with the weights that the configuration itself names"
            )
        if ckpt_path and not self._as_built(ckpt_path):
            folder = experiment_folder(self._chosen(self.config, "trainer"), self._experiment())
            # Lightning's own ``last`` looks into the new run's folder, which is empty, and starts anew
            self._checkpoint = chosen_checkpoint(
                str(ckpt_path), folder, to_train=self.subcommand == "fit", connects=self.subcommand != "export"
            )
            self.config[str(self.subcommand)]["ckpt_path"] = path = self._checkpoint.path
            if self.subcommand == "fit" and ckpt_path == "last" and Path(path).name == STOPPED_CHECKPOINT:
                self._goes_on_from = Path(path)
            if self.subcommand == "fit" and Path(path).exists():
                parser = self._parser(self.subcommand)
                now = parser.dump(self.config[self.subcommand], skip_none=False)
                self._changes = changes_since(path, yaml.safe_load(now))

    def instantiate_classes(self) -> None:
        """Builds everything; the run's folder is made before that, and removed if nothing came of it.

        What a model draws follows the experiment's seed where it was given none of its own.
        """
        self._given = self.config
        self.config = self.config.clone()  # what is saved stays as it was given
        trainer = self._chosen(self.config, "trainer")
        if self._has_run_folder():
            named = self._chosen(self.config, "callbacks") or {}
            refuse_unwritable_checkpoints([*_listed(trainer.callbacks), *(vars(named).values() if named else [])])
            runs = experiment_folder(trainer, self._experiment())
            # None on other ranks, which are told by the first
            self._run_folder = rank_zero_only(new_run_folder)(runs, given_version(trainer))
        if self._run_folder is not None:
            name_loggers(self._chosen(self.config, "trainer"), self._experiment(), self._run_folder)
            keep_tracebacks_in(self._run_folder)
        try:
            if self._prepared is not None:
                self._prepared.leave_unloaded(self._chosen(self.config, "model"))
            self._callbacks = self._build_callbacks()
            super().instantiate_classes()
        except BaseException:
            if self._run_folder is not None:
                with contextlib.suppress(OSError):  # not empty: an earlier run's, or another process is at work
                    self._run_folder.rmdir()
            raise
        seed = self._chosen(self.config, "seed_everything")
        # it is False where nothing is to be seeded
        if seed is not False and (follow_seed := getattr(self.model, "follow_seed", None)) is not None:
            follow_seed(seed)

    def _build_callbacks(self) -> list[Callback]:
        """Those of ``trainer.callbacks`` and the named ones, taken out of the configuration.

        Before the model, so that a judge that is not there is found before anything slow; what judges draw is not taken
        from the numbers that the model begins with, which would change with every callback.
        """
        chosen, asked = self.config.get(str(self.subcommand), self.config), Namespace()  # type: ignore[no-untyped-call]
        for key in ("trainer.callbacks", "callbacks"):
            if (found := chosen.pop(key, None)) is not None:
                asked[key] = found
        with torch.random.fork_rng(devices=[]):
            built = self._parser(self.subcommand).instantiate_classes(asked)
        named = vars(built.callbacks).values() if "callbacks" in built else []
        return [*_listed(built.get("trainer.callbacks")), *(callback for callback in named if callback is not None)]

    def _as_built(self, ckpt_path: object) -> bool:
        """Whether the weights that the configuration builds the model with are asked for instead of a checkpoint."""
        return ckpt_path == AS_BUILT and self.subcommand != "fit"

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """A word of ours for Lightning's own; the saved configuration keeps it."""
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        if self._as_built(arguments.get("ckpt_path")):
            arguments["ckpt_path"] = None
        return arguments

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds what every run has: a folder, whole checkpoints, bars that nest, guards, the results."""
        self.config = self._given
        config = self._chosen(self.config_init, "trainer")
        # Lightning counts batches here and steps everywhere else; a float is a share of an epoch in either unit
        if isinstance(config.val_check_interval, int):
            kwargs["val_check_interval"] = config.val_check_interval * config.accumulate_grad_batches
        callbacks, plugins = list(self._callbacks), _listed(config.plugins)
        # a user's own way of writing checkpoints stays
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        if below(self._changes, OPTIMIZER, SCHEDULE):
            callbacks.append(ConfiguredRates(keep_reduced_rate=not below(self._changes, f"{OPTIMIZER}.lr")))
        callbacks += [BatchesToAStep(change.before, change.now) for change in below(self._changes, ACCUMULATED)]
        bar = [] if config.enable_progress_bar is False else [(ProgressBar, TQDMProgressBar)]
        for kind, default in [
            *bar,
            *((kind, kind) for kind in (RankRoll, NaNGuard, GracefulStop, LoggerGuard, ResultsWriter)),
        ]:
            if not any(isinstance(callback, kind) for callback in callbacks):
                callbacks.append(default())
        # what files hold is judged; after all others, what they do to gradients is looked at too
        callbacks.sort(key=lambda callback: (not isinstance(callback, ClipFiles), isinstance(callback, NaNGuard)))
        if self._checkpoint is not None:
            callbacks.append(SharedVerdict(self._checkpoint.damage))
        if self._goes_on_from is not None:
            callbacks.append(RemoveSuperseded(self._goes_on_from))
        if config.logger in (None, True):
            version = None if self._run_folder is None else version_of(self._run_folder)
            kwargs["logger"] = TensorBoardLogger(
                config.default_root_dir, self._experiment(), version, default_hp_metric=False
            )
        try:
            trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        except (ValueError, TypeError) as error:
            raise InputError(f"trainer: {' '.join(str(error).split())}") from error
        if self._has_run_folder() and isinstance(trainer, AVSyncTrainer):
            trainer.write_into(self._run_folder)
        return trainer

    def _has_run_folder(self) -> bool:
        return self.subcommand in LightningCLI.subcommands() and not self._chosen(self.config, "trainer").fast_dev_run

    def _experiment(self) -> str:
        """The experiment's name: what it was given, or that of the last configuration file that says what to run."""
        files = [Path(str(file)) for file in self._chosen(self.config, "config") or []]
        files = [file for file in files if file.parent.name != "trainer"] or files  # say where to run, not what
        return self._chosen(self.config, "experiment") or (files[-1].stem if files else "avsync")

    def _chosen(self, config: Namespace, key: str) -> Any:
        """What the configuration of the subcommand (the only one, if none is run) says of ``key``, None if nothing."""
        return config.get(str(self.subcommand), config).get(key)

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs; a checkpoint that does not fit is named together with its keys."""
        try:
            super()._run_subcommand(subcommand)
            # a training is whole without its watchers; an evaluation is nothing else
            if subcommand in ("validate", "test") and (failures := collect_failures(self.trainer)):
                raise EvaluationFailed(subcommand, failures)
        except Exception as error:
            if self.trainer.progress_bar_callback is not None:
                sys.stderr.write("\n")  # the bar's line has no end yet
            ckpt_path = self._chosen(self.config, "ckpt_path")
            if ckpt_path and (sentence := checkpoint_error_sentence(error, str(ckpt_path))):
                raise InputError(sentence) from error
            callbacks: Sequence[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
            roll = next(callback for callback in callbacks if isinstance(callback, RankRoll))
            if input_error_sentence(error) is None and (sentence := broken_run_sentence(error, roll.lost)):
                raise RunBroken(sentence) from error
            raise


def _listed(given: Any) -> list[Any]:
    """One, several or none as a list."""
    return list(given) if isinstance(given, list | tuple) else [] if given is None else [given]


CLI_SETTINGS: dict[str, Any] = {
    "model_class": LightningModule,
    "datamodule_class": LightningDataModule,
    "trainer_class": AVSyncTrainer,
    "subclass_mode_model": True,
    "subclass_mode_data": True,
    "auto_configure_optimizers": False,
    # our data modules deal clips to the ranks themselves
    "trainer_defaults": {"default_root_dir": "runs", "use_distributed_sampler": False},
    "parser_kwargs": {"allow_abbrev": False, "exit_on_error": False},
    "save_config_callback": ConfigInCheckpoint,
    "save_config_kwargs": {"overwrite": True},
}
"""How a command that runs an experiment builds it."""


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    1 for an evaluation of which a part failed and for a run that the machine has ended, 2 for bad input, 75 for a
    training that was told to stop and has written its checkpoint, 130 or 143 for anything else that was interrupted or
    terminated.
    """
    given = sys.argv[1:] if args is None else args
    if (status := run_extra(given)) is not None:
        return status
    keep_console_clear()
    import_own_modules()
    with tracebacks_kept():
        return run_experiment(given)


def run_experiment(args: Sequence[str], kind: type[AVSyncCLI] = AVSyncCLI) -> int:
    """Runs a command that runs an experiment; says in one sentence what went wrong, and returns as `main` does."""
    try:
        kind(args=with_bases(args), **CLI_SETTINGS)
    except RunStopped as stopped:
        return stopped.status
    except SIGTERMException:
        return 143
    except KeyboardInterrupt:  # before or after the trainer, which itself turns it into status 1
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except (EvaluationFailed, RunBroken) as failed:
        if isinstance(failed, RunBroken):  # the tracebacks of what failed in an evaluation are kept already
            TRACEBACKS.error(str(failed), exc_info=failed)
        sys.stderr.write(f"error: {failed}\n")
        return 1
    except Exception as error:
        if (sentence := input_error_sentence(error)) is None:
            raise
        TRACEBACKS.error(sentence, exc_info=error)
        sys.stderr.write(f"error: {sentence}\n")
        return 2
    return 0
