"""Syncphony on processes that share the tokens of clips; Harmony's are in tests/lightning_modules/harmony."""

from pathlib import Path

import pytest

from tests.lightning_modules.harmony.test_context import CONTEXT, assert_same_run
from tests.lightning_modules.strategies.parallel_runs import avsync, seen, write_config


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "replicas"), [(2, 1), (2, 2), (4, 1), (4, 2)])
def test_processes_that_share_tokens_do_what_one_does(tmp_path: Path, processes: int, replicas: int):
    strategy = {"class_path": "FSDP2Strategy", "init_args": {**CONTEXT, "replicas": replicas}}
    avsync("fit", write_config(tmp_path, "alone", accumulate_grad_batches=processes // 2))
    avsync("fit", write_config(tmp_path, "shared", devices=processes, strategy=strategy))
    assert_same_run(tmp_path, "shared", "alone", seen(tmp_path, "shared"), seen(tmp_path, "alone")[0], replicas)
