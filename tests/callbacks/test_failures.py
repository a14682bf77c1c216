"""A part that watches a run fails: every rank learns of it, none waits, and what comes after is whole."""

import json
import warnings

import lightning as L
import pytest

from callbacks.cyclesync import CycleSyncCallback
from callbacks.evaluation import EvaluationCallback, gathered
from callbacks.results import ResultsWriter
from components.contracts import MetricResult
from components.v2a.motion_v2a import MotionV2A
from tests.callbacks.jumping_squares import JumpingSquares, SquareClips
from tests.processes import run_ranks, told


class FailsOnRankOne(EvaluationCallback):
    """After the first step between two exchanges, after the second with a batch; after the third not at all."""

    metrics = ("mine",)

    def start(self, trainer, module):
        self.rank, self.seen = trainer.global_rank, 0

    def update(self, generation):
        self.seen += 1
        if self.rank == 1 and self.global_step == 2:
            raise ValueError("cannot see")

    def finish(self, trainer, module):
        first = gathered(trainer, ["x"] * (self.rank + 1))
        if self.rank == 1 and self.global_step == 1:
            raise ValueError("between two exchanges")
        second = gathered(trainer, list(range(self.rank + 2)))
        self.results = {"mine": MetricResult(float(len(first) + len(second)), (0.0, 9.0), 2)}
        self.log_results(trainer, module)


class Diary(L.Callback):
    """What is known of both parts after every evaluation."""

    def __init__(self, fails, judge):
        self.fails, self.judge, self.seen = fails, judge, []

    def on_validation_end(self, trainer, pl_module):
        logged = trainer.callback_metrics.get("mine")
        self.seen.append(
            {
                "logged": None if logged is None else str(logged.item()),
                "mine": {name: result.value for name, result in self.fails.results.items()},
                "cyclesync": sorted(self.judge.results),
                "failed": [failure.sentence for failure in self.fails.failures],
            }
        )


def fit_on_two_ranks(folder):
    """What one of the two processes does."""
    fails, judge = FailsOnRankOne(), CycleSyncCallback(MotionV2A())
    diary = Diary(fails, judge)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        logger=False,
        enable_checkpointing=False,
        max_steps=3,
        val_check_interval=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[fails, judge, diary],
    )
    trainer.fit(JumpingSquares(), datamodule=SquareClips(batch_size=1, count=2))
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(diary.seen))


def test_a_failure_on_one_rank_is_one_on_all_and_nobody_waits(tmp_path):
    ended = run_ranks(fit_on_two_ranks, (tmp_path,), 2, folder=tmp_path)
    assert [one.status for one in ended] == [0, 0], told(ended)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert [seen["mine"] for seen in first] == [{}, {}, {"mine": 8.0}]
    assert [seen["logged"] for seen in first] == [None, None, "8.0"]
    assert first[-1]["failed"][0].startswith("FailsOnRankOne failed to finish at step 1 on rank 1: ValueError: between")
    assert first[-1]["failed"][1].startswith("FailsOnRankOne failed to judge ")
    assert all(len(seen["cyclesync"]) == 4 for seen in first), "the judge after it has met its own exchanges"
    said = [one.said.count("tried again at the next evaluation") for one in ended]
    assert said == [2, 0], "each is said once, by rank 0"


class Fails(EvaluationCallback):
    """Has a result but where it is told to fail."""

    def __init__(self, hook, error=ValueError("no way"), at=(1, 2, 3)):  # noqa: B008
        super().__init__()
        self.hook, self.error, self.at = hook, error, at

    metrics = ("mine",)

    def _maybe(self, hook):
        if hook == self.hook and self.global_step in self.at:
            raise self.error

    def start(self, trainer, module):
        self._maybe("start")

    def update(self, generation):
        self._maybe("update")

    def finish(self, trainer, module):
        self.results = {"mine": MetricResult(float(self.global_step), (0.0, 9.0), 2)}
        self.log_results(trainer, module)
        self._maybe("finish")

    def conclude(self, trainer, module):
        self._maybe("conclude")


def fit(folder, *callbacks, max_steps=3):
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        callbacks=[*callbacks, ResultsWriter()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(one, L.pytorch.callbacks.ModelCheckpoint) for one in callbacks),
        num_sanity_val_steps=0,
        max_steps=max_steps,
        val_check_interval=1,
    )
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        trainer.fit(JumpingSquares(), datamodule=SquareClips(count=2, batch_size=1))
    return trainer, [str(one.message) for one in warned if "failed to" in str(one.message)]


@pytest.mark.parametrize("hook", ["start", "update", "finish", "conclude"])
def test_training_goes_on_and_the_failure_is_said_once(tmp_path, hook):
    trainer, said = fit(tmp_path, Fails(hook))
    assert trainer.global_step == 3
    (sentence,) = said
    assert sentence.startswith("Fails failed to") and "at step 1: ValueError: no way (test_failures.py line" in sentence
    record = json.loads((tmp_path / "results.json").read_text())
    assert len(record["failed"]) == 3
    assert set(record["metrics"]) == ({"mine"} if hook == "conclude" else set())


def test_an_evaluation_that_failed_does_not_choose_a_checkpoint(tmp_path):
    best = L.pytorch.callbacks.ModelCheckpoint(tmp_path, monitor="mine", mode="max")
    fit(tmp_path, Fails("update", at=(1, 3)), best)
    assert best.best_model_path.endswith("step=2.ckpt")


def test_interruptions_pass_through(tmp_path):
    for error in (KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(SystemExit):
            fit(tmp_path, Fails("update", error))
