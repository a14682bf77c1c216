"""Syncphony on processes that share the tokens of clips; Harmony's are in tests/lightning_modules/harmony."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lightning_modules.harmony.test_context import CONTEXT, assert_same_run
from tests.lightning_modules.strategies.parallel_runs import avsync, seen, write_config


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "replicas"), [(2, 1), (2, 2), (4, 1), (4, 2)])
def test_processes_that_share_tokens_do_what_one_does(tmp_path: Path, processes: int, replicas: int):
    strategy = {"class_path": "FSDP2Strategy", "init_args": {**CONTEXT, "replicas": replicas}}
    fit(tmp_path, "alone", accumulate_grad_batches=processes // 2)
    fit(tmp_path, "shared", devices=processes, strategy=strategy)
    assert_same_run(tmp_path, "shared", "alone", seen(tmp_path, "shared"), seen(tmp_path, "alone")[0], replicas)


def fit(folder: Path, name: str, **trainer: Any) -> None:
    file = write_config(folder, name, **trainer)
    config = yaml.safe_load(file.read_text())
    # above the rounding of gradients: Adam's first steps take a gradient of 1e-9 for its sign alone
    config["model"]["init_args"]["optimizer"]["init_args"]["eps"] = 1.0e-5
    file.write_text(yaml.safe_dump(config))
    avsync("fit", file)
