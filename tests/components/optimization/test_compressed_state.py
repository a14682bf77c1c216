"""torchao's optimizers: their state is plain in checkpoints, and a training goes on as if it had never stopped."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from components.errors import InputError
from components.optimization import keep_state_plain, state_bytes
from components.optimization.compressed_state import _values

torchao = pytest.importorskip("torchao.optim", reason="torchao is not installed: pip install 'avsync[optim]'")
KINDS = {"AdamW8bit": 1 + 4 / 256, "AdamWFp8": 1 + 4 / 256, "AdamW4bit": 0.5 + 4 / 128}
"""Bytes of a number in each moment: its code, and its share of a scale."""


@pytest.fixture(autouse=True)
def eager():
    """torchao compiles its step, which takes longer than all of this."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64))


def built(kind: str, net: nn.Module, **settings: object) -> torch.optim.Optimizer:
    weights, vectors = ([p for p in net.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False))
    groups = [{"params": weights}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = getattr(torchao, kind)(groups, lr=1e-2, weight_decay=0.1, **settings)
    keep_state_plain(optimizer)
    return optimizer


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 64, generator=torch.Generator().manual_seed(step))
        net.zero_grad()
        (net(x) - x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_from_a_file_without_a_difference(kind: str, tmp_path: Path):
    net = network()
    optimizer = built(kind, net)
    train(net, optimizer, range(3))
    torch.save({"net": net.state_dict(), "state": optimizer.state_dict()}, tmp_path / "file.pt")
    saved = torch.load(tmp_path / "file.pt", weights_only=True)
    kept = [value for values in saved["state"]["state"].values() for value in values.values()]
    assert {type(value) for value in kept} <= {torch.Tensor, str, bool}
    assert sum(isinstance(value, str) for value in kept) == 4  # two moments of two matrices

    other = network()
    other.load_state_dict(saved["net"])
    resumed = built(kind, other)
    resumed.load_state_dict(saved["state"])
    for one, held in ((net, optimizer), (other, resumed)):
        train(one, held, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    moments = [state["exp_avg"] for state in resumed.state.values()]
    assert [type(moment).__name__.startswith("OptimState") for moment in moments] == [True, True, False, False]
    matrices = 2 * 64 * 128
    for moment in moments[:2]:
        assert state_bytes(moment) == pytest.approx(KINDS[kind] * matrices / 2, rel=0.15)  # beside a small table


def test_vectors_get_no_weight_decay():
    net = network()
    optimizer = built("AdamW8bit", net)
    before = copy.deepcopy(net)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(new, old * (1 - 1e-2 * 0.1) if old.ndim > 1 else old)


def test_a_state_of_other_blocks_is_refused():
    net = network()
    optimizer = built("AdamW8bit", net)
    train(net, optimizer, range(1))
    with pytest.raises(InputError, match=r"block_size is 128.*blocks of 256; set it to 256"):
        built("AdamW8bit", net, block_size=128).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_that_ends_within_a_block_has_its_own_numbers(kind: str):
    """What a process gets whose rows are no whole number of blocks."""
    net = network()
    optimizer = built(kind, net)
    train(net, optimizer, range(2))
    moment = optimizer.state[net[0].weight]["exp_avg"]
    plain = optimizer.state_dict()["state"][0]
    given = {name.removeprefix("exp_avg."): value for name, value in plain.items()}
    codes, numbers = moment.codes.flatten(), 2 if kind == "AdamW4bit" else 1
    for first, count in ((0, 100), (64, 300), (255, 513)):
        part = codes[first // numbers : (first + count + numbers - 1) // numbers]
        values = _values(part, given["scale"], given, first, count, moment.block_size)
        torch.testing.assert_close(values, moment.dequantize().flatten()[first : first + count], rtol=0, atol=0)


def test_what_is_none_of_torchaos_kinds_is_refused():
    net = network()
    optimizer = built("AdamW8bit", net)
    train(net, optimizer, range(1))
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["exp_avg.kind"] = "system"
    with pytest.raises(InputError, match="of kind 'system'"):
        optimizer.load_state_dict(state)


def test_a_library_that_cannot_step_shards_is_refused():
    class Eight(torch.optim.SGD):
        __module__ = "bitsandbytes.optim.adamw"

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        weight = nn.Parameter(distribute_tensor(torch.zeros(4, 4), init_device_mesh("cpu", (1,)), [Shard(0)]))
        with pytest.raises(InputError, match=r"bitsandbytes.optim.Eight.*use torchao.optim.AdamW8bit"):
            keep_state_plain(Eight([weight]))
    finally:
        dist.destroy_process_group()
    keep_state_plain(Eight([nn.Parameter(torch.zeros(4, 4))]))


def test_other_optimizers_are_left_alone():
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    keep_state_plain(optimizer)
    train(net, optimizer, range(1))
    assert set(optimizer.state_dict()["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
