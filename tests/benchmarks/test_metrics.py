"""Counts of the judges are those of their layers, and the table of the docs is the command's."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.judge_networks import JUDGES
from benchmarks.metrics import built, cost, main, named

pytestmark = pytest.mark.gate

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"
QUICK = ("speaker_similarity", "relsync", "sync_c, sync_d")


def printed(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[dict[str, list[str]], str]:
    """Rows of the table by their entries, and the text."""
    main(options)
    text = capsys.readouterr().out
    return {name: rest for name, *rest in (re.split(r"\s{2,}", line) for line in text.splitlines())}, text


def test_flops_are_those_of_the_layers():
    (judge,) = named(["speaker_similarity"])
    found = cost(judge)
    assert found is not None
    # 5 s are 5 windows of 160 frames, of either voice
    by_step = sum(4 * 256 * (inputs + 256) for inputs in (40, 256, 256))
    assert found.portion_flops == 2 * 2 * 5 * (160 * by_step + 256 * 256)
    biases = 3 * 2 * 4 * 256 + 256
    assert found.parameters == by_step + 256 * 256 + biases
    assert found.weight_bytes > 4 * found.parameters  # mel filters are no parameters
    assert found.memory_bytes > found.weight_bytes + 4 * 5 * 160 * 256


def test_shapes_count_what_computing_counts():
    (judge,) = named(["FAD VGGish"])
    assert cost(replace(judge, shapes_suffice=False)) == cost(judge)


def test_totals_are_the_sum_of_the_rows(capsys: pytest.CaptureFixture[str]):
    rows, text = printed(capsys, "--only", "speaker_similarity", "relsync", "--clips=10", "--tflops=0.5")
    costs = [cost(judge) for judge in named(["speaker_similarity", "relsync"])]
    clip = 6 * costs[0].portion_flops + costs[1].portion_flops
    seconds = float(re.search(r"([\d.]+) s at 0.5 TFLOP/s", text)[1])
    assert seconds == pytest.approx(10 * clip / 0.5e12, abs=0.06)
    assert rows["relsync"][2] == f"{6 * costs[0].portion_flops / 1e12:.3g}"
    assert "10 clips by all" in text and "the largest, ASVA's classifier," in text


def test_measured_beside_counted(capsys: pytest.CaptureFixture[str]):
    rows, text = printed(capsys, "--only", "speaker_similarity", "--measure")
    assert re.fullmatch(r"\d+\.\d\d s", rows["speaker_similarity"][-2])
    assert "1 of 1 measured: 150 clips take" in text and "threads" in text
    rows, text = printed(capsys, "--only", "speaker_similarity", "--measure", "--at-most=0.001")
    assert rows["speaker_similarity"][-2:] == ["-", "-"] and "0 of 1 measured" in text


def test_a_judge_that_is_not_there(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--only", "desnyc"])
    assert "'desnyc', which is no judge's" in capsys.readouterr().err


def test_what_the_networks_are_given_is_theirs():
    assert all(judge.portions > 0 for judge in JUDGES)
    (judge,) = named(["aesthetic_quality SigLIP"])
    assert sum(weight.numel() for weight in built(judge, "meta")["net"].parameters()) == pytest.approx(428e6, rel=0.01)


def test_the_docs_hold_the_commands_table(capsys: pytest.CaptureFixture[str]):
    lines = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in DOCS.read_text().splitlines()]
    # the last column, of seconds, is a machine's
    table = {(cells[0].replace("`", ""), cells[1]): cells[2:-1] for cells in lines if len(cells) == 7}
    assert set(table) >= {(judge.entries, judge.network) for judge in JUDGES}
    rows, _ = printed(capsys, "--only", *QUICK)
    for entries in QUICK:
        network, *counts = rows[entries]
        assert table[entries, network] == counts
