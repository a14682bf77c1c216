"""What merging the last step changes is held against the right pictures."""

import math
import re

import pytest
import torch

from benchmarks.merged_step import FEWER, FULL, MERGED, main, psnr_db

pytestmark = pytest.mark.gate


def test_a_peak_ratio_is_that_of_the_mean_square():
    zero = torch.zeros(2, 3)
    assert psnr_db(zero + 0.1, zero) == pytest.approx(20)
    assert psnr_db(zero, zero) == math.inf


def test_merging_changes_less_than_a_step_fewer(capsys: pytest.CaptureFixture[str]):
    main(["--clips=1", "--steps", "2", "--repeats=1"])
    rows = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines() if line.startswith("2 steps")]
    assert [row[0].partition(", ")[2] for row in rows] == [FULL, MERGED, FEWER]
    assert [int(row[1]) for row in rows] == [2, 1, 1]
    merged, fewer = (float(row[-1].removesuffix(" dB")) for row in rows[1:])
    assert 10 < fewer <= merged < 100
