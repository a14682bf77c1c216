"""Training of a causal video VAE: the codec that Syncphony's backbone works on, of one's own clips.

Legend for shapes: B clips, T frames, H x W pixels, C latent channels, L latent frames, h x w latent pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from callbacks.ema import judged_weights
from components.codecs.no_autocast import no_autocast
from components.codecs.posterior import DiagonalGaussian, latents_of
from components.codecs.video.causal_vae.checkpoint import save_vae
from components.codecs.video.causal_vae.model import CausalVideoVAE
from components.codecs.video.causal_vae.normalisation import LatentNormalisation, VideoLatentStatistics
from components.contracts import ClipBatch, clip_generator
from components.errors import InputError
from components.objectives.adversarial import AdversarialLoss
from components.objectives.vae_loss import VAELoss
from lightning_modules.base import clip_names, parameter_groups, scheduled
from lightning_modules.codecs.round_trip import PSNR_NAMES, RoundTripModule

_NORMALISATION = "latent_normalisation"


class VideoVAEModule(RoundTripModule):
    """Trains a `CausalVideoVAE`, encoder and decoder, to give back the clips it is shown.

    Validation sends held-out clips there and back by the posterior's mean, chunk by chunk and in float32, as
    `CausalVideoCodec` will, and logs ``psnr`` and ``psnr_moving`` in dB. It also takes the moments of their latents, so
    that what `save_pretrained` writes is a codec with normalised latents.

    Without an adversarial loss the VAE is all that trains. With one, a single optimizer holds both networks: the two
    losses reach one network each, so a step of it is a step of each, as with an optimizer per network.

    Args:
        vae: the network; `load_vae` as ``class_path`` begins with the public one.
        loss: reconstruction and KL; None takes `VAELoss` as it is.
        perceptual: maps frames ``[N, 3, H, W]`` in [-1, 1], decoded and real, to their distances; frozen. None does
            without.
        perceptual_weight: of the mean distance.
        adversarial: discriminator and losses; None does without.
        optimizer: builds the optimizer from parameter groups (weights; vectors, which get no weight decay).
        lr_scheduler: builds a schedule stepped after every optimizer step, or None for a constant rate.
        encode_window: frames per chunk of validation (one more in the first), as the codec's; None takes clips whole.
        decode_window: latent frames per chunk of validation, likewise.
        export_dtype: precision of the weights `save_pretrained` writes.
        noise_seed: seed of what is drawn from posteriors; None takes the experiment's ``seed_everything``, and 0
            without one.

    Raises:
        InputError: if a window does not fit the VAE or an argument is none of its choices.
    """

    logged_names = (
        "loss",
        "train/loss",
        "train/reconstruction",
        "train/kl",
        "train/perceptual",
        "train/adversarial",
        "train/discriminator",
        *PSNR_NAMES,
    )

    def __init__(
        self,
        vae: CausalVideoVAE,
        loss: VAELoss | None = None,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        adversarial: AdversarialLoss | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        encode_window: int | None = 16,
        decode_window: int | None = 2,
        export_dtype: str = "float32",
        noise_seed: int | None = None,
    ) -> None:
        super().__init__(noise_seed)
        if encode_window is not None and (encode_window < 1 or encode_window % vae.temporal_factor):
            raise InputError(
                f"encode_window is {encode_window}; it must be a positive multiple of {vae.temporal_factor}, or null"
            )
        if decode_window is not None and decode_window < 1:
            raise InputError(f"decode_window is {decode_window}; it must be at least 1, or null")
        if export_dtype not in ("float32", "bfloat16"):
            raise InputError(f"export_dtype is {export_dtype!r}; give float32 or bfloat16")
        # a network that was frozen for a codec, or loaded in bfloat16, trains like any other
        self.vae = vae.float().requires_grad_(True)
        self.loss = loss or VAELoss()
        self.perceptual = None if perceptual is None else perceptual.requires_grad_(False).eval()
        self.perceptual_weight = perceptual_weight
        self.adversarial = adversarial
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.encode_window, self.decode_window = encode_window, decode_window
        self.export_dtype = getattr(torch, export_dtype)
        self.normalisation: LatentNormalisation | None = None
        self._normalised_at = -1
        self._statistics = VideoLatentStatistics.empty()

    @property
    def frame_step(self) -> int:
        """Frames by which clips may differ in length; data modules read it when they are set up."""
        return int(self.vae.temporal_factor)

    def frozen_parts(self) -> dict[str, nn.Module]:
        """The perceptual network, if there is one."""
        return {} if self.perceptual is None else {"perceptual": self.perceptual}

    def train(self, mode: bool = True) -> Self:
        """Training mode for what trains; the perceptual network stays in evaluation mode."""
        super().train(mode)
        if self.perceptual is not None:
            self.perceptual.eval()
        return self

    # --- training

    def configure_optimizers(self) -> Any:
        """One optimizer for VAE and discriminator; norms and biases get no weight decay."""
        groups = [group for network in self._networks() for group in parameter_groups(list(network.parameters()))]
        return scheduled(self, self.optimizer(groups), self.lr_scheduler)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Reconstruction and KL of a draw from the posterior, and what else the experiment asks for."""
        pixels = self._pixels(batch)
        posterior = DiagonalGaussian.from_moments(self.vae.encode(pixels).float())
        decoded = self.vae.decode(latents_of(posterior, self._generators(batch, batch_idx))).float()
        terms = self.loss(decoded, pixels, posterior)
        total, logs = terms.total, {"reconstruction": terms.reconstruction, "kl": terms.kl}
        if self.perceptual is not None:
            frames = (video.transpose(1, 2).flatten(0, 1) for video in (decoded, pixels))  # [B T, 3, H, W]
            logs["perceptual"] = self.perceptual(*frames).float().mean()
            total = total + self.perceptual_weight * logs["perceptual"]
        if self.adversarial is not None:
            if self._plays:
                logs["adversarial"], logs["discriminator"] = self.adversarial(decoded, pixels)
                total = total + self.adversarial.weight * logs["adversarial"] + logs["discriminator"]
            else:
                # processes that average gradients wait for one of every weight
                total = total + 0.0 * sum(weight.sum() for weight in self.adversarial.parameters())
        logs["loss"] = total
        self.log_dict({f"train/{name}": value.detach() for name, value in logs.items()}, batch_size=len(batch))
        self.log("loss", total.detach(), prog_bar=True, logger=False, batch_size=len(batch))
        return total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Before it plays, the discriminator has no gradient: the optimizer passes it over, its moments begin later."""
        if self.adversarial is not None and not self._plays:
            for weight in self.adversarial.parameters():
                weight.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips each network by its own norm, as with an optimizer for each."""
        if not gradient_clip_val or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        for network in self._networks():
            nn.utils.clip_grad_norm_(network.parameters(), gradient_clip_val)

    @property
    def _plays(self) -> bool:
        """Whether decoder and discriminator play against each other at this step."""
        step = 0 if self.run is None else self.run.global_step
        return self.adversarial is not None and step >= self.adversarial.start_step

    def _networks(self) -> list[nn.Module]:
        return [self.vae] if self.adversarial is None else [self.vae, self.adversarial]

    def _generators(self, batch: ClipBatch, batch_idx: int) -> list[torch.Generator]:
        """One for each clip, by its place in the training order: neither ranks nor interruptions show in a draw."""
        names = clip_names(batch, batch_idx, self.global_rank)
        return [clip_generator(f"vae-{name}", self.noise_seed, self.device) for name in names]

    # --- evaluation

    def round_trip(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """By the posterior's mean; also takes the moments of the latents."""
        pixels = self._pixels(batch)
        raw, decoded = self._round_trip(pixels)
        self._statistics = self._statistics.merged(_statistics_of(raw, batch))
        return decoded.transpose(1, 2), pixels.transpose(1, 2)

    def on_validation_epoch_end(self) -> None:
        """Logs the mean PSNR of all ranks' clips and keeps the normalisation of their latents."""
        statistics, self._statistics = self._statistics, VideoLatentStatistics.empty()
        self._normalise(statistics)
        super().on_validation_epoch_end()

    def on_train_end(self) -> None:
        """Takes the statistics anew if the last validation was before the last step."""
        if self._normalised_at == self.trainer.global_step:
            return
        data = getattr(self.trainer, "datamodule", None)
        # a run without validation has held-out clips all the same
        loader: Iterable[ClipBatch] | None = self.trainer.val_dataloaders
        if loader is None:
            if data is None:
                return
            loader = data.val_dataloader()
        statistics = VideoLatentStatistics.empty()
        self.eval()
        with torch.no_grad(), judged_weights(self.trainer, self):
            for batch in loader:
                moved: ClipBatch = self.trainer.strategy.batch_to_device(batch)
                raw = self._posterior(self._pixels(moved)).mean
                statistics = statistics.merged(_statistics_of(raw, moved))
        self.train()
        self._normalise(statistics)

    def _normalise(self, statistics: VideoLatentStatistics) -> None:
        """Keeps the normalisation that the latents of all ranks call for."""
        statistics = statistics.over_ranks()
        if statistics.first.num_values:
            self.normalisation, self._normalised_at = statistics.normalisation(), self.trainer.global_step

    def _round_trip(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Raw latents and what is decoded of them in [-1, 1], as the exported codec will have them."""
        raw = self._posterior(pixels).mean
        with no_autocast(pixels.device):
            chunks = list(self.vae.decode_windows(raw, self.decode_window))
        return raw, torch.cat(chunks, dim=2).clamp_(-1, 1)

    def _posterior(self, pixels: Tensor) -> DiagonalGaussian:
        with no_autocast(pixels.device):
            chunks = list(self.vae.encode_windows(pixels, self.encode_window))
        return DiagonalGaussian.from_moments(torch.cat(chunks, dim=2))

    # --- files

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What trains, and the normalisation last found, so that ``avsync export`` needs no clips."""
        super().on_save_checkpoint(checkpoint)
        if self.normalisation is not None:
            checkpoint[_NORMALISATION] = asdict(self.normalisation)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses what does not fit (see `TrainableCheckpoint`) and takes the normalisation."""
        super().on_load_checkpoint(checkpoint)
        if (found := checkpoint.get(_NORMALISATION)) is not None:
            self.normalisation = LatentNormalisation(**found)

    def save_pretrained(self, folder: Path) -> None:
        """Writes a folder that ``CausalVideoCodec.from_pretrained`` reads: config, normalisation, weights.

        Raises:
            InputError: if no validation has seen the latents yet.
        """
        if self.normalisation is None:
            raise InputError(
                "the spread of the VAE's latents is not known, because no validation has run before this checkpoint; "
                "export a later one, or set trainer.limit_val_batches above 0"
            )
        save_vae(self.vae, self.normalisation, Path(folder), self.export_dtype)

    def _pixels(self, batch: ClipBatch) -> Tensor:
        """``[B, 3, T, H, W]`` in [-1, 1], after checking that the VAE can divide the clip.

        Raises:
            InputError: naming the setting that does not fit.
        """
        time, space = self.vae.temporal_factor, self.vae.spatial_factor
        frames, _, *sides = batch.video.shape[1:]
        if (frames - 1) % time:
            below = max(1, 1 + (frames - 1) // time * time)
            raise InputError(
                f"clips of {frames} frames do not fit the VAE, which takes 1 + a multiple of {time}: set "
                f"clip.num_frames to {below} or {below + time}"
            )
        for name, side in zip(("height", "width"), sides, strict=True):
            if side % space:
                low = max(space, side // space * space)
                raise InputError(
                    f"{name} {side} is no multiple of the VAE's {space}: set clip.{name} to {low} or {low + space}"
                )
        return batch.video.transpose(1, 2).float().div_(127.5).sub_(1)


def _statistics_of(raw: Tensor, batch: ClipBatch) -> VideoLatentStatistics:
    """Of the clips that are not repeated to even out ranks."""
    return VideoLatentStatistics.of(raw if batch.valid is None else raw[batch.valid])
