"""Runs that are killed or stopped at random moments end like runs that nothing happened to: a few of the many cases."""

from pathlib import Path

import pytest

from tests.interruptions import interruptions


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_interrupted_runs_end_like_others(tmp_path: Path):
    for case, outcome in interruptions(kills=2, signals=3, seed=1, out=tmp_path):
        assert not outcome.problem, (case, outcome)
