"""Activations that autograd keeps are counted once, block by block, with attention as fused kernels keep it."""

import torch
from torch import nn

from components.counting.saved_activations import fused_attention, saved_bytes


def test_saved_bytes_of_a_known_network():
    blocks = [nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh())]
    x = torch.randn(4, 8, requires_grad=True)
    total, counts = saved_bytes(lambda: blocks[1](blocks[0](x)), blocks)
    # a linear layer keeps its input, tanh its output; weights do not count
    one = 4 * 8 * 4
    assert [count.kept for count in counts] == [one, 2 * one] and total == 3 * one
    assert [count.inputs for count in counts] == [one, one]


def test_fused_attention_keeps_no_matrix_of_weights():
    q = torch.randn(1, 2, 64, 4, requires_grad=True)
    kernel = torch.nn.functional.scaled_dot_product_attention
    with fused_attention():
        total, _ = saved_bytes(lambda: torch.nn.functional.scaled_dot_product_attention(q, q * 2, q * 3), [])
    assert total == 4 * q.numel() * 4
    assert torch.nn.functional.scaled_dot_product_attention is kernel


def test_what_all_blocks_share_is_kept_once():
    blocks = [nn.Bilinear(8, 8, 8), nn.Bilinear(8, 8, 8)]
    x, shared = (torch.randn(4, 8, requires_grad=True) for _ in range(2))
    _, counts = saved_bytes(lambda: blocks[1](blocks[0](x, shared), shared), blocks)
    assert [count.inputs for count in counts] == [2 * 4 * 8 * 4, 4 * 8 * 4]


def test_results_of_attention_are_told_apart():
    class Attending(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.scaled_dot_product_attention(x * 1.5, x * 2, x * 3).square()

    block, x = Attending(), torch.randn(1, 2, 64, 4, requires_grad=True)
    for _ in range(2):  # nothing is left of the first round
        with fused_attention():
            _, (count,) = saved_bytes(lambda: block(x), [block])
        assert count.attention == x.numel() * 4
        assert count.kept == 4 * x.numel() * 4  # queries, keys, values and the result, which `square` keeps as well
