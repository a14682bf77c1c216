"""Clips of different lengths in one run: training, evaluation, CycleSync, TensorBoard and the report."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from callbacks.cyclesync import CycleSyncCallback
from callbacks.results import ResultsWriter
from callbacks.sample_report import SampleReport
from components.contracts import Generation
from components.media.reader import probe
from components.v2a.motion_v2a import MotionV2A
from lightning_modules.syncphony.module import SyncphonyModule
from tests.lightning_modules.tiny_module import FPS, TinyData, clips, tiny_module

pytestmark = [pytest.mark.gate, pytest.mark.filterwarnings("ignore::UserWarning")]
TRAIN_LENGTHS, VAL_LENGTHS = (7, 13, 5), (25, 31, 19)


class MixedData(TinyData):
    """Every batch of another length."""

    def train_dataloader(self) -> DataLoader[Any]:
        frames = [TRAIN_LENGTHS[index % 3] for index in range(6)]
        return DataLoader([clips(4, 4 * t, t, n) for t, n in enumerate(frames)], batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        batches = [replace(clips(1, seed=50 + n, frames=n), captions=["a ball"]) for n in VAL_LENGTHS]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


class Outputs(L.Callback):
    def __init__(self) -> None:
        self.lengths: list[list[int]] = []

    def on_validation_batch_end(self, _trainer: Any, _module: Any, outputs: Any, *_: Any) -> None:
        assert isinstance(outputs, Generation)
        everything = [outputs.video, *(one.video for one in outputs.variants.values())]
        self.lengths.append([video.shape[1] for video in everything])


def test_a_run_on_clips_of_different_lengths(tmp_path: Path) -> None:
    watch, judge = Outputs(), CycleSyncCallback(MotionV2A())
    module = tiny_module(random_audio=True, variants=["w0"])
    losses = []

    class Losses(L.Callback):
        def on_train_batch_end(self, _trainer: Any, _module: Any, outputs: Any, *_: Any) -> None:
            losses.append(float(outputs["loss"]))

    run = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=6,
        val_check_interval=3,
        callbacks=[judge, SampleReport(num_clips=3), ResultsWriter(), watch, Losses()],
        logger=TensorBoardLogger(tmp_path, "mixed", default_hp_metric=False),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    run.fit(module, MixedData())
    assert len(losses) == 6
    assert all(torch.isfinite(torch.tensor(losses)))
    assert watch.lengths == [[n, n] for n in VAL_LENGTHS] * 2

    durations = {name: row["duration_s"] for name, row in judge.clip_rows.items()}
    assert durations == pytest.approx({f"clip{50 + n}_0": n / FPS for n in VAL_LENGTHS}, abs=1e-4)
    for row in judge.clip_rows.values():
        onsets = row["onsets"]
        assert isinstance(onsets, dict)
        assert all(time <= row["duration_s"] for times in onsets.values() for time in times or ())
    folder = tmp_path / "mixed" / "version_0"
    found = json.loads((folder / "results.json").read_text())["metrics"]
    assert found["cyclesync"]["n_clips"] == found["cyclesync_w0"]["n_clips"] == len(VAL_LENGTHS)
    for frames in VAL_LENGTHS:
        for kind in ("generated", "w0", "real", "side_by_side"):
            shown = probe(folder / "report" / "media" / f"clip{50 + frames}_0.{kind}.mp4")
            assert shown.num_frames == frames
            assert shown.audio_span_s is not None
            assert shown.audio_span_s[1] == pytest.approx(frames / FPS, abs=0.07)
    page = (folder / "report" / "index.html").read_text()
    assert all(f"clip{50 + frames}_0" in page for frames in VAL_LENGTHS)


def test_prefix_lengths_follow_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of few latents is trained on all its prefixes; one of many is not held to the others' length."""
    module = tiny_module()
    longest = {frames: _longest_prefix(module, monkeypatch, frames) for frames in (5, 7, 13)}
    assert longest == {5: 3, 7: 4, 13: 7}


def _longest_prefix(module: SyncphonyModule, monkeypatch: pytest.MonkeyPatch, frames: int) -> int:
    """Most latent frames (history and target) of any training column over twelve batches of one length."""
    found = []
    run = module.dit.forward

    def watched(columns: Any, *rest: Any, **options: Any) -> Any:
        outputs = run(columns, *rest, **options)
        found.append(max(sum(clip.shape[2] for clip in column.clips) for column in columns))
        return outputs

    with monkeypatch.context() as patch:
        patch.setattr(module.dit, "forward", watched)
        patch.setattr(module, "log", lambda *_args, **_kwargs: None)
        patch.setattr(module, "log_dict", lambda *_args, **_kwargs: None)
        for index in range(12):
            module.training_step(clips(4, 4 * index, index, frames), index)
    return max(found)
