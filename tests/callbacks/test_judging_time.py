"""What judges cost stands in the results and in the log."""

from __future__ import annotations

import json
import time

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from callbacks.evaluation import EvaluationCallback
from callbacks.judging_time import JudgingTime, together
from callbacks.results import ResultsWriter
from components.contracts import MetricResult
from tests.callbacks.jumping_squares import FRAMES, JumpingSquares, SquareClips


class Sleeps(EvaluationCallback):
    """Takes its time with every batch, once before and once behind them."""

    metrics = ("slow", "slower")

    def start(self, trainer, module):
        time.sleep(0.05)

    def update(self, generation):
        time.sleep(0.1)

    def finish(self, trainer, module):
        time.sleep(0.05)
        self.results = {"slow": MetricResult(1.0, (1.0, 1.0), 1)}


def test_seconds_of_a_clip_of_five(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    sleeps = Sleeps()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=[ResultsWriter(), sleeps],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    data = SquareClips()
    trainer.validate(JumpingSquares(), datamodule=data, verbose=False)
    (file,) = tmp_path.rglob("results.json")
    found = json.loads(file.read_text())["judging"]
    assert list(found) == ["slow, slower"], "the writer itself, and what reports nothing, are no judges"
    (cost,) = found.values()
    batches = len(data.val_dataloader())
    assert 0.1 + 0.1 * batches <= cost["seconds"] < 0.1 + 0.1 * batches + 2
    assert cost["clips"] == sleeps.time.clips > 0 and "peak_gib" not in cost
    clip_s = sleeps.time.clip_s / sleeps.time.clips
    assert clip_s == pytest.approx(FRAMES / 24)
    assert cost["s_per_5s_clip"] == pytest.approx(cost["seconds"] / cost["clips"] * 5 / clip_s)
    (log,) = tmp_path.rglob("metrics.csv")
    assert "perf/judge_slow_s" in log.read_text()


def test_ranks_are_put_together():
    whole = together([JudgingTime(2.0, 3, 6.0, 10), JudgingTime(1.0, 1, 2.0, 30), JudgingTime()])
    assert (whole.seconds, whole.clips, whole.clip_s, whole.peak_bytes) == (3.0, 4, 8.0, 30)
    assert whole.record() == {"s_per_5s_clip": 3 * 5 / 8, "seconds": 3.0, "clips": 4.0, "peak_gib": 30 / 2**30}
    assert JudgingTime().record()["s_per_5s_clip"] == 0.0


def test_time_counts_where_something_fails():
    found = JudgingTime()
    with pytest.raises(KeyError), found.counted(torch.device("cpu"), with_memory=True):
        time.sleep(0.01)
        raise KeyError
    assert found.seconds >= 0.01 and found.peak_bytes == 0
