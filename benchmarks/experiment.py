"""A whole experiment from its configuration, built on the meta device: shapes without weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningDataModule, LightningModule

from components.errors import InputError
from datamodules.reading.clip_data_module import ClipDataModule
from lightning_modules.command_line.cli import AVSyncCLI
from lightning_modules.command_line.config_files import with_bases
from lightning_modules.command_line.startup import import_own_modules
from lightning_modules.harmony.module import HarmonyModule
from lightning_modules.syncphony.module import SyncphonyModule


class _ShapesCLI(AVSyncCLI):
    """Builds model and data, and of the callbacks nothing but their names."""

    def instantiate_classes(self) -> None:
        self.callback_classes = [
            entry.class_path.rpartition(".")[2] for entry in vars(self.config.get("callbacks") or {}).values() if entry
        ]
        wanted = self.config.clone()
        for key in list(vars(wanted)):
            if key not in ("model", "data"):
                wanted.pop(key)
        with torch.device("meta"):
            built = self.parser.instantiate_classes(wanted)
        self.model, self.datamodule = built.model, built.data


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
    import_own_modules()
    files = [argument for config in configs for argument in ("--config", config)]
    cli = _ShapesCLI(
        args=with_bases([*files, *overrides]),
        model_class=LightningModule,
        datamodule_class=LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_callback=None,
        seed_everything_default=False,
        run=False,
        parser_kwargs={"allow_abbrev": False, "exit_on_error": False},
    )
    model, data = cli.model, cli.datamodule
    if not isinstance(model, SyncphonyModule | HarmonyModule) or not isinstance(data, ClipDataModule):
        raise InputError(
            f"{configs[-1]} is no Syncphony or Harmony experiment on clips: give one of configs/syncphony, or a stage "
            "of configs/harmony"
        )
    return model, data, cli.callback_classes
