"""Every layout trains both quickstarts, from its files and from encoded clips, to the same losses."""

import sys
from pathlib import Path

import pytest

from tests.layouts import LAYOUTS, STEPS, SYSTEMS, TOLERANCE, walk


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_raw_and_encoded_clips_train_the_same(layout: str, system: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["avsync"])
    found = walk(layout, system, tmp_path)
    assert len(found.raw) == STEPS
    assert found.difference <= TOLERANCE, found
