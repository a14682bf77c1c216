import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from callbacks.clip_scores import ClipScore, write_clip_scores
from lightning_modules.command_line.cli import main

JUDGE = "0123456789abcdef"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_run(name, scores, judge=JUDGE, entries=None, kind="generated", metric="cyclesync"):
    """A run whose clips ``recording/number`` have the given scores."""
    rows = [ClipScore(clip, clip.partition("/")[0], kind, metric, value, judge) for clip, value in scores.items()]
    write_clip_scores(Path(name) / "clips.jsonl", rows)
    if entries is not None:
        (Path(name) / "results.json").write_text(json.dumps({"metrics": entries}))


def compare(capsys, *args):
    status = main(["compare", *args])
    return status, *capsys.readouterr()


def found(capsys, *args):
    status, out, err = compare(capsys, *args, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def test_names_may_hold_what_ends_a_line_elsewhere(capsys):
    for name in ("one", "other"):
        write_run(name, {"a\u2028b/0": 1.0, "c\x85/0": 3.0})
    assert found(capsys, "one", "other")["metrics"]["cyclesync"]["n_clips"] == 2


def test_two_recordings_by_hand(capsys):
    # recording a: 50 and 100 against 70 and 100; recording b: 0 against 60. Means 37.5 and 72.5
    write_run("one", {"a/1": 50.0, "a/2": 100.0, "b/1": 0.0, "c/1": 7.0, "d/1": None})
    write_run("two", {"b/1": 60.0, "a/2": 100.0, "a/1": 70.0, "d/1": 3.0, "e/1": 1.0, "e/2": 2.0})
    record = found(capsys, "one", "two")
    assert record["metrics"]["cyclesync"] == {
        "a": 37.5,
        "b": 72.5,
        "difference": 35.0,
        "ci95": [10.0, 60.0],  # both draws fall on one recording in a quarter of the cases each
        "n": 2,
        "n_clips": 3,
        "only_a": 1,
        "only_b": 2,
        "unscored": 1,
    }
    assert (record["a"], record["b"], record["not_compared"]) == ("one", "two", {})
    status, out, _ = compare(capsys, "one", "two")
    assert status == 0
    for text in ("37.50", "72.50", "+35.00", "10.00 to 60.00", "A: one", "B: two"):
        assert text in out
    left_out = "1 only in A, 2 only in B, 1 without a score in one of them"
    assert f"cyclesync: left out are clips {left_out}" in out


def test_a_run_is_its_own_equal(capsys):
    scores = {f"r{k}/{k}": random.Random(k).uniform(0, 100) for k in range(20)}
    write_run("one", scores)
    item = found(capsys, "one", "one/clips.jsonl")["metrics"]["cyclesync"]
    assert (item["difference"], item["ci95"]) == (0, [0, 0])


def test_a_planted_difference_is_found_where_unpaired_intervals_overlap(capsys):
    generator = np.random.default_rng(2)
    base = generator.uniform(0, 90, 30)  # clips differ much, the runs little
    gain = generator.normal(4, 3, 30)
    write_run("one", {f"r{k}/0": float(value) for k, value in enumerate(base)})
    write_run("two", {f"r{k}/0": float(value) for k, value in enumerate(base + gain)})
    item = found(capsys, "one", "two")["metrics"]["cyclesync"]
    low, high = item["ci95"]
    assert item["difference"] == pytest.approx(gain.mean())
    half = 1.96 * gain.std(ddof=1) / 30**0.5
    assert (low, high) == pytest.approx((gain.mean() - half, gain.mean() + half), abs=0.2)
    assert 0 < low < 4 < high < 6
    # and back again
    back = found(capsys, "two", "one")["metrics"]["cyclesync"]
    assert back["difference"] == -item["difference"] and back["ci95"] == pytest.approx([-high, -low])


def test_one_recording_has_no_interval(capsys):
    write_run("one", {"a/1": 1.0, "a/2": 2.0})
    write_run("two", {"a/1": 2.0, "a/2": 3.0})
    assert found(capsys, "one", "two")["metrics"]["cyclesync"]["ci95"] == [None, None]
    assert "over one recording there is no interval" in compare(capsys, "one", "two")[1]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([{"tolerance_s": 0.05}, {"tolerance_s": 0.1}], "judged otherwise (tolerance_s 0.05 and 0.1)"),
        ([{"v2a_sha256": "ab"}, {"v2a_sha256": "cd"}], "judged otherwise (v2a_sha256 ab and cd)"),
        ([None, None], "judged by different judges, or with different settings"),
    ],
)
def test_other_judges_are_refused(capsys, entries, reason):
    for name, judge, entry in zip(("one", "two"), (JUDGE, "f" * 16), entries, strict=True):
        write_run(name, {"a/1": 1.0, "b/1": 2.0}, judge, entry and {"cyclesync": entry})
    assert compare(capsys, "one", "two") == (
        2,
        "",
        f"error: nothing of 'one' and 'two' can be compared (cyclesync: {reason}); evaluate both alike\n",
    )
    # what is judged alike is compared all the same
    for name in ("one", "two"):
        lines = (Path(name) / "clips.jsonl").read_text()
        write_run(name, {"a/1": 1.0, "b/1": 2.0}, "same", metric="sync_c")
        with (Path(name) / "clips.jsonl").open("a") as stream:
            stream.write(lines)
    record = found(capsys, "one", "two")
    assert list(record["metrics"]) == ["sync_c"] and record["not_compared"] == {"cyclesync": reason}


