"""A whole experiment from its configuration, built on the meta device: shapes without weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from components.errors import InputError
from datamodules.reading.clip_data_module import ClipDataModule
from lightning_modules.command_line.config_files import with_bases
from lightning_modules.experiment import ModelAndDataCLI
from lightning_modules.harmony.module import HarmonyModule
from lightning_modules.syncphony.module import SyncphonyModule


class _ShapesCLI(ModelAndDataCLI):
    """Builds model and data on the meta device, and of the callbacks nothing but their names."""

    def before_instantiate_classes(self) -> None:
        with torch.device("meta"):  # weights need not be there
            super().before_instantiate_classes()

    def instantiate_classes(self) -> None:
        self.callback_classes = [
            entry.class_path.rpartition(".")[2] for entry in vars(self.config.get("callbacks") or {}).values() if entry
        ]
        with torch.device("meta"):
            super().instantiate_classes()


def experiment_on_meta(
    configs: Sequence[str], overrides: Sequence[str] = ()
) -> tuple[SyncphonyModule | HarmonyModule, ClipDataModule, list[str]]:
    """Model, data module and the class names of the callbacks of an experiment.

    Args:
        configs: configuration files, later ones win.
        overrides: further options of the command line.

    Raises:
        InputError: if the configuration describes neither a Syncphony nor a Harmony experiment on clips.
    """
    files = [argument for config in configs for argument in ("--config", config)]
    cli = _ShapesCLI(with_bases([*files, *overrides]))
    model, data = cli.model, cli.datamodule
    if not isinstance(model, SyncphonyModule | HarmonyModule) or not isinstance(data, ClipDataModule):
        raise InputError(
            f"{configs[-1]} is no Syncphony or Harmony experiment on clips: give one of configs/syncphony, or a stage "
            "of configs/harmony"
        )
    return model, data, cli.callback_classes
