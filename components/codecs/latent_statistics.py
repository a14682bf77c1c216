"""Mean and deviation of every latent channel over a data set, and the normalisation that uses them.

Flow matching wants latents of about unit spread: unnormalised audio latents would outweigh the video's in the loss.
Moments of parts are combined exactly (Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for
Computing Sample Variances", 1979), so neither the batches nor the ranks show in the result.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.errors import InputError


@dataclass(frozen=True)
class LatentStatistics:
    """Moments of the latents of a data set, per channel.

    Attributes:
        num_clips: clips they were taken over.
        num_values: values of each channel they were taken over.
        mean: float64 ``[C]``.
        squares: sum of the squared deviations from the mean, float64 ``[C]``.
        codec: what made the latents (see `components.weights.identity`); statistics of another codec are worthless.
    """

    num_clips: int
    num_values: int
    mean: Tensor
    squares: Tensor
    codec: str = ""

    @classmethod
    def empty(cls, num_channels: int, codec: str = "") -> LatentStatistics:
        """Statistics of no clip."""
        zeros = torch.zeros(num_channels, dtype=torch.float64)
        return cls(0, 0, zeros, zeros.clone(), codec)

    @classmethod
    def of(cls, latents: Tensor, codec: str = "") -> LatentStatistics:
        """Statistics of a batch of latents ``[B, C, ...]``."""
        values = latents.detach().transpose(0, 1).flatten(1).double().cpu()  # [C, B * ...]
        mean = values.mean(dim=1) if values.shape[1] else values.new_zeros(len(values))
        return cls(len(latents), values.shape[1], mean, (values - mean[:, None]).square().sum(dim=1), codec)

    @property
    def std(self) -> Tensor:
        """Standard deviation (divided by the number of values), float64 ``[C]``."""
        return (self.squares / max(1, self.num_values)).sqrt()

    def merged(self, other: LatentStatistics) -> LatentStatistics:
        """Statistics of both data sets together."""
        # Chan, Golub and LeVeque's update: exact however the values are split, and without sums of squares that cancel
        total = self.num_values + other.num_values
        share = other.num_values / max(1, total)
        difference = other.mean - self.mean
        return LatentStatistics(
            self.num_clips + other.num_clips,
            total,
            self.mean + share * difference,
            self.squares + other.squares + difference.square() * self.num_values * share,
            self.codec,
        )

    def over_ranks(self) -> LatentStatistics:
        """Statistics of all ranks' clips, the same on every rank (collective where there are several processes)."""
        if not (dist.is_available() and dist.is_initialized()):
            return self
        parts: list[LatentStatistics | None] = [None] * dist.get_world_size()
        # objects, not tensors: ranks may have seen different numbers of clips
        dist.all_gather_object(parts, self)
        # merged in the order of the ranks, so that all of them get the same bits
        whole = LatentStatistics.empty(len(self.mean), self.codec)
        for part in parts:
            assert part is not None
            whole = whole.merged(part)
        return whole

    def save(self, file: str | Path) -> None:
        """Writes a JSON file, whole or not at all.

        Raises:
            InputError: if it cannot be written, or there were no clips.
        """
        if not self.num_values:
            raise InputError(f"there is no clip to compute latent statistics of, so '{file}' is not written")
        file = Path(file)
        content = {
            "codec": self.codec,
            "num_clips": self.num_clips,
            "num_values": self.num_values,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
        }
        # written beside the file and renamed: a reader sees the old file or the new one, never half of one
        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(content, indent=1) + "\n")
            part.replace(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise InputError(f"cannot write '{file}' ({error.strerror}); give a path that can be written") from None

    @classmethod
    def load(cls, file: str | Path, num_channels: int | None = None, codec: str = "") -> LatentStatistics:
        """Reads what `save` wrote.

        Args:
            file: the JSON file.
            num_channels: how many channels there must be, or None for any number.
            codec: the codec they must be of, or empty for any.

        Raises:
            InputError: if the file is missing or damaged, or belongs to another codec.
        """
        try:
            content = json.loads(Path(file).read_text())
            mean = torch.tensor(content["mean"], dtype=torch.float64, device="cpu")
            std = torch.tensor(content["std"], dtype=torch.float64, device="cpu")
            num_clips, num_values, made_by = int(content["num_clips"]), int(content["num_values"]), content["codec"]
        except OSError as error:
            raise InputError(f"cannot read latent statistics '{file}' ({error.strerror}); compute them first") from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"'{file}' is no file of latent statistics ({error}); compute them anew") from None
        if mean.ndim != 1 or mean.shape != std.shape or not (std > 0).all() or not mean.isfinite().all():
            raise InputError(f"'{file}' has a channel without spread or a broken number; compute the statistics anew")
        if num_channels is not None and len(mean) != num_channels:
            raise InputError(
                f"'{file}' is about latents of {len(mean)} channels, but this codec has {num_channels}; "
                "compute statistics with this codec"
            )
        if codec and made_by and made_by != codec:
            raise InputError(
                f"'{file}' was computed with codec {made_by}, but this one is {codec}; compute statistics with this one"
            )
        # the sum of squared deviations, so that what was loaded can be merged again
        return cls(num_clips, num_values, mean, std.square() * num_values, made_by)


def statistics_of(batches: Iterable[Tensor], num_channels: int, codec: str = "") -> LatentStatistics:
    """Statistics of batches of latents ``[B, C, ...]``, of all ranks together."""
    statistics = LatentStatistics.empty(num_channels, codec)
    for latents in batches:
        statistics = statistics.merged(LatentStatistics.of(latents))
    return statistics.over_ranks()


class ChannelNormalisation(nn.Module):
    """``(z - mean) / std`` per channel and its inverse, in float32.

    Args:
        mean: ``[C]``.
        std: ``[C]``, positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        # not persistent: the numbers belong to the codec, and files of weights are to hold what was trained
        self.register_buffer("mean", mean.float(), persistent=False)
        self.register_buffer("std", std.float(), persistent=False)

    @classmethod
    def scaled(cls, num_channels: int, scale: float = 1.0) -> ChannelNormalisation:
        """Multiplies every channel by ``scale``."""
        return cls(torch.zeros(num_channels), torch.full((num_channels,), 1 / scale))

    @classmethod
    def from_file(cls, file: str | Path, num_channels: int, codec: str = "") -> ChannelNormalisation:
        """Uses a file of `LatentStatistics`.

        Raises:
            InputError: if the file is missing or damaged, or belongs to another codec.
        """
        statistics = LatentStatistics.load(file, num_channels, codec)
        return cls(statistics.mean, statistics.std)

    def forward(self, latents: Tensor) -> Tensor:
        """Raw latents ``[B, C, ...]`` to normalised ones."""
        mean, std = self._like(latents)
        return (latents.float() - mean) / std

    def scale(self, deviations: Tensor) -> Tensor:
        """Deviations of raw latents ``[B, C, ...]`` to those of normalised ones."""
        _, std = self._like(deviations)
        return deviations.float() / std

    def inverse(self, latents: Tensor) -> Tensor:
        """Normalised latents ``[B, C, ...]`` to raw ones."""
        mean, std = self._like(latents)
        return latents.float() * std + mean

    def _like(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std as ``[C, 1 ...]``."""
        shape = (-1,) + (1,) * (latents.ndim - 2)
        return self.mean.view(shape), self.std.view(shape)
