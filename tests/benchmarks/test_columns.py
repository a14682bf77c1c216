"""What one call for all columns saves is counted without computing."""

import re

import pytest

from benchmarks import columns
from benchmarks.pyramid_batch import BatchSize, ModelSize


def test_one_call_takes_half_the_operations(capsys: pytest.CaptureFixture[str]):
    columns.count(ModelSize("miniflux", 1, 1, 2, 1), BatchSize(4, 4, 8, 16, prefix=3, shortest=2, words=8))
    text = capsys.readouterr().out
    apart, together = (
        [float(number.replace(",", "")) for number in re.findall(r"[\d.,]*\d", line[len(name) :])]
        for name in (columns.APART, columns.TOGETHER)
        for line in text.splitlines()
        if line.startswith(name)
    )
    assert together[0] < 0.5 * apart[0] and together[1] == pytest.approx(together[0] / apart[0], abs=0.005)
    assert together[2] == apart[2] > 0  # attention is each column's own
