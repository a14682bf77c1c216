"""Muon and states of few bits, sharded over two processes: what one process does, and exactly so when resumed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from tests.lightning_modules.strategies.optimizer_ranks import MIDDLE, RANKS, STEPS, optimizers, run, train_all
from tests.processes import run_ranks, told

pytestmark = pytest.mark.gate

APART = {"MuonAdamW": 0.05, "AdamW8bit": 0.01, "AdamW4bit": 0.2, "AdamWFp8": 0.02}
"""Of what weights have moved, how far those of two processes may be from those of one.

One process compresses a matrix that two cannot share evenly; the others are equal bit by bit. Muon's iteration, in
bfloat16, makes whole directions of the rounding of a gradient that has hardly any there.
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("optimizers")
    torch.compiler.set_stance("force_eager")
    for name in optimizers():
        run(folder, name, MIDDLE)[0].save_checkpoint(folder / f"{name}.alone")
    for ended in run_ranks(train_all, (folder, list(optimizers())), RANKS):
        assert ended.status == 0, told([ended])
    return folder


@pytest.fixture(params=APART)
def name(request: pytest.FixtureRequest) -> str:
    if request.param not in optimizers():
        pytest.skip("torchao is not installed: pip install 'avsync[optim]'")
    return request.param


@pytest.fixture
def ranks(out: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads((out / f"rank{rank}.json").read_text())[name] for rank in range(RANKS)]


@pytest.fixture(autouse=True)
def eager():
    torch.compiler.set_stance("force_eager")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the two processes: products of other parts round otherwise, and Muon shows it
    yield
    torch.set_num_threads(threads)
    torch.compiler.set_stance("default")


def test_it_goes_on_from_a_folder_and_from_a_file_without_a_difference(ranks: list[dict[str, Any]]):
    for rank in ranks:
        assert rank["resumed"] == {"folder": 0.0, "file": 0.0}


def test_one_process_does_the_same(ranks: list[dict[str, Any]], name: str, tmp_path: Path):
    _, alone = run(tmp_path, name, STEPS)
    apart = (torch.tensor(ranks[0]["weights"]) - alone).norm()
    moved = (alone - run(tmp_path, name, 1)[1]).norm()
    assert float(apart / moved) < APART[name]


@pytest.mark.parametrize("form", ["folder", "file"])
def test_one_process_goes_on_with_what_two_have_written(
    out: Path, ranks: list[dict[str, Any]], name: str, form: str, tmp_path: Path
):
    _, alone = run(tmp_path, name, STEPS, out / f"{name}.{form}", plugins=[AtomicCheckpointIO()])
    sharded = torch.tensor(ranks[0]["weights"])
    moved = sharded - run(tmp_path, name, MIDDLE)[1]
    assert float((alone - sharded).norm() / moved.norm()) < 1e-5


def test_two_processes_go_on_with_what_one_has_written(ranks: list[dict[str, Any]], name: str):
    assert ranks[0]["from_one"] < APART[name]


def test_moments_are_compressed_alike_on_all_processes(ranks: list[dict[str, Any]], name: str):
    kinds = ranks[0]["kinds"]
    assert kinds == ranks[1]["kinds"]
    if name != "MuonAdamW":
        compressed = [shape for shape, kind in kinds.items() if kind.startswith("OptimState")]
        assert compressed == ["(256, 64)", "(66, 256)", "(256, 66)"]  # not the one whose rows are uneven
