"""Real runs with loader workers that a scheduler stops: every process gets the signal, and nothing is lost."""

from pathlib import Path
from typing import Any

import pytest

from tests.lightning_modules.strategies.parallel_runs import (
    assert_same_tensors,
    avsync,
    checkpoint,
    load,
    results,
    seen,
    write_config,
)

pytestmark = [pytest.mark.gate, pytest.mark.long]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stopped")


@pytest.fixture(scope="module")
def whole_run(folder: Path) -> dict[str, Any]:
    avsync("fit", write_config(folder, "whole", workers=2, val_check_interval=2, max_steps=4))
    return seen(folder, "whole")[0]


@pytest.mark.parametrize(
    ("sent", "step", "in_validation"),
    [
        ("group SIGUSR1", 2, True),
        # SIGTERM in training as in tests/lightning_modules/strategies/test_parallel_runs.py
        pytest.param("group SIGTERM", 1, False, marks=pytest.mark.slow),
        pytest.param("group SIGINT", 2, False, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_all_processes_loses_nothing(
    folder: Path, whole_run: dict[str, Any], sent: str, step: int, in_validation: bool
):
    name, settings = sent[-4:], {"workers": 2, "val_check_interval": 2, "max_steps": 4}
    witness = {"stop_by": sent, "in_validation": in_validation}
    avsync("fit", write_config(folder, name, stop_at=step, witness=witness, **settings), status=75)
    stopped = checkpoint(folder, name, "stopped.ckpt")
    assert load(stopped)["global_step"] == step
    assert not list(stopped.parent.glob(".*")) and not (folder / "runs" / name / "version_0/results.json").exists()

    avsync("fit", write_config(folder, f"{name}_on", **settings), "--ckpt_path", str(stopped))
    (rank,) = seen(folder, f"{name}_on")
    assert rank["losses"] == whole_run["losses"][step:] and rank["ids"] == whole_run["ids"][step:]
    assert rank["weights"] == whole_run["weights"] and rank["generated"] == whole_run["generated"]
    assert_same_tensors(load(checkpoint(folder, f"{name}_on")), load(checkpoint(folder, "whole")), 0)
    assert results(folder, f"{name}_on") == results(folder, "whole")
