"""Statistics over the training set: raw latents, whole batches, one file for all ranks, no training."""

import json
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.latent_statistics import ComputeLatentStatistics
from components.codecs.audio.log_mel import LogMelCodec
from components.codecs.latent_statistics import LatentStatistics
from components.contracts import ClipBatch
from components.errors import InputError
from tests.processes import run_ranks

FRAMES, FPS, RATE = 25, 24.0, 16000


def clips(start: int, count: int, frames: int = FRAMES) -> ClipBatch:
    rows = [
        torch.randn(16700, generator=torch.Generator().manual_seed(i)) * 0.01 * (i + 1)
        for i in range(start, start + count)
    ]
    return ClipBatch(
        ids=[f"clip{i}" for i in range(start, start + count)],
        video=torch.zeros(count, frames, 3, 2, 2, dtype=torch.uint8),
        fps=FPS,
        audio=torch.stack(rows).clamp(-1, 1),
        sample_rate=RATE,
        captions=[""] * count,
        video_ids=[""] * count,
    )


class Endless(torch.utils.data.IterableDataset):
    def __init__(self, rank: int, world_size: int, frames: int) -> None:
        self.rank, self.world_size, self.frames = rank, world_size, frames

    def __iter__(self):
        batch = self.rank
        while True:
            yield clips(3 * batch, 3, self.frames)
            batch += self.world_size


class Data(L.LightningDataModule):
    def __init__(self, frames: int = FRAMES) -> None:
        super().__init__()
        self.frames = frames

    def train_dataloader(self):
        trainer = self.trainer
        return DataLoader(Endless(trainer.global_rank, trainer.world_size, self.frames), batch_size=None)


class Module(L.LightningModule):
    def __init__(self, **codec) -> None:
        super().__init__()
        self.audio_codec = LogMelCodec(num_mels=8, **codec)
        self.layer = torch.nn.Linear(1, 1)
        self.steps = 0

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return self.layer(torch.ones(1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: Module, callback: ComputeLatentStatistics, folder: Path, frames: int = FRAMES, **options) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_steps=5,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(module, datamodule=Data(frames))
    return trainer


def expected(count: int) -> tuple[np.ndarray, np.ndarray]:
    codec = LogMelCodec(num_mels=8)
    raw = codec.normalisation.inverse(codec.encode(codec.fit(clips(0, count).audio, 32)))
    values = raw.transpose(0, 1).flatten(1).double().numpy()
    return values.mean(axis=1), values.std(axis=1)


def test_clips_that_processes_share_would_count_more_than_once(tmp_path: Path):
    pairs = SimpleNamespace(strategy=SimpleNamespace(context_parallel_size=2))
    with pytest.raises(InputError, match="context_parallel_size 2 so many processes have the same ones"):
        ComputeLatentStatistics(str(tmp_path / "statistics.json")).on_fit_start(pairs, Module())


def test_statistics_of_raw_latents_and_no_training(tmp_path: Path):
    file = tmp_path / "deep" / "statistics.json"
    module = Module()
    trainer = fit(module, ComputeLatentStatistics(str(file), num_clips=7), tmp_path)
    assert module.steps == 0 and trainer.global_step == 0
    found = LatentStatistics.load(file, 16, module.audio_codec.latent_identity)
    mean, std = expected(9)  # whole batches of three
    assert (found.num_clips, found.num_values) == (9, 9 * 32)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found.std, std, rtol=1e-5)

    # what the codec then makes of the same clips, whatever it was normalised by before
    codec = LogMelCodec(num_mels=8, statistics=file)
    latents = codec.encode(codec.fit(clips(0, 9).audio, 32))
    torch.testing.assert_close(latents.mean(dim=(0, 2)), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2), correction=0), torch.ones(16), atol=1e-4, rtol=0)
    again = tmp_path / "again.json"
    fit(Module(statistics=file), ComputeLatentStatistics(str(again), num_clips=9), tmp_path)
    np.testing.assert_allclose(LatentStatistics.load(again).mean, mean, rtol=1e-4)


def test_sounds_without_pictures_count_as_long_as_they_are(tmp_path: Path):
    file = tmp_path / "sounds.json"
    fit(Module(), ComputeLatentStatistics(str(file), num_clips=7), tmp_path, frames=0)
    codec = LogMelCodec(num_mels=8)
    num_latents = codec.num_latents_for(16700 / RATE)
    raw = codec.normalisation.inverse(codec.encode(codec.fit(clips(0, 9, 0).audio, num_latents)))
    found = LatentStatistics.load(file)
    np.testing.assert_allclose(found.mean, raw.mean(dim=(0, 2)), atol=1e-5)


def test_a_file_that_is_there_is_kept(tmp_path: Path):
    file = tmp_path / "statistics.json"
    fit(Module(), ComputeLatentStatistics(str(file), num_clips=3), tmp_path)
    before = file.read_bytes()
    fit(Module(), ComputeLatentStatistics(str(file), num_clips=9), tmp_path)
    assert file.read_bytes() == before
    fit(Module(), ComputeLatentStatistics(str(file), num_clips=9, overwrite=True), tmp_path)
    assert json.loads(file.read_text())["num_clips"] == 9
    with pytest.raises(InputError, match="computed with codec"):
        fit(Module(window=1024), ComputeLatentStatistics(str(file)), tmp_path)


def test_bad_settings_are_told(tmp_path: Path):
    with pytest.raises(InputError, match="num_clips is 0"):
        ComputeLatentStatistics("a.json", num_clips=0)
    with pytest.raises(InputError, match="no audio codec with statistics named 'layer'"):
        fit(Module(), ComputeLatentStatistics(str(tmp_path / "a.json"), codec="layer"), tmp_path)


def test_two_ranks_share_one_exact_result(tmp_path: Path):
    file = tmp_path / "statistics.json"
    ended = run_ranks(measure_on_two_ranks, (file,), 2)
    assert [one.status for one in ended] == [0, 0], "\n".join(one.said for one in ended)
    found = LatentStatistics.load(file, 16)
    mean, std = expected(12)  # two batches on each rank
    assert found.num_clips == 12
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found.std, std, rtol=1e-5)


def measure_on_two_ranks(file: Path) -> None:
    """What one of the two processes does."""
    fit(Module(), ComputeLatentStatistics(str(file), num_clips=10), file.parent, devices=2, strategy="ddp")
