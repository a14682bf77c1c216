"""Encoded clips are trained on to the same loss, and what is not encoded is not counted."""

import re

import pytest

from benchmarks import cached_step

pytestmark = pytest.mark.gate

SMALL_VAE = ["--clip.num_frames=17", "--clip.min_frames=null", "--clip.height=64", "--clip.width=64"]


def test_a_step_is_timed_three_ways_with_one_loss(capsys: pytest.CaptureFixture[str], tmp_path):
    options = [f"--data.root={tmp_path}", "--data.num_test=1"]
    cached_step.main(["--systems", "Syncphony", "--clips=4", "--repeats=1", *options])
    text = capsys.readouterr().out
    for way in ("whole", "prefixes", "cached"):
        assert re.search(rf"^Syncphony, {way} +\S+ ms +\d\.\d\d$", text, re.MULTILINE)
    assert float(re.search(r"losses differ by at most (\S+)", text)[1]) < 1e-5


def test_encoding_is_counted_where_it_is_done(capsys: pytest.CaptureFixture[str]):
    """The full model on small clips, where text weighs more: the share grows with the clips."""
    cached_step.main(["--flops", "--systems", "Syncphony", *SMALL_VAE])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("Syncphony")]
    (whole, prefixes, cached) = ([float(cell) for cell in row[2:]] for row in rows)
    assert whole[1] == prefixes[1] == cached[1] and whole[0] > prefixes[0] > cached[0] == 0
    assert whole[3] > prefixes[3] > 0.3 and cached[3] == 0
