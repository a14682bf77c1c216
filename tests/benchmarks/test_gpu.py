"""The GPU benchmark: rows cannot hang or spoil each other, files stay whole, and every row runs at toy size."""

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from benchmarks.gpu.__main__ import chosen, main, run_rows
from benchmarks.gpu.command_line_checks import with_its_bases
from benchmarks.gpu.harmony_figures import as_many_layers_as_fit
from benchmarks.gpu.order import ROWS
from benchmarks.gpu.random_clips import RandomClips
from benchmarks.gpu.results import JSON_FILE, REHEARSAL, TABLE_FILE, Results
from benchmarks.gpu.rows import ROOT, Place, Row, relative_difference
from components.errors import InputError
from components.media.clock import ClipShape
from tests.benchmarks.misbehaving_rows import dies, finds_something, hangs, is_wrong, raises


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What the program changes of its own process does not reach other tests."""
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    yield
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGTERM, handler)


def records(folder: Path) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads((folder / JSON_FILE).read_text())["rows"]}


def run(rows: list[Row], folder: Path, minutes: float = 10.0) -> dict[str, dict]:
    run_rows(rows, Place("cpu", folder), Results(folder, [row.name for row in rows], True), minutes)
    return records(folder)


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.gate
def test_a_row_that_fails_hangs_or_dies_does_not_stop_the_others(tmp_path: Path):
    rows = [
        Row("good", "finds", finds_something),
        Row("wrong", "is wrong", is_wrong),
        Row("raising", "raises", raises),
        Row("again", "finds", finds_something),
        Row("hanging", "hangs", hangs, bound_s=2.0),
        Row("dying", "dies", dies),
        Row("absent", "cannot run", finds_something, needs=("no_such_module",)),
        Row("last", "finds", finds_something),
    ]
    found = run(rows, tmp_path)

    assert list(found) == [row.name for row in rows]
    statuses = {name: row["status"] for name, row in found.items()}
    assert statuses == {
        "good": "passed",
        "wrong": "failed",
        "raising": "failed",
        "again": "passed",
        "hanging": "timed out",
        "dying": "crashed",
        "absent": "left out",
        "last": "passed",
    }
    assert found["wrong"]["comparisons"]["not a number"] == {"difference": "nan", "allowed": 1.0, "passed": False}
    assert "too large differs by 2" in found["wrong"]["reason"]
    assert "truth does not hold" in found["wrong"]["reason"]
    assert "RuntimeError: on purpose" in found["raising"]["traceback"]
    assert found["absent"]["reason"] == "needs no_such_module"
    assert [found[name]["values"]["before"] for name in ("raising", "hanging", "dying")] == [1, 2, 3]
    assert "last words" in found["dying"]["traceback"]
    assert not is_running(found["hanging"]["values"]["child"])

    values = [found[name]["values"] for name in ("good", "again", "last")]
    assert values[0]["process"] == values[1]["process"] != values[2]["process"]  # one start for many rows
    assert values[0]["drawn"] == values[1]["drawn"] == values[2]["drawn"]  # no random numbers are carried over
    table = (tmp_path / TABLE_FILE).read_text()
    assert REHEARSAL in table
    assert all(f"| {row.name} |" in table for row in rows)


def test_rows_without_time_are_left_out(tmp_path: Path):
    found = run([Row("late", "has no time", finds_something)], tmp_path, minutes=0.0)
    assert (found["late"]["status"], found["late"]["reason"]) == ("left out", "no time")


STOPPED = """
import sys
from pathlib import Path
from benchmarks.gpu import __main__ as program
from benchmarks.gpu.rows import Row
from tests.benchmarks.misbehaving_rows import finds_something, hangs
program.ROWS[:] = [Row("good", "finds", finds_something), Row("hanging", "hangs", hangs, bound_s=600.0)]
if __name__ == "__main__":
    sys.exit(program.main(["--out", sys.argv[1]]))
