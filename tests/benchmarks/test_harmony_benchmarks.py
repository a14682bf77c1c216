"""Harmony's benchmarks at their smallest size: both sides of a ratio do the same work, and the figures are right."""

import argparse
import importlib
import re
from dataclasses import replace

import pytest

from benchmarks.driver_features import TASKS
from benchmarks.driver_features import count_flops as count_sampling
from benchmarks.frame_attention import GLOBAL, ways
from benchmarks.harmony_interaction import count_flops, flops_by_formula
from benchmarks.harmony_sizes import FULL_DEPTH, SIZES, HarmonySize
from benchmarks.sync_cfg_step import ONE, GuidedStep

pytestmark = pytest.mark.gate

TINY = HarmonySize(2, 2, 24, 24, 1, latents=4, rows=2, columns=3, audio=17, reference=5, words=4)
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in vars(TINY).items()] + ["--repeats=1"]
NO_TABLE = ["--full"]


def printed(name: str, options: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    importlib.import_module(f"benchmarks.{name}").main(options)
    return capsys.readouterr().out


def cells(text: str) -> dict[str, list[str]]:
    """Rows of a table by their first column."""
    return {name: rest for name, *rest in (re.split(r"\s{2,}", line) for line in text.splitlines())}


def arguments() -> argparse.Namespace:
    """The command line of the smallest size."""
    how = {"size": "small", "device": "cpu", "bfloat16": False, "compile": False}
    return argparse.Namespace(**{**how, **vars(TINY), "half_window": 0.5, "kernels": ["banded", "gather"]})


# --- interaction -------------------------------------------------------------------------------------------------


def test_the_interaction_costs_what_it_adds_and_changes_nothing_at_first(capsys: pytest.CaptureFixture[str]):
    text = printed("harmony_interaction", [*OPTIONS, *NO_TABLE], capsys)
    without, counted = count_flops(TINY, False), count_flops(TINY, True)
    line = cells(text)["ratio with / without"]
    assert float(line[1]) == pytest.approx(counted / without, abs=0.006) and counted > 1.01 * without
    assert float(line[3]) == pytest.approx(count_flops(TINY, True, True) / count_flops(TINY, False, True), abs=0.006)
    assert "at most 0.0e+00" in text and "threads" in text


def test_depth_is_extrapolated_exactly():
    two, three = (count_flops(replace(TINY, layers=layers), True) for layers in (2, 3))
    four = count_flops(replace(TINY, layers=4), True)
    assert four - three == three - two > 0


def test_formula_and_counter_agree():
    wide = replace(TINY, heads=4, interaction_width=48, rows=4, columns=4, layers=3)
    added = count_flops(wide, True) - count_flops(wide, False)
    assert added == flops_by_formula(wide)


def test_a_backward_pass_costs_two_forward_passes():
    deep = replace(TINY, layers=6)
    assert count_flops(deep, True, train=True) == pytest.approx(3 * count_flops(deep, True), rel=0.05)


def test_the_full_layers_cost_what_the_reference_counts(capsys: pytest.CaptureFixture[str]):
    rows = cells(printed("harmony_interaction", [*OPTIONS, "--full", "704p"], capsys))
    narrow, wide = (rows[f"704p, 27,280 tokens, width {width}"] for width in (1024, 3072))
    assert float(narrow[0]) == pytest.approx(517, abs=0.5)
    assert (narrow[4], wide[4]) == ("+6.2 %", "+18.7 %")
    assert SIZES["480p"].video == 12_090 and FULL_DEPTH == 30


# --- frame-level attention ---------------------------------------------------------------------------------------


def test_kernels_agree_and_say_what_cannot_run_here(capsys: pytest.CaptureFixture[str]):
    text = printed("frame_attention", [*OPTIONS, "--half-window=0.5"], capsys)
    rows = cells(text)
    for direction in ("video from audio", "audio from video"):
        assert rows[f"{direction}: {GLOBAL}"][1] == rows[f"{direction}: {GLOBAL}"][3] == "1.00"
        for kernel in ("gather", "flex, not compiled"):
            assert float(rows[f"{direction}: {kernel}"][-1]) < 1e-5
        assert rows[f"{direction}: flex, not compiled"][2] == "not on this device"
        assert all(float(cell) > 0 for cell in (rows[f"{direction}: banded"][i] for i in (1, 3)))
    assert text.count("FlexAttention does not support backward on CPU") == 1


def test_windows_change_the_result():
    found = ways(arguments(), TINY)
    for direction in ("video from audio", "audio from video"):
        banded, everything = (found[direction, name].run(False) for name in ("banded", GLOBAL))
        assert (banded - everything).abs().max() > 0.1


def test_a_kernel_that_fails_is_noted_and_not_raised():
    way = ways(arguments(), TINY)["video from audio", "banded"]
    way.qkv = [way.qkv[0], way.qkv[1][:, :, 1:], way.qkv[2]]
    way.check(False)
    assert way.failures[False]


# --- drivers ------------------------------------------------------------------------------------------------------


def test_features_of_drivers_are_kept_for_fewer_flops(capsys: pytest.CaptureFixture[str]):
    text = printed("driver_features", [*OPTIONS, "--steps=3", "--full"], capsys)
    rows = cells(text)
    for task in TASKS:
        assert float(rows[task.name][-1]) < 1e-4
        kept, anew = (count_sampling(TINY, task, keep, 3) for keep in (True, False))
        assert float(rows[task.name][-2]) == pytest.approx(kept / anew, abs=6e-4) and kept < anew
    sound, video = (float(rows[task.name][-2]) for task in TASKS[2:])
    assert sound < 0.65 < video  # of a given video nearly everything, of a given sound hardly anything


# --- guided step -------------------------------------------------------------------------------------------------


def test_rows_in_one_call_are_separate_calls(capsys: pytest.CaptureFixture[str]):
    text = printed("sync_cfg_step", [*OPTIONS, "--clips=2"], capsys)
    rows = cells(text)
    for guidance, num in (("none", 1), ("text", 2), ("sync", 3), ("text+sync", 4)):
        assert int(rows[guidance][0]) == num and float(rows[guidance][-1]) < 1e-4
    found = re.search(r"spread of (\S+) \(video\) and (\S+) \(audio\)", text)
    assert found and float(found[1]) > 0.1 and float(found[2]) > 0.1


def test_anchors_change_the_step():
    step = GuidedStep(arguments())
    for plain, guided in zip(step(ONE, "none"), step(ONE, "sync"), strict=True):
        assert (plain - guided).abs().max() > 1e-3


# --- modulation --------------------------------------------------------------------------------------------------


def test_modulation_per_frame_is_the_same_for_less(capsys: pytest.CaptureFixture[str]):
    larger = ["--heads=4", "--rows=8", "--columns=8"]  # peaks are not those of a few tokens' attention
    text = printed("modulation", [*OPTIONS, *larger, "--full", "480p"], capsys)
    rows = cells(text)
    _, peak, _, peak_of_training, kept = (float(cell) for cell in rows["ratio frame / token"])
    assert peak < 0.9 and peak_of_training < 0.95 and kept < 0.95
    found = re.search(r"spread (\S+)\) differ by at most (\S+)", text)
    assert found and float(found[1]) > 0.1 and float(found[2]) < 1e-6
    token, frame = (rows[f"480p, {way}"] for way in ("per token (diffusers)", "per latent frame"))
    gib = [float(cell.split()[0]) for cell in (token[1], frame[1], token[2], frame[2])]
    # a full set of six vectors per token in bfloat16 and another in float32, beside what both ways hold
    assert gib[0] - gib[1] > 0.9 and gib[2] - gib[3] > 0.9
