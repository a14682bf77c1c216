"""Scaled dot-product attention on a CPU in bfloat16 against float32, forward and forward with backward.

The reason for `components.backbones.attention_kernel`: bfloat16 is the faster choice for matrix products on CPUs that
have instructions for it (the linear layer in the table), but not for PyTorch's fused CPU attention, whose backward is
slower on short sequences and no faster on long ones. The number of tokens is shared out to as many rows as it takes,
so that all lengths have the same number of tokens.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import add_timing_arguments, clock_name, interleaved, machine_facts, print_table, ratio

DTYPES = (torch.bfloat16, torch.float32)


def attention_call(args: argparse.Namespace, tokens: int, dtype: torch.dtype, backward: bool) -> Callable[[], None]:
    """Attention under a causal mask over frames, as in the transformer."""
    rows = max(1, args.total // tokens)
    q, k, v = _inputs(3, (rows, args.heads, tokens, args.head_dim), dtype, backward)
    frame = torch.arange(tokens) // max(1, tokens // 8)
    mask = frame[:, None] >= frame[None]

    def call() -> None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        if backward:
            out.sum().backward()

    return call


def linear_call(args: argparse.Namespace, dtype: torch.dtype, backward: bool) -> Callable[[], None]:
    """One linear layer of the MLP over the same tokens."""
    dim = args.heads * args.head_dim
    (x,) = _inputs(1, (args.total, dim), dtype, backward)
    (weight,) = _inputs(1, (4 * dim, dim), dtype, backward)

    def call() -> None:
        out = F.linear(x, weight)
        if backward:
            out.sum().backward()

    return call


def _inputs(count: int, shape: tuple[int, ...], dtype: torch.dtype, gradient: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(gradient) for _ in range(count)]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 128, 256, 512, 1024], help="sequence lengths")
    parser.add_argument("--total", type=int, default=2048, help="tokens of all rows together")
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--head-dim", type=int, default=32)
    add_timing_arguments(parser, repeats=7)
    args = parser.parse_args(argv)

    work: dict[str, Callable[[torch.dtype, bool], Callable[[], None]]] = {
        f"attention, {tokens} tokens": partial(attention_call, args, tokens) for tokens in args.tokens
    }
    work[f"linear layer, {args.total} tokens"] = partial(linear_call, args)
    rows = []
    for name, build in work.items():
        cells = [name]
        for backward in (False, True):
            seconds = interleaved({str(dtype): build(dtype, backward) for dtype in DTYPES}, args)
            half, full = (seconds[str(dtype)] for dtype in DTYPES)
            cells += [*(f"{1000 * statistics.median(s):.2f} ms" for s in (half, full)), f"{ratio(half, full):.2f}"]
        rows.append(cells)
    print(machine_facts("cpu", "bfloat16 against float32"))
    facts = f"{args.heads} heads of {args.head_dim}, causal mask over frames"
    print(f"{facts}; {clock_name(args)}; ratio = bfloat16 / float32")
    header = ["", *("forward bf16", "fp32", "ratio"), *("with backward bf16", "fp32", "ratio")]
    print_table(header, rows)


if __name__ == "__main__":
    main()
