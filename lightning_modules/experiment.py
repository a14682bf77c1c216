"""A trained experiment in one call from Python: model and data out of a checkpoint, without a trainer."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.seed import isolate_rng

from components.errors import InputError
from components.weights.pretrained import located
from lightning_modules.checkpoints.check import checkpoint_error_sentence
from lightning_modules.checkpoints.loading import load_weights, open_checkpoint
from lightning_modules.command_line.broken_runs import input_error_sentence
from lightning_modules.command_line.cli import CLI_SETTINGS, AVSyncCLI
from lightning_modules.command_line.config_files import with_bases
from lightning_modules.command_line.startup import import_own_modules

_SECTIONS = ("model", "data", "clip")
_OPTION = "checkpoint"
_SEED = "seed_everything"
_SEEDS = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")  # where Lightning notes a seed


@dataclass(frozen=True)
class Experiment:
    """What a checkpoint was trained as.

    Attributes:
        module: the model with its weights, in evaluation mode and on the CPU.
        datamodule: the data, not prepared and not set up.
        config: the sections ``model``, ``data`` and ``clip`` they were built from.
    """

    module: LightningModule
    datamodule: LightningDataModule
    config: dict[str, Any]


class ModelAndDataCLI(AVSyncCLI):
    """Builds model and data alone, neither callbacks nor trainer."""

    def __init__(self, args: Sequence[str]) -> None:
        import_own_modules()
        # neither run nor saved: nothing about a trainer is known here
        settings = {**CLI_SETTINGS, "save_config_callback": None, "trainer_defaults": None}
        super().__init__(list(args), **settings, seed_everything_default=False, run=False)

    def instantiate_classes(self) -> None:
        """Of the whole configuration these two sections, and what is linked into them."""
        wanted = self.config.clone()
        for key in set(vars(wanted)) - {"model", "data"}:
            wanted.pop(key)
        built = self.parser.instantiate_classes(wanted)
        self.model, self.datamodule = built.model, built.data


def load_experiment(
    checkpoint: str | Path,
    *overrides: str | Mapping[str, object],
    config: str | Path | None = None,
    averaged: bool = True,
) -> Experiment:
    """Model and data of a checkpoint that ``avsync fit`` has written, whole or slim; the weights are loaded.

    Args:
        checkpoint: a file, or a folder of shards; one that is shipped is found from any folder.
        overrides: changes to the configuration in it: options as on the command line (``"--data.num_test=8"``), or
            mappings of keys to values (``{"data.num_test": 8}``); of model, data and clips, for nothing else is built.
        config: the configuration file, in place of the one that the checkpoint holds.
        averaged: take the moving average of the weights, which validation judged, where the checkpoint has one.

    Raises:
        InputError: if the checkpoint is missing or damaged, holds no configuration, or does not fit the model; or if
            the configuration or a change to it cannot be used.
    """
    path = str(located(checkpoint))
    options = _options(overrides)
    stored = open_checkpoint(path, _OPTION)
    if config is not None:
        cli = _built(["--config", str(config), *options])
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "config.yaml"
            file.write_text(_sections_of(stored, path), encoding="utf-8")
            cli = _built(["--config", str(file), *options], {str(file): f"the configuration in '{path}'"})
    module, datamodule = cli.model, cli.datamodule
    try:
        load_weights(module, stored, averaged)
    except RuntimeError as error:
        sentence = checkpoint_error_sentence(error, path, _OPTION)
        if sentence is None:
            raise
        raise InputError(sentence) from None
    return Experiment(module.eval(), datamodule, _sections(cli.config.as_dict()))


def _options(overrides: Sequence[str | Mapping[str, object]]) -> list[str]:
    """Changes to a configuration as arguments of the command line."""
    options: list[str] = []
    for given in overrides:
        if isinstance(given, str):
            options.append(given)
        else:
            options += [f"--{key.removeprefix('--')}={_as_text(value)}" for key, value in given.items()]
    for option in options:
        name, equals, _ = option.partition("=")
        if not equals or not name.startswith("--") or name[2:].partition(".")[0] not in _SECTIONS:
            raise InputError(
                f"load_experiment builds a model and its data and takes options of {', '.join(_SECTIONS)} such as "
                f"--data.num_test=8, but was given {option!r}; correct it"
            )
    return options


def _as_text(value: object) -> str:
    """As the command line would be given it: words without quotes, everything else as JSON, which is YAML."""
    return str(value) if isinstance(value, str | Path) else json.dumps(value, default=str)


def _sections_of(stored: Mapping[str, Any], path: str) -> str:
    """The sections that are needed of the configuration in a checkpoint."""
    held = stored.get("config_yaml")
    content = yaml.safe_load(held) if isinstance(held, str) else None
    if not isinstance(content, dict):
        raise InputError(
            f"{_OPTION}: '{path}' holds no configuration; name the file it was trained with, such as "
            "config='configs/quickstart.yaml'"
        )
    text: str = yaml.safe_dump(_sections(content) | {_SEED: content.get(_SEED, False)}, sort_keys=False)
    return text


def _sections(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: content[key] for key in _SECTIONS if content.get(key) is not None}


@contextmanager
def _seeds_kept() -> Iterator[None]:
    """Parts that no file holds are drawn as in the run; afterwards the caller's random numbers go on as they would."""
    before = {name: os.environ.get(name) for name in _SEEDS}
    try:
        with isolate_rng():
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _built(args: Sequence[str], names: Mapping[str, str] = MappingProxyType({})) -> ModelAndDataCLI:
    """The parts that the arguments describe; errors call a file as ``names`` says."""
    try:
        with _seeds_kept(), warnings.catch_warnings():  # a program has arguments of its own
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            return ModelAndDataCLI(with_bases(args))
    except Exception as error:
        sentence = input_error_sentence(error)
        if sentence is None:
            raise
        for file, name in names.items():
            sentence = sentence.replace(file, name)
        raise InputError(sentence) from error
