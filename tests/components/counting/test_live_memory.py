"""Peak memory is what tensors hold at a time: freed ones and views do not count."""

import pytest
import torch

from components.counting.live_memory import LiveBytes, with_peak_bytes


def steps(device: str) -> torch.Tensor:
    """Holds 4000, 8000, 4000, 8000, 4000, 12000 and at last 8000 bytes, of which it returns a view."""
    x = torch.zeros(1000, device=device)
    y = x + 1
    del x
    z = y.view(10, 100).t().contiguous()
    y.add_(1)
    del y
    return torch.cat([z, z])[:1]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_peak_is_what_is_held_at_a_time(device: str, mode: type):
    with mode():
        result, peak = with_peak_bytes(lambda: steps(device), device)
    assert peak == 12000
    assert result.shape == (1, 10)


def test_freed_tensors_and_what_was_there_before_do_not_count():
    before = torch.zeros(1000)
    with LiveBytes() as live:
        kept = before.view(10, 100).t() + 1
        assert live.live == 4000
        before.add_(kept.reshape(-1))
        del kept
    assert live.live == 0


def test_what_backward_passes_keep_counts():
    x = torch.zeros(1000, requires_grad=True)
    with LiveBytes() as live:
        y = x.exp().exp().exp()
        assert live.live == 3 * 4000
        del y
        assert live.live == 0
