"""A CPU has the fused kernels too, so that what is chosen on a GPU can be looked at here."""

import copy

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import SGD, Adam, AdamW

from components.optimization import MuonAdamW, prefer_fused
from tests.components.optimization.test_muon_adamw import groups, network, train


def fused_in(optimizer: torch.optim.Optimizer) -> list[bool | None]:
    return [group["fused"] for group in optimizer.param_groups]


@pytest.mark.parametrize(
    ("optimizer", "wanted"),
    [
        (lambda net: AdamW(groups(net)), [True, True]),
        (lambda net: Adam(groups(net)), [True, True]),
        (lambda net: MuonAdamW(groups(net)), [None, True, True]),  # matrices, convolution, vectors
        # what a user has set stays
        (lambda net: AdamW(groups(net), fused=False), [False, False]),
        (lambda net: AdamW(groups(net), foreach=True), [None, None]),
        (lambda net: AdamW(groups(net), differentiable=True), [None, None]),
        (lambda net: SGD(groups(net)), [None, None]),
    ],
)
def test_it_is_chosen_where_nothing_else_was(optimizer, wanted):
    built = optimizer(network())
    prefer_fused(built)
    assert True not in fused_in(built)  # the weights are on a CPU
    prefer_fused(built, devices=("cpu",))
    assert fused_in(built) == wanted


@pytest.mark.parametrize("kind", [AdamW, MuonAdamW])
def test_it_steps_as_the_plain_one_does(kind: type[torch.optim.Optimizer]):
    plain, fused = network(), network()
    optimizers = [kind(groups(net), lr=0.01) for net in (plain, fused)]
    prefer_fused(optimizers[1], devices=("cpu",))
    for net, optimizer in zip((plain, fused), optimizers, strict=True):
        train(net, [optimizer], range(4))
    for mine, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("here", [True, False])
def test_a_state_is_gone_on_with_as_this_run_steps(here: bool):
    """The other way than the run before has stepped, whose file says so."""
    net = network()
    before = AdamW(groups(net), lr=0.01, fused=not here)
    train(net, [before], range(2))
    now = AdamW(groups(net), lr=0.01, fused=here or None)
    prefer_fused(now)
    now.load_state_dict(copy.deepcopy(before.state_dict()))
    assert fused_in(now) == [here or None] * 2
    for kept in now.state.values():
        assert kept["step"] == 2 and kept["step"].dtype == torch.float32
    train(net, [now], range(2, 4))


@pytest.mark.parametrize("fused", [True, False])
def test_a_scaled_loss_is_unscaled_before_gradients_are_clipped(fused: bool):
    """``16-mixed`` with ``fused: true``: PyTorch would unscale in the kernel, after the clipping."""
    net = network()
    optimizer, scaler = AdamW(net.parameters(), lr=0.01, fused=fused), GradScaler("cpu", init_scale=1024.0)
    prefer_fused(optimizer)
    scaler.scale(net(torch.ones(5, 3, 3)).square().mean()).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
    moved = [p.detach().clone() for p in net.parameters()]
    scaler.step(optimizer)
    assert norm < 100 and any(not torch.equal(a, b) for a, b in zip(moved, net.parameters(), strict=True))
    first = optimizer.state[next(net.parameters())]["exp_avg"]
    assert first.norm() < 1e-3  # a tenth of a gradient that is clipped, not of a thousandth of it
    torch.testing.assert_close(first, 0.1 * next(net.parameters()).grad)
