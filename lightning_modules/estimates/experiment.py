"""A whole experiment from its configuration, built on the meta device: shapes without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import Namespace

from components.errors import InputError
from datamodules.reading.ordered_data_module import OrderedDataModule
from lightning_modules.command_line.broken_runs import input_error_sentence
from lightning_modules.command_line.config_files import with_bases
from lightning_modules.experiment import ModelAndDataCLI
from lightning_modules.harmony.module import HarmonyModule
from lightning_modules.syncphony.module import SyncphonyModule

Module = SyncphonyModule | HarmonyModule


@dataclass(frozen=True)
class MetaExperiment:
    """Model and data on the meta device, and what the configuration says of the run around them.

    Attributes:
        module: the model.
        data: not prepared and not set up.
        trainer: section ``trainer``.
        callbacks: class name -> arguments, of the callbacks that the configuration names.
    """

    module: Module
    data: OrderedDataModule
    trainer: Mapping[str, Any]
    callbacks: Mapping[str, Mapping[str, Any]]


class _ShapesCLI(ModelAndDataCLI):
    """Builds model and data on the meta device, and nothing else."""

    def before_instantiate_classes(self) -> None:
        with torch.device("meta"):  # weights need not be there
            super().before_instantiate_classes()

    def instantiate_classes(self) -> None:
        self.trainer_section = _plain(self.config.get("trainer"))
        listed = vars(self.config.get("callbacks") or Namespace()).values()  # type: ignore[no-untyped-call]
        self.callback_sections = {
            entry.class_path.rpartition(".")[2]: _plain(entry.get("init_args")) for entry in listed if entry
        }
        with torch.device("meta"):
            super().instantiate_classes()


def meta_experiment(options: Sequence[str]) -> MetaExperiment:
    """The experiment that options of ``avsync fit`` describe.

    Raises:
        InputError: if they cannot be used, or describe neither a Syncphony nor a Harmony experiment on clips.
    """
    try:
        cli = _ShapesCLI(with_bases(options))
    except Exception as error:
        sentence = input_error_sentence(error)
        if sentence is None:
            raise
        raise InputError(sentence) from error
    model, data = cli.model, cli.datamodule
    if not isinstance(model, SyncphonyModule | HarmonyModule) or not isinstance(data, OrderedDataModule):
        raise InputError(
            f"{type(model).__name__} with {type(data).__name__} is no Syncphony or Harmony experiment on clips: give "
            "one of configs/syncphony, or a stage of configs/harmony"
        )
    return MetaExperiment(model, data, cli.trainer_section, cli.callback_sections)


def _plain(section: Any) -> dict[str, Any]:
    return section.as_dict() if isinstance(section, Namespace) else dict(section or {})
