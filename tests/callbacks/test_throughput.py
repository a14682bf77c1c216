import time

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from callbacks.throughput import Throughput, peak_memory_mib
from components.errors import InputError
from tests.callbacks.jumping_squares import JumpingSquares, SquareClips

STEP_S = 0.05


class Slow(JumpingSquares):
    def training_step(self, batch, batch_idx):
        time.sleep(STEP_S)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        time.sleep(0.3)


def test_training_is_timed_and_validation_is_not(tmp_path):
    logged = []

    class Keeps(CSVLogger):
        def log_metrics(self, metrics, step=None):
            logged.append(metrics)

    trainer = L.Trainer(
        accelerator="cpu",
        logger=Keeps(tmp_path),
        callbacks=[Throughput(every_n_steps=3, warmup_steps=1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_steps=7,
        val_check_interval=2,
        log_every_n_steps=1,
    )
    trainer.fit(Slow(), datamodule=SquareClips())
    figures = [metrics for metrics in logged if "perf/step_s" in metrics]
    assert len(figures) == 2
    for metrics in figures:
        assert STEP_S <= metrics["perf/step_s"] < STEP_S + 0.2  # two validations of 0.9 s lie in between
        assert metrics["perf/samples_per_s"] == pytest.approx(2 / metrics["perf/step_s"], rel=1e-4)
        assert metrics["perf/peak_memory_mib"] > 50


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_mib(torch.device("cpu"))
    held = torch.ones(int(before + 300) * 2**18)
    assert peak_memory_mib(torch.device("cpu")) > before + 100
    del held


def test_bad_interval():
    with pytest.raises(InputError, match="every_n_steps is 0"):
        Throughput(every_n_steps=0)
