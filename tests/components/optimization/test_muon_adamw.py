import copy

import torch
from torch import nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import OneCycleLR

from components.optimization import MuonAdamW


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(3, 4, 2), nn.Flatten(), nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 2))


def groups(net: nn.Module) -> list[dict[str, object]]:
    """As the modules give them: weights, and vectors without decay."""
    parameters = list(net.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def train(net: nn.Module, optimizers: list[torch.optim.Optimizer], steps: range) -> None:
    for step in steps:
        x = torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(step))
        net.zero_grad()
        net(x).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_matrices_are_stepped_by_muon_and_the_rest_by_adamw():
    mine, theirs = network(), network()
    train(mine, [MuonAdamW(groups(mine), lr=0.01, weight_decay=0.1, ns_dtype="bfloat16")], range(3))
    kinds = {n: [p for p in theirs.parameters() if p.ndim == n] for n in (1, 2, 3)}
    muon = Muon(kinds[2], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = AdamW([{"params": kinds[3]}, {"params": kinds[1], "weight_decay": 0.0}], lr=0.01, weight_decay=0.1)
    train(theirs, [muon, adamw], range(3))
    assert same(mine, theirs) and len(kinds[2]) == 2


def test_it_goes_on_from_its_state_under_a_schedule():
    net = network()
    optimizer = MuonAdamW(groups(net), lr=0.01)
    schedule = OneCycleLR(optimizer, 0.01, 10)
    train(net, [optimizer], range(3))
    schedule.step()
    other, state = network(), copy.deepcopy(optimizer.state_dict())
    other.load_state_dict(net.state_dict())
    resumed = MuonAdamW(groups(other), lr=0.5)
    resumed.load_state_dict(state)
    assert [group["lr"] for group in resumed.param_groups] == [group["lr"] for group in optimizer.param_groups]
    assert len({id(group["params"]) for group in resumed.param_groups}) == 3
    for one, held in ((net, optimizer), (other, resumed)):
        train(one, [held], range(3, 6))
    assert same(net, other)
    assert {name for values in optimizer.state.values() for name in values} == {
        "momentum_buffer",
        "step",
        "exp_avg",
        "exp_avg_sq",
    }


def test_on_a_cpu_it_iterates_in_float32():
    """As exactly as the same polynomial of the singular values, taken in float64."""
    for shape in ((6, 4), (4, 6)):
        matrix = nn.Parameter(torch.zeros(shape))
        matrix.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        MuonAdamW([matrix], lr=1.0, weight_decay=0.0).step()
        u, s, v = torch.linalg.svd(matrix.grad.double(), full_matrices=False)
        s = s / s.norm()
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        expected = -0.2 * 6**0.5 * (u * s) @ v
        torch.testing.assert_close(matrix.detach().double(), expected, rtol=0, atol=2e-6)


def test_a_state_from_before_the_precision_could_be_set_is_gone_on_from():
    net = network()
    optimizer = MuonAdamW(groups(net), lr=0.01)
    train(net, [optimizer], range(2))
    other, state = network(), copy.deepcopy(optimizer.state_dict())
    other.load_state_dict(net.state_dict())
    for group in state["param_groups"]:
        del group["ns_dtype"]
    resumed = MuonAdamW(groups(other), lr=0.01)
    resumed.load_state_dict(state)
    for one, held in ((net, optimizer), (other, resumed)):
        train(one, [held], range(2, 4))
    assert same(net, other)


def test_what_is_orthogonalised_together_is_what_each_would_be_alone(monkeypatch):
    """Four of one shape, as stacks of two, among others that are tall and wide."""
    shapes = [(6, 4), (6, 4), (4, 6), (6, 4), (6, 4), (2, 9)]
    grads = [torch.randn(s, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(shapes)]
    together = [nn.Parameter(torch.zeros(s)) for s in shapes]
    monkeypatch.setattr("components.optimization.muon_adamw._TOGETHER", 48)
    optimizer = MuonAdamW(together, lr=1.0)
    for matrix, grad in zip(together, grads, strict=True):
        matrix.grad = grad.clone()
    together[1].grad = None  # one that nothing reached stays as it is
    optimizer.step()
    for i, (matrix, grad) in enumerate(zip(together, grads, strict=True)):
        alone = nn.Parameter(torch.zeros(shapes[i]))
        alone.grad = None if i == 1 else grad.clone()
        MuonAdamW([alone], lr=1.0).step()
        torch.testing.assert_close(matrix, alone, rtol=0, atol=1e-6)
        assert bool(matrix.any()) == (i != 1)
