import json
import math

import lightning as L
import pytest

from callbacks.clip_scores import ClipScore, read_clip_scores
from callbacks.results import ResultsWriter, results_table, write_json
from components.contracts import MetricResult
from tests.callbacks.jumping_squares import JumpingSquares, SquareClips


class Reports(L.Callback):
    """Reports one metric: how often it was asked."""

    def __init__(self, value=None, ci95=(0.0, 9.0), n=2):
        self.results, self.clip_rows = {}, {}
        self.value, self.ci95, self.n = value, ci95, n

    def on_validation_epoch_end(self, trainer, pl_module):
        seen = self.results["asked"].value + 1 if self.results else 1.0
        value = seen if self.value is None else self.value
        self.results = {"asked": MetricResult(value, self.ci95, self.n, {"spread": math.nan, "at": {"0.1": (1.0,)}})}


def trainer_with(folder, *callbacks, **kwargs):
    return L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **kwargs,
    )


def test_results_of_the_last_validation_count(tmp_path, capsys):
    # the writer comes first: it must wait for the others
    trainer = trainer_with(tmp_path, ResultsWriter(), Reports(), max_steps=3, val_check_interval=1)
    trainer.fit(JumpingSquares(), datamodule=SquareClips())
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["metrics"] == {
        "asked": {"value": 3.0, "ci95": [0.0, 9.0], "n": 2, "spread": None, "at": {"0.1": [1.0]}}
    }
    assert record["global_step"] == 3 and record["config_sha256"] is None and record["ckpt_path"] is None
    assert "asked" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


class Scores(Reports):
    """Reports a score for every clip, too."""

    def on_validation_epoch_end(self, trainer, pl_module):
        super().on_validation_epoch_end(trainer, pl_module)
        found = {"asked": 2.5, "unknown": 1.0}
        self.clip_rows = {
            "a/1": {"video_id": "a", "scores": found, "kinds": {"asked": "w0"}},
            "ü": {"scores": {"asked": math.nan}},
        }


def test_the_table_has_rows_of_parts_that_are_not_everything():
    part = {"ci95": [0.0, 9.0], "n": 2, "value": 3.0}
    groups = {"subset": {"speech": part}, "language": {"en": part, "zh": part}, "folder": {"a": part, "b": part}}
    shown = results_table({"wer": MetricResult(3.0, (0.0, 9.0), 2, {"groups": groups})}, "")
    assert list(shown.columns[0].cells) == ["wer", "  en", "  zh"]


def test_scores_of_clips_stand_beside_the_results(tmp_path):
    (tmp_path / "clips.jsonl").write_text("of an earlier run")
    trainer = trainer_with(tmp_path, ResultsWriter(), Scores())
    trainer.validate(JumpingSquares(), datamodule=SquareClips(), verbose=False)
    # what is no entry of results.json is no score either; what is no number has none
    assert read_clip_scores(tmp_path / "clips.jsonl") == [
        ClipScore("a/1", "a", "w0", "asked", 2.5),
        ClipScore("ü", "ü", "generated", "asked", None),
    ]
    first = json.loads((tmp_path / "clips.jsonl").read_text().splitlines()[0])
    assert list(first) == ["clip", "recording", "kind", "metric", "value", "judge"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clips.jsonl", "results.json"]
    trainer_with(tmp_path, ResultsWriter(), Reports()).validate(
        JumpingSquares(), datamodule=SquareClips(), verbose=False
    )
    assert not (tmp_path / "clips.jsonl").exists()


def test_no_result_is_overwritten_by_another_of_its_name(tmp_path):
    trainer = trainer_with(tmp_path, Reports(1.0), Reports(2.0), ResultsWriter())
    with pytest.warns(RuntimeWarning, match="the metric asked is reported by Reports and by another callback"):
        trainer.validate(JumpingSquares(), datamodule=SquareClips(), verbose=False)
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["metrics"] == {} and "give it another name" in record["failed"][0]


def test_nothing_is_there_before_the_end(tmp_path):
    class Looks(L.Callback):
        def __init__(self):
            self.seen = []

        def on_validation_end(self, trainer, pl_module):
            self.seen.append((tmp_path / "results.json").exists())

        def on_fit_end(self, trainer, pl_module):
            self.seen.append((tmp_path / "results.json").exists())

    (tmp_path / "results.json").write_text("{}")
    looks = Looks()
    trainer = trainer_with(tmp_path, ResultsWriter(), looks, max_steps=1, val_check_interval=1)
    trainer.fit(JumpingSquares(), datamodule=SquareClips())
    assert looks.seen == [False, False]


def test_a_failure_at_the_very_end_leaves_nothing(tmp_path):
    class FailsLast(L.Callback):
        def on_fit_end(self, trainer, pl_module):
            raise OSError("no space left")

    trainer = trainer_with(tmp_path, Reports(), ResultsWriter(), FailsLast(), max_steps=1, val_check_interval=1)
    with pytest.raises(OSError):
        trainer.fit(JumpingSquares(), datamodule=SquareClips())
    assert not (tmp_path / "results.json").exists()


def test_an_interval_over_one_item_is_null(tmp_path):
    trainer = trainer_with(tmp_path, Reports(ci95=(math.nan, math.nan), n=1), ResultsWriter())
    trainer.validate(JumpingSquares(), datamodule=SquareClips(), verbose=False)
    assert json.loads((tmp_path / "results.json").read_text())["metrics"]["asked"]["ci95"] == [None, None]
    assert MetricResult(1.0, (math.nan, math.nan), 1).interval_text == "–"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_said_and_the_others_are_kept(tmp_path, value):
    class Finite(Reports):
        def on_validation_epoch_end(self, trainer, pl_module):
            self.results = {"other": MetricResult(4.0, (3.0, 5.0), 2)}

    trainer = trainer_with(tmp_path, Reports(value), Finite(), ResultsWriter())
    with pytest.warns(RuntimeWarning, match=r"keep asked \((nan|inf) over 2 items\) at step 0: no finite number"):
        trainer.validate(JumpingSquares(), datamodule=SquareClips(), verbose=False)
    record = json.loads((tmp_path / "results.json").read_text())
    assert list(record["metrics"]) == ["other"]
    (said,) = record["failed"]
    assert said.startswith("ResultsWriter failed to keep asked (")


def test_a_run_without_evaluation_has_no_metrics(tmp_path, capsys):
    trainer = trainer_with(tmp_path, ResultsWriter(), max_steps=2, limit_val_batches=0)
    trainer.fit(JumpingSquares(), datamodule=SquareClips())
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["metrics"] == {} and record["global_step"] == 2
    assert "Results at" not in capsys.readouterr().out


def test_a_broken_record_never_replaces_a_whole_one(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": math.nan})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
