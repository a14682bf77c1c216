"""An experiment's data by the command line's settings, without its model: what ``fit`` would be given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.contracts import Modality
from components.errors import InputError
from components.media.clock import ClipShape
from datamodules.reading.ordered_data_module import OrderedDataModule
from lightning_modules.command_line.broken_runs import input_error_sentence
from lightning_modules.command_line.class_paths import found_at
from lightning_modules.command_line.cli import CLI_SETTINGS, AVSyncCLI
from lightning_modules.command_line.config_files import with_bases
from lightning_modules.command_line.frozen_parts import needed_modalities
from lightning_modules.command_line.preflight import check_clip_is_taken, check_files
from lightning_modules.command_line.prepared_experiment import cache_addresses
from lightning_modules.command_line.run_folders import experiment_folder


@dataclass(frozen=True)
class ExperimentData:
    """What a training would read.

    Attributes:
        name: of the experiment.
        folder: where its runs lie.
        class_path: of the data module.
        datamodule: prepared and set up for ``fit``.
        needs: modalities that the model cannot do without.
        takes_sounds_alone: beside sets with pictures, the model also trains on sets without.
        validates: whether it validates at all.
    """

    name: str
    folder: Path
    class_path: str
    datamodule: OrderedDataModule
    needs: tuple[Modality, ...]
    takes_sounds_alone: bool
    validates: bool

    @property
    def clip(self) -> ClipShape:
        """What every clip looks like."""
        return self.datamodule.clip


class _DataCLI(AVSyncCLI):
    """Reads the settings of ``fit`` and builds the data alone."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(args, **CLI_SETTINGS)

    def before_instantiate_classes(self) -> None:
        """Looks at what the data need; the model's weights need not be there."""
        config = self.config["fit"]
        check_clip_is_taken(config.data, config.get("clip"))
        config.experiment = self.experiment = self._experiment()
        kind = found_at(config.data.class_path)
        if not (isinstance(kind, type) and issubclass(kind, OrderedDataModule)):
            raise InputError(
                f"avsync doctor looks at lists of recordings, and {config.data.class_path} is no ClipDataModule; "
                "derive it from datamodules.reading.clip_data_module.ClipDataModule"
            )
        if addresses := cache_addresses(config.data):
            raise InputError(
                f"avsync doctor looks at recordings, and data.latents is {addresses[0]}, whose clips are encoded "
                "already; set --data.latents null (of a mixture, those of its sets)"
            )
        check_files({"data": config.as_dict()["data"]})
        self.folder = experiment_folder(config.trainer, self.experiment)

    def instantiate_classes(self) -> None:
        """The section ``data``, and what is linked into it."""
        wanted = self.config["fit"].clone()
        for key in set(vars(wanted)) - {"data"}:
            wanted.pop(key)
        self.datamodule = self._parser("fit").instantiate_classes(wanted).data

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing: what was built is asked for."""


def experiment_data(args: Sequence[str]) -> ExperimentData:
    """The data of the experiment that options of ``fit`` describe, listed as a training would list them.

    Raises:
        InputError: if the options cannot be used, or the data cannot be listed.
    """
    try:
        cli = _DataCLI(with_bases(["fit", *args]))
    except Exception as error:
        sentence = input_error_sentence(error)
        if sentence is None:
            raise
        raise InputError(sentence) from error
    section, model = cli.config["fit"].data, cli.config["fit"].model
    needs = needed_modalities(model.as_dict())
    takes_sounds_alone = "audio" in needs and getattr(found_at(model.class_path), "takes_sounds_alone", False)
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    validates = cli.config["fit"].trainer.get("limit_val_batches") != 0
    return ExperimentData(
        cli.experiment, cli.folder, section.class_path, cli.datamodule, needs, takes_sounds_alone, validates
    )
