"""Training of the learnt decoder of a codec of principal components.

Legend for shapes: B clips, T frames, H x W pixels, C latent channels, L latent frames, h x w latent pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from components.codecs.video.principal import PrincipalCodec
from components.contracts import ClipBatch, clip_generator
from components.errors import InputError
from lightning_modules.base import clip_names, parameter_groups, scheduled
from lightning_modules.codecs.round_trip import PSNR_NAMES, RoundTripModule


class PrincipalDecoderModule(RoundTripModule):
    """Trains what a `PrincipalCodec` decodes with, on its own latents under noise.

    The encoder stays as it is, and with it every latent that a model was trained on. Generated latents are never
    exact; by noise of random strength the decoder learns to give back what a scene would show, not what the noise says.
    Validation decodes held-out clips without noise and logs ``psnr`` and ``psnr_moving`` in dB.

    Args:
        codec: with a decoder, which is all that trains; see `PrincipalCodec.with_new_decoder`.
        noise: the strongest noise, in units of the latents (whose channels have variance 1 on average); each clip draws
            its own strength evenly between 0 and this.
        clean_share: share of clips without noise.
        l1_weight: of the mean absolute error beside the mean squared one, of pixels in [-1, 1].
        optimizer: builds the optimizer from parameter groups (weights; vectors, which get no weight decay).
        lr_scheduler: builds a schedule stepped after every optimizer step, or None for a constant rate.
        noise_seed: seed of the noise; None takes the experiment's ``seed_everything``, and 0 without one.

    Raises:
        InputError: if the codec has no decoder or a number is out of its range.
    """

    logged_names = ("loss", "train/loss", "train/squared", "train/absolute", *PSNR_NAMES)

    def __init__(
        self,
        codec: PrincipalCodec,
        noise: float = 0.25,
        clean_share: float = 0.2,
        l1_weight: float = 0.05,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        noise_seed: int | None = None,
    ) -> None:
        super().__init__(noise_seed)
        if codec.decoder is None:
            raise InputError(
                "codec decodes linearly, so there is nothing to train: build it by PrincipalCodec.with_new_decoder, or "
                "set its decoder_width"
            )
        if not 0 <= clean_share <= 1:
            raise InputError(f"clean_share is {clean_share}; it must be from 0 to 1")
        for name, value in (("noise", noise), ("l1_weight", l1_weight)):
            if value < 0:
                raise InputError(f"{name} is {value}; it must be at least 0")
        self.codec = codec.float()
        self.noise, self.clean_share, self.l1_weight = noise, clean_share, l1_weight
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    @property
    def frame_step(self) -> int:
        """Frames by which clips may differ in length; data modules read it when they are set up."""
        return self.codec.temporal_factor

    def frozen_parts(self) -> dict[str, nn.Module]:
        """None: components are small, and belong to the decoder that was trained on them."""
        return {}

    def configure_optimizers(self) -> Any:
        """Norms and biases get no weight decay."""
        return scheduled(self, self.optimizer(parameter_groups(list(self.codec.parameters()))), self.lr_scheduler)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """The error of clips that are decoded from their latents and noise."""
        pixels = _pixels(batch)
        latents = self.codec.encode(pixels)
        error = self.codec.decode(latents + self._noise_for(batch, batch_idx, latents)) - pixels
        squared, absolute = error.square().mean(), error.abs().mean()
        loss = squared + self.l1_weight * absolute
        logs = {"loss": loss, "squared": squared, "absolute": absolute}
        self.log_dict({f"train/{name}": value.detach() for name, value in logs.items()}, batch_size=len(batch))
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(batch))
        return loss

    def _noise_for(self, batch: ClipBatch, batch_idx: int, latents: Tensor) -> Tensor:
        """``[B, C, L, h, w]``: each clip's by its place in the training order, whatever rank it lands on."""
        drawn = []
        for name in clip_names(batch, batch_idx, self.global_rank):
            generator = clip_generator(f"decoder-{name}", self.noise_seed, self.device)
            share, strength = torch.rand(2, generator=generator, device=self.device)
            noise = torch.randn(latents.shape[1:], generator=generator, device=self.device)
            drawn.append(self.noise * strength * (share >= self.clean_share) * noise)
        return torch.stack(drawn)

    def round_trip(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Decoded from latents without noise; see `RoundTripModule.round_trip`."""
        pixels = _pixels(batch)
        return self.codec.decode(self.codec.encode(pixels)).clamp(-1, 1), pixels

    def save_pretrained(self, folder: Path) -> None:
        """Writes the folder that `PrincipalCodec.from_pretrained` reads, encoder and decoder."""
        self.codec.save_pretrained(Path(folder))


def _pixels(batch: ClipBatch) -> Tensor:
    """``[B, T, 3, H, W]`` in [-1, 1]."""
    return batch.video.float().div_(127.5).sub_(1)
