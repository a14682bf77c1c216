"""What ``avsync prepare`` does with an experiment: data and frozen parts of it, and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from components.contracts import VideoCodec
from components.errors import InputError
from components.weights.identity import identity_of, recorded_identity
from datamodules.mixture import Mixture
from datamodules.prepared.store import Plan, Store
from datamodules.reading.clip_data_module import ClipDataModule
from datamodules.reading.clip_facts import facts_of_clips
from lightning_modules.command_line.broken_runs import input_error_sentence
from lightning_modules.command_line.cli import CLI_SETTINGS, AVSyncCLI
from lightning_modules.command_line.config_files import with_bases
from lightning_modules.command_line.frozen_parts import (
    built,
    encoded_sections,
    facts_of_part,
    frozen_sections,
    roles_of,
)
from lightning_modules.command_line.startup import import_own_modules
from lightning_modules.preparation.clip_encoder import ClipEncoder
from lightning_modules.preparation.preparation import Preparation

DEFAULT_OFFSETS = 4


class _PreparationCLI(AVSyncCLI):
    """Builds the data, and leaves the model in its configuration."""

    def __init__(self, args: Sequence[str]) -> None:
        import_own_modules()
        # neither run nor saved: nothing about a trainer is known here
        settings = {**CLI_SETTINGS, "save_config_callback": None, "trainer_defaults": None}
        super().__init__(list(args), **settings, seed_everything_default=False, run=False)

    def instantiate_classes(self) -> None:
        """Data, and sections of the parts."""
        self.frozen = frozen_sections(self.config.model)
        self.sections = encoded_sections(self.config.model)
        self.roles = roles_of(self.config.model)
        wanted = self.config.clone()
        for key in set(vars(wanted)) - {"data"}:
            wanted.pop(key)
        self.datamodule = self.parser.instantiate_classes(wanted).data


def prepare(
    options: Sequence[str], folder: Path, offsets: int | None, dtype: str, clips_per_shard: int, device: str
) -> bool:
    """Encodes this process's share; True if the cache is whole then.

    Args:
        options: the experiment, as ``avsync fit`` takes it.
        folder: where the cache is to be.
        offsets: clips of each recording; None takes what the data section says, else `DEFAULT_OFFSETS`.
        dtype: what float32 tensors are kept in.
        clips_per_shard: clips in a shard.
        device: where parts compute.

    Raises:
        InputError: if the experiment, its clips or the folder cannot be used.
    """
    try:
        with warnings.catch_warnings():  # a program has arguments of its own
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            cli = _PreparationCLI(with_bases(options))
        return _prepare(cli, folder, offsets, dtype, clips_per_shard, torch.device(device))
    except InputError:
        raise
    except Exception as error:
        if (sentence := input_error_sentence(error)) is None:
            raise
        raise InputError(sentence) from error


def _prepare(
    cli: _PreparationCLI, folder: Path, offsets: int | None, dtype: str, clips_per_shard: int, device: torch.device
) -> bool:
    data = cli.datamodule
    if isinstance(data, Mixture):
        raise InputError(
            "data is a Mixture: prepare each of its sets by itself, with the same model, and give what that writes as"
            " data.sets.NAME.latents"
        )
    if not isinstance(data, ClipDataModule):
        raise InputError(
            f"data is {type(data).__name__}, which cuts no clips from recordings; name a data set of clips"
        )
    if data.latents is not None:
        raise InputError(f"data.latents is {data.latents}, which is to train on; leave it out to encode clips")
    if offsets is not None and data.offsets not in (None, offsets):
        raise InputError(f"--offsets is {offsets} but data.offsets {data.offsets}; leave one of them out")
    data.offsets = offsets or data.offsets or DEFAULT_OFFSETS
    parts = {name: built(section, cli.roles[name]) for name, section in cli.sections.items()}
    for name, part in parts.items():
        if recorded_identity(part) is None and part.state_dict():
            raise InputError(
                f"model.{name} has weights that come from no file, so that every run draws others: train and export "
                "it, and name its folder"
            )
    data.codec_step = _codec_step(cli, parts)
    data.prepare_data()
    clips = data.training_clips()
    plan = Plan(
        parts={name: facts_of_part(section) for name, section in cli.sections.items()},
        clips=facts_of_clips(data.clip_settings(), clips.records, data.frame_step),
        identities={name: asdict(identity_of(part)) for name, part in parts.items()},
        offsets=data.offsets,
        num_recordings=len(clips.records),
        clips_per_shard=clips_per_shard,
        dtype=dtype,
    )
    by_role: dict[str, Any] = {cli.roles[name]: part for name, part in parts.items()}
    return Preparation(
        Store(folder, plan),
        clips,
        ClipEncoder.of(data.clip, device, by_role),
        data.num_workers,
        data.on_corrupt,
        data.max_corrupt_fraction,
    ).run()


def _codec_step(cli: _PreparationCLI, parts: Mapping[str, nn.Module]) -> int | None:
    """Frames per latent of the video codec; it decides lengths also where it encodes nothing, as in ``fit``."""
    for name in (name for name in cli.frozen if cli.roles[name] == "video_codec"):
        codec = parts[name] if name in parts else built(cli.frozen[name], "video_codec")
        if isinstance(codec, VideoCodec):
            return codec.temporal_factor
    return None