"""


@pytest.mark.gate
@pytest.mark.parametrize("how", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_stop_leaves_whole_files(how: signal.Signals, tmp_path: Path):
    script, out = tmp_path / "stopped.py", tmp_path / "out"
    script.write_text(STOPPED)
    program = subprocess.Popen([sys.executable, script, out], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 120
    while "child" not in (records(out).get("hanging", {}).get("values", {}) if (out / JSON_FILE).exists() else {}):
        assert time.monotonic() < deadline
        assert program.poll() is None
        time.sleep(0.2)
    child = records(out)["hanging"]["values"]["child"]
    program.send_signal(how)
    program.wait(30)

    found = records(out)
    assert found["good"]["status"] == "passed"
    assert (found["hanging"]["status"], found["hanging"]["values"]["before"]) == ("begun", 2)
    assert "| good | passed |" in (out / TABLE_FILE).read_text()
    while is_running(child):  # what the row started ends with the program, however that ended
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_only_replaces_rows_of_an_earlier_run(tmp_path: Path):
    order = ["first", "second"]
    for number, names in enumerate((order, ["second"])):
        results = Results(tmp_path, order, True)
        for name in names:
            results.begin(name, "about")["values"]["number"] = number
            results.write()
    assert {name: row["values"]["number"] for name, row in records(tmp_path).items()} == {"first": 0, "second": 1}
    with pytest.raises(InputError, match="holds a rehearsal"):
        Results(tmp_path, order, is_rehearsal=False)
    (tmp_path / JSON_FILE).write_text("[]")
    with pytest.raises(InputError, match="not written by this benchmark"):
        Results(tmp_path, order, True)


def test_names(capsys: pytest.CaptureFixture[str]):
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == names
    assert [row.name for row in chosen([names[3], names[1]])] == [names[1], names[3]]
    with pytest.raises(InputError, match="'nonsense', which is no row"):
        chosen(["nonsense"])


def test_layers_are_halved_while_memory_runs_out():
    """The tensors of an attempt that failed are gone before the next one begins."""
    tried, alive = [], []

    class Step:
        def __init__(self, layers: int):
            tried.append((layers, [held() is not None for held in alive]))
            alive.append(weakref.ref(self))
            self.layers = layers

        def __call__(self):
            if self.layers > 2:
                raise torch.OutOfMemoryError("no memory")

    with patch("torch.cuda.empty_cache"):
        step, layers = as_many_layers_as_fit(9, Step, Place("cpu", Path()))
    assert (step.layers, layers) == (2, 2)
    assert tried == [(9, []), (4, [False]), (2, [False, False])]


def test_random_clips_go_on_where_they_stopped():
    data = RandomClips(ClipShape(num_frames=9, height=16, width=24, sample_rate=16_000), batch_size=2, num_batches=3)
    batches = list(data.train_dataloader())
    assert [batch.position for batch in batches] == [0, 2, 4]
    assert batches[0].video.shape == (2, 9, 3, 16, 24)
    assert batches[0].audio.shape == (2, 6000)
    data.load_state_dict({"seen": 1})
    again = next(iter(data.train_dataloader()))
    assert torch.equal(again.video, batches[1].video)
    assert not torch.equal(again.video, batches[0].video)


def test_an_experiment_is_put_together_from_the_files_it_builds_on():
    config = with_its_bases(ROOT / "configs/harmony/quickstart.yaml")
    settings = config["model"]["init_args"]
    assert "base" not in config
    assert {"audio_codec", "video_codec"} <= settings.keys()  # of the base, of the file itself
    assert {"audio", "video", "time_map"} <= settings["transformer"]["init_args"].keys()


def test_relative_difference():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert relative_difference([b], [a]) == pytest.approx(0.1)
    assert relative_difference([a / 0], [a]) == float("inf")
    assert relative_difference([a], [a * 0]) == float("inf")


@pytest.mark.gate
@pytest.mark.skipif(torch.cuda.is_available(), reason="would not be a rehearsal")
def test_the_cheap_rows_run_at_toy_size(tmp_path: Path):
    cheap = [row.name for row in ROWS if row.in_ci]
    assert len(cheap) >= 10
    assert main(["--out", str(tmp_path), "--only", *cheap]) == 0
    found = records(tmp_path)
    assert {name: row.get("reason") or row["status"] for name, row in found.items()} == dict.fromkeys(cheap, "passed")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_card", "sharded"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="would not be a rehearsal")
def test_rows_read_the_checkpoints_that_commands_have_written(tmp_path: Path, name: str):
    assert main(["--out", str(tmp_path), "--only", name]) == 0
    assert records(tmp_path)[name]["status"] == "passed"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="would not be a rehearsal")
def test_every_row_runs_at_toy_size(tmp_path: Path):
    assert main(["--out", str(tmp_path)]) == 0
    assert {row["status"] for row in records(tmp_path).values()} == {"passed"}
    assert list(records(tmp_path)) == [row.name for row in ROWS]


@pytest.mark.gpu
def test_every_row_on_a_card(tmp_path: Path):
    assert main(["--out", str(tmp_path), "--minutes", "14"]) == 0
