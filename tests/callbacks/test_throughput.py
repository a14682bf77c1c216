import json
import time
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from callbacks.results import ResultsWriter
from callbacks.throughput import Throughput, peak_memory_mib
from components.counting.flops import StepCost
from components.errors import InputError
from tests.callbacks.jumping_squares import JUMPS, JumpingSquares, SquareClips, clip_batch

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


@pytest.mark.gate
def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_mib(torch.device("cpu"))
    held = torch.ones(int(before + 300) * 2**18)
    assert peak_memory_mib(torch.device("cpu")) > before + 100
    del held


def test_bad_interval():
    with pytest.raises(InputError, match="every_n_steps is 0"):
        Throughput(every_n_steps=0)


class Counted(JumpingSquares):
    """Says what its steps cost, and counts how often it was asked."""

    def __init__(self, error: Exception | None = None):
        super().__init__()
        self.asked = 0
        self.error = error

    def training_step(self, batch, batch_idx):
        time.sleep(0.02)
        return super().training_step(batch, batch_idx)

    def training_cost(self, batch):
        self.asked += 1
        time.sleep(0.5)
        if self.error is not None:
            raise self.error
        return StepCost(flops=3e9 * len(batch), tokens=100 * len(batch))


class SlowClips(SquareClips):
    """Every batch takes a while to come."""

    def train_dataloader(self):
        def collate(ids):
            time.sleep(0.06)
            return clip_batch(ids)

        return DataLoader(list(JUMPS), batch_size=self.batch_size, collate_fn=collate)


def run(module, folder, data=None, steps=8, **settings):
    throughput = Throughput(warmup_steps=1, **{"every_n_steps": 3, **settings})
    trainer = L.Trainer(
        accelerator="cpu",
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[throughput, ResultsWriter()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_steps=steps,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=data or SquareClips())
    return throughput, json.loads((folder / "results.json").read_text())


def test_flops_are_counted_once_for_a_shape_and_never_in_the_time(tmp_path):
    module = Counted()
    throughput, record = run(module, tmp_path, peak_tflops=0.5)
    assert module.asked == 1
    figures = record["throughput"]
    assert figures == throughput.throughput and list(throughput.failures) == []
    assert 0.02 <= figures["step_s"] < 0.3  # counting takes longer than that
    assert figures["model_tflop_per_s"] == pytest.approx(6e9 / figures["step_s"] / 1e12)
    assert figures["mfu"] == pytest.approx(figures["model_tflop_per_s"] / 0.5)
    assert figures["tokens_per_s"] == pytest.approx(200 / figures["step_s"])
    assert "perf/mfu" in (tmp_path / "metrics.csv").read_text()


def test_clips_that_processes_share_count_once_and_cost_each_a_part():
    throughput = Throughput(warmup_steps=0)
    batch = clip_batch(list(JUMPS)[:2])
    pairs = SimpleNamespace(global_rank=3, world_size=6, strategy=SimpleNamespace(context_parallel_size=2))
    throughput.on_train_batch_end(pairs, Counted(), None, batch, 0)
    counted = throughput._window
    assert (counted.samples, counted.tokens, counted.flops) == (3 * 2, 3 * 200.0, 6e9 / 2)


def test_a_cpu_has_no_mfu_and_other_modules_no_flops(tmp_path):
    _, record = run(Counted(), tmp_path / "counted", steps=3)
    assert "model_tflop_per_s" in record["throughput"] and "mfu" not in record["throughput"]
    _, record = run(JumpingSquares(), tmp_path / "plain", steps=3)
    assert set(record["throughput"]) == {"samples_per_s", "step_s", "data_wait_share", "peak_memory_mib"}
    module = Counted()
    run(module, tmp_path / "off", steps=3, count_flops=False)
    assert module.asked == 0


def test_the_wait_for_data_is_told_apart(tmp_path, monkeypatch):
    _, slow = run(Counted(), tmp_path / "slow", SlowClips(), count_flops=False)
    assert slow["throughput"]["data_wait_share"] > 0.5
    monkeypatch.setitem(globals(), "STEP_S", 0.5)
    _, quick = run(Slow(), tmp_path / "quick", steps=4, every_n_steps=1)
    assert quick["throughput"]["data_wait_share"] < 0.5


def test_a_step_that_cannot_be_counted_ends_no_run(tmp_path):
    with pytest.warns(RuntimeWarning, match="failed to count the FLOPs of a step"):
        _, record = run(Counted(RuntimeError("no such operation on the meta device")), tmp_path, steps=3)
    assert "no such operation" in record["failed"][0] and "step_s" in record["throughput"]


def test_bad_peak():
    with pytest.raises(InputError, match="peak_tflops is 0"):
        Throughput(peak_tflops=0)