def test_what_only_one_run_has_is_said(capsys):
    write_run("one", {"a/1": 1.0, "b/1": 2.0})
    write_run("two", {"a/1": 1.0, "b/1": 2.0})
    with Path("two/clips.jsonl").open("a") as stream:
        row = {"clip": "a/1", "recording": "a", "kind": "w0", "metric": "cyclesync_w0", "value": 1, "judge": None}
        stream.write(json.dumps(row) + "\n")
    assert found(capsys, "one", "two")["not_compared"] == {"cyclesync_w0": "only in two"}
    write_run("three", {"a/1": None, "b/1": None})
    assert "no clip has a score in both runs" in compare(capsys, "one", "three")[2]


def test_bad_runs(capsys):
    def complaint(*args):
        status, out, err = compare(capsys, *args)
        assert (status, out) == (2, "")
        return err

    write_run("runs/x/version_3", {"a/1": 1.0, "b/1": 2.0})
    good = "runs/x/version_3"
    assert complaint(good, "gone") == (
        "error: 'gone' does not exist; give a run's folder, such as runs/quickstart/version_0\n"
    )
    assert "give one of its runs: version_3" in complaint("runs/x", good)
    Path("empty").mkdir()
    assert "evaluate the run again (avsync validate)" in complaint("empty", good)
    assert "use avsync compare RUN RUN" in complaint(good)
    clips = Path(good, "clips.jsonl")
    whole = clips.read_text()
    clips.write_text(whole + '{"clip": "a"}\n')
    assert f"line 3 of '{clips}' is no score of a clip" in complaint(good, good)
    clips.write_text(whole.replace("1.0", "NaN"))
    assert f"line 1 of '{clips}' is no score of a clip" in complaint(good, good)
    clips.write_text(whole * 2)
    assert "has two scores cyclesync of clip a/1" in complaint(good, good)
    clips.write_text(whole)
    Path(good, "results.json").write_text("{}")
    assert "is no results.json of a run" in complaint(good, good)
    write_run("moved", {"a/1": 1.0, "b/1": 2.0})
    Path("moved/clips.jsonl").write_text(Path("moved/clips.jsonl").read_text().replace('"b"', '"a"'))
    Path(good, "results.json").unlink()
    assert "clip b/1 was cut from recording b in one run and from a in the other" in complaint(good, "moved")


def test_it_starts_without_torch_and_stands_in_the_help():
    write_run("one", {"a/1": 1.0, "b/1": 2.0})
    code = (
        "import sys; from lightning_modules.__main__ import main; sys.argv = ['avsync', 'compare', 'one', 'one']; "
        "status = main(); sys.exit('slow' if {'torch', 'lightning', 'torchmetrics'} & set(sys.modules) else status)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cyclesync" in done.stdout


def test_the_help_names_it(capsys):
    assert main(["--help"]) == 0
    assert "avsync compare (what differs between two" in " ".join(capsys.readouterr().out.split())
    assert main(["compare", "--help"]) == 0
    assert "RUN RUN" in capsys.readouterr().out
