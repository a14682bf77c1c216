"""Every benchmark runs at its smallest size and prints its ratio."""

import argparse
import importlib
import re

import pytest

from benchmarks import measure

MODEL = [
    *("--heads=1", "--joint-blocks=1", "--single-blocks=1", "--channels=4"),
    *("--clips=4", "--latents=2", "--size=8", "--repeats=1"),
]
VIDEO = ["--widths", *"8888", "--groups=4", "--frames=17", "--height=16", "--width=16", "--decode-window=1"]
BATCH = [
    *("--heads=1", "--joint-blocks=1", "--single-blocks=1", "--words=2"),
    *("--latents=2", "--height=8", "--width=8"),
]
SMALL = {
    "frozen_prefix": (MODEL, "ratio frozen / all", 3),
    "shared_prefix": (MODEL, "ratio shared / separate", 2),
    "pyramid_savings": ([*MODEL, "--steps=1"], "merged", 2),
    "columns": (MODEL, "one call", 1),
    "decode_throughput": (["--clips=1", "--frames=25", "--size=32", "--repeats=1"], "read_clip", 1),
    "random_windows": (
        ["--minutes=0.2", "--height=32", "--width=48", "--windows=2", "--frames=9", "--clips=4", "--repeats=1"],
        "read_clip",
        1,
    ),
    "loading": (
        ["--recordings=2", "--seconds=2", "--frames=17", "--size", "32", "48", "--batch-size=1", "--repeats=1"],
        "from a cache",
        1,
    ),
    "vae": ([*VIDEO, "--repeats=1"], "decode, chunks of 1", 2),
    "dit_forward": ([*BATCH, "--matrices=32", "--repeats=1"], "bfloat16", 1),
    "elementwise": (["--tokens=16", "--repeats=1"], "RMS norm", 2),
    "cpu_attention": (["--tokens=16", "--total=32", "--heads=1", "--repeats=1"], "attention, 16 tokens", 2),
}


def printed(name: str, options: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    importlib.import_module(f"benchmarks.{name}").main(options)
    return capsys.readouterr().out


@pytest.mark.parametrize("clock", [[], ["--cpu-time"]])
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_prints_its_ratios(name: str, clock: list[str], capsys: pytest.CaptureFixture[str]):
    options, row, count = SMALL[name]
    text = printed(name, [*options, *clock], capsys)
    (line,) = [line for line in text.splitlines() if line.startswith(row)]
    ratios = [float(number) for number in re.findall(r"(?<!\S)\d+\.\d\d(?!\S| ms)", line)]
    assert len(ratios) == count, line
    assert "threads" in text and "torch" in text
    assert ("processor time" if clock else "wall time") in text


def test_frozen_blocks_keep_fewer_activations_and_less_state(capsys: pytest.CaptureFixture[str]):
    options, row, _ = SMALL["frozen_prefix"]
    text = printed("frozen_prefix", options, capsys)
    (line,) = [line for line in text.splitlines() if line.startswith(row)]
    _, activations, state = (float(number) for number in line.split()[-3:])
    assert activations < 0.9 and state < 0.9


def test_both_ways_of_guiding_agree(capsys: pytest.CaptureFixture[str]):
    options, _, _ = SMALL["shared_prefix"]
    found = re.search(r"spread (\S+)\) differ by at most (\S+)", printed("shared_prefix", options, capsys))
    assert found and float(found[1]) > 0.1 and float(found[2]) < 1e-3


def test_rounds_are_interleaved_in_turning_order():
    calls: list[str] = []
    actions = {name: lambda name=name: calls.append(name) for name in "ab"}
    args = argparse.Namespace(repeats=3, cpu_time=False)
    seconds = measure.interleaved(actions, args)
    assert "".join(calls) == "baabbaab"
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert measure.ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == 2.0
