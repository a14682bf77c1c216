"""Computes the statistics that normalise audio latents, over the training set, before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from components.backbones.data_place import context_size
from components.codecs.latent_statistics import ChannelNormalisation, LatentStatistics, statistics_of
from components.contracts import AudioCodec, ClipBatch
from components.errors import InputError


class ComputeLatentStatistics(Callback):
    """Encodes training clips, writes mean and deviation of every channel to a file, and ends the run.

    Add it to an experiment once, then name the file as the codec's ``statistics``. A file that is there already is
    kept. Latents are taken before the codec's present normalisation, on all ranks together.

    Args:
        file: where the statistics go, a JSON file.
        num_clips: about how many clips to encode, over all ranks; rounded up to whole batches.
        codec: name of the `AudioCodec` in the module.
        overwrite: compute again although the file exists.

    Raises:
        InputError: if the module has no such codec, or the statistics cannot be written.
    """

    def __init__(self, file: str, num_clips: int = 4096, codec: str = "audio_codec", overwrite: bool = False) -> None:
        if num_clips < 1:
            raise InputError(f"num_clips is {num_clips}; it must be at least 1")
        self.file = Path(file)
        self.num_clips = num_clips
        self.codec = codec
        self.overwrite = overwrite

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Does it all; training then ends before its first step.

        Raises:
            InputError: if there is no data module, no such codec, or the file cannot be used.
        """
        codec, normalisation = self._codec(pl_module)
        if (size := context_size(trainer)) > 1:
            raise InputError(
                f"ComputeLatentStatistics counts every clip once, but with context_parallel_size {size} so many "
                "processes have the same ones: set it to 1 for this run"
            )
        trainer.should_stop = True
        # rank 0's answer: the file may appear while another rank still looks
        exists = trainer.strategy.broadcast(self.file.is_file())
        if exists and not self.overwrite:
            held = LatentStatistics.load(self.file, codec.latent_channels, codec.latent_identity)
            rank_zero_info(f"'{self.file}' has statistics of {held.num_clips} clips: name it as the codec's statistics")
            return
        data = getattr(trainer, "datamodule", None)
        if data is None:
            raise InputError("ComputeLatentStatistics needs a data module; add one under data")
        start = time.perf_counter()
        latents = self._latents(data.train_dataloader(), codec, normalisation, pl_module.device, trainer.world_size)
        statistics = statistics_of(latents, codec.latent_channels, codec.latent_identity)
        if trainer.is_global_zero:
            statistics.save(self.file)
        # the file is there before any rank says so
        trainer.strategy.barrier()
        rank_zero_info(
            f"'{self.file}' now has statistics of {statistics.num_clips} clips "
            f"({time.perf_counter() - start:.0f} s): name it as the codec's statistics"
        )

    def _codec(self, module: LightningModule) -> tuple[AudioCodec, ChannelNormalisation]:
        codec = getattr(module, self.codec, None)
        normalisation = getattr(codec, "normalisation", None)
        if not isinstance(codec, AudioCodec) or not isinstance(normalisation, ChannelNormalisation):
            raise InputError(
                f"{type(module).__name__} has no audio codec with statistics named '{self.codec}'; "
                "correct ComputeLatentStatistics.codec"
            )
        return codec, normalisation

    @torch.no_grad()
    def _latents(
        self,
        batches: Iterable[ClipBatch],
        codec: AudioCodec,
        normalisation: ChannelNormalisation,
        device: torch.device,
        world_size: int,
    ) -> Iterator[Tensor]:
        """This rank's share of the latents, ``[B, C, N]`` each, not normalised."""
        num_seen = 0
        for batch in batches:
            # raw latents: the codec's present normalisation is taken off
            yield normalisation.inverse(_encoded(batch, codec, device))
            num_seen += len(batch) * world_size
            if num_seen >= self.num_clips:  # the training loader may never end
                return


def _encoded(batch: ClipBatch, codec: AudioCodec, device: torch.device) -> Tensor:
    """Latents ``[B, C, N]`` as the codec normalises them now, prepared beforehand or not."""
    if batch.prepared is not None and batch.prepared.audio_latents is not None:
        return batch.prepared.audio_latents.to(device)
    frames = batch.video.shape[1]  # none where clips are sounds alone; one is a picture, not a duration
    duration_s = frames / batch.fps if frames > 1 else batch.audio.shape[1] / batch.sample_rate
    return codec.encode(codec.fit(batch.audio.to(device), codec.num_latents_for(duration_s), batch.sample_rate))
