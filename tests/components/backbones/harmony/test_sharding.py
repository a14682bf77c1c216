"""Sharded over two processes, the dual tower is the same model: joint, checkpointed, one side, mixed, adapted."""

from pathlib import Path

import pytest

from tests.components.backbones.harmony.harmony_ranks import main
from tests.processes import run_ranks, told

pytestmark = pytest.mark.gate


def test_two_processes_run_and_train_one_dual_tower(tmp_path: Path):
    ended = run_ranks(main, (tmp_path / "store",), 2)
    assert [one.status for one in ended] == [0, 0], told(ended)
