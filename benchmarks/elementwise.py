"""Element-wise work around matrix products: norms between precisions, rotations, and blocks through a compiler.

::

    python -m benchmarks.elementwise                             # norms and rotations, seconds on one thread
    python -m benchmarks.elementwise --blocks                    # also compiled blocks; inductor takes minutes before
    python -m benchmarks.elementwise --blocks --device cuda --bfloat16

Under mixed precision weights of norms are float32 and tokens are bfloat16: `torch.nn.RMSNorm` then falls back to single
operations and rounds its result, `components.backbones.rms_norm` goes to the rotation in float32. Errors are those of
float64 on the same tokens, relative. Blocks are trained and run forward, eager and compiled with the same weights, on
columns of a training step (Syncphony) and on a joint batch (Harmony).
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harmony_sizes import SIZES, build_harmony, random_inputs
from benchmarks.measure import add_timing_arguments, clock_name, interleaved, machine_facts, print_table, ratio
from benchmarks.pyramid_batch import BatchSize, ModelSize, build_dit, training_columns
from components.backbones.compilation import CompileConfig, compile_blocks
from components.backbones.rms_norm import rms_norm
from components.backbones.rope import rotary_table, rotate, rotated_pairs

HEADS, HEAD_DIM = 6, 64
TRAINED = ModelSize("miniflux", 4, 0, 2, 0)
SHORT = BatchSize(4, 8, 16, 24, prefix=6, words=16)
Action = Callable[[bool], object]


def norms(args: argparse.Namespace) -> tuple[dict[str, Action], dict[str, float]]:
    """Two ways to norm bfloat16 heads with float32 weights, and their errors behind the rotation's widening."""
    generator = torch.Generator().manual_seed(0)
    norm = nn.RMSNorm(HEAD_DIM, eps=1e-6).to(args.device)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.2 * torch.randn(HEAD_DIM, generator=generator))
    x = torch.randn(args.tokens, HEADS, HEAD_DIM, generator=generator).to(args.device, torch.bfloat16).requires_grad_()
    ways: dict[str, Callable[[nn.RMSNorm, Tensor], Tensor]] = {
        "single operations": _as_it_is,
        "one precision": rms_norm,
    }

    def call(way: Callable[[nn.RMSNorm, Tensor], Tensor], train: bool) -> Tensor:
        with torch.set_grad_enabled(train):
            out = way(norm, x).float()
        if train:
            out.sum().backward()
        return out.detach()

    exact = F.rms_norm(x.double(), (HEAD_DIM,), norm.weight.double(), 1e-6).detach()
    errors = {name: float((call(way, False) - exact).norm() / exact.norm()) for name, way in ways.items()}
    return {name: partial(call, way) for name, way in ways.items()}, errors


def _as_it_is(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):
        out: Tensor = norm(x)
    return out


def rotations(args: argparse.Namespace) -> tuple[dict[str, Action], dict[str, float]]:
    """A complex product, and the same in real numbers one after another."""
    x = torch.randn(args.tokens, HEADS, HEAD_DIM, generator=torch.Generator().manual_seed(0)).to(args.device)
    x.requires_grad_()
    table = rotary_table(torch.arange(args.tokens)[:, None], [HEAD_DIM]).unsqueeze(2).to(args.device)
    ways = {"real products": _in_real_numbers, "complex product": rotate}

    def call(way: Callable[[Tensor, Tensor], Tensor], train: bool) -> Tensor:
        with torch.set_grad_enabled(train):
            out = way(x, table)
        if train:
            out.sum().backward()
        return out.detach()

    exact = _in_real_numbers(x.double(), table.double()).detach()
    errors = {name: float((call(way, False) - exact).norm() / exact.norm()) for name, way in ways.items()}
    return {name: partial(call, way) for name, way in ways.items()}, errors


def _in_real_numbers(x: Tensor, table: Tensor) -> Tensor:
    even, odd = torch.unflatten(x, -1, (-1, 2)).unbind(-1)
    return torch.stack(rotated_pairs(even, odd, table[0], table[1]), dim=-1).flatten(-2)


def syncphony(args: argparse.Namespace) -> tuple[dict[str, Action], dict[str, float]]:
    """Single blocks over the four columns of a training step."""
    columns = training_columns(SHORT, TRAINED.variant, args.device)
    models = {}
    for name in ("eager", "compiled"):
        models[name] = build_dit(TRAINED, args.device, torch.float32, torch.float32)
    compile_blocks(models["compiled"].backbone.blocks, CompileConfig())
    return _steps(models, lambda model: model(columns), args)


def harmony(args: argparse.Namespace) -> tuple[dict[str, Action], dict[str, float]]:
    """Layers of both towers with their interaction."""
    size = SIZES["small"]
    given = random_inputs(size, args.device, torch.float32)
    models = {name: build_harmony(size, True, args.device, torch.float32, True) for name in ("eager", "compiled")}
    compile_blocks(models["compiled"].layers, CompileConfig())
    return _steps(models, lambda model: model(**given), args)


def _steps(
    models: Mapping[str, nn.Module], forward: Callable[[nn.Module], Sequence[Tensor]], args: argparse.Namespace
) -> tuple[dict[str, Action], dict[str, float]]:
    def step(model: nn.Module, train: bool) -> list[Tensor]:
        kind = torch.device(args.device).type
        with torch.set_grad_enabled(train), torch.autocast(kind, torch.bfloat16, enabled=args.bfloat16):
            out = forward(model)
        if train:
            torch.stack([velocity.float().square().mean() for velocity in out]).sum().backward()
            model.zero_grad(set_to_none=True)
        return [velocity.detach() for velocity in out]

    exact, found = (torch.cat([out.flatten().double() for out in step(model, False)]) for model in models.values())
    errors = {"compiled": float((found - exact).norm() / exact.norm())}
    return {name: partial(step, model) for name, model in models.items()}, errors


def rows_of(what: str, actions: dict[str, Action], errors: dict[str, float], args: argparse.Namespace) -> list[str]:
    """One line of the table: the second way against the first."""
    cells = [what]
    for train in (False, True):
        seconds = interleaved({name: partial(run, train) for name, run in actions.items()}, args, args.device)
        old, new = seconds.values()
        cells += [*(f"{1000 * statistics.median(one):.2f} ms" for one in (old, new)), f"{ratio(new, old):.2f}"]
    return [*cells, *(f"{errors[name]:.1e}" if name in errors else "" for name in actions)]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048, help="of norms and rotations")
    parser.add_argument("--blocks", action="store_true", help="also compiled blocks")
    parser.add_argument("--bfloat16", action="store_true", help="blocks under autocast")
    parser.add_argument("--device", default="cpu")
    add_timing_arguments(parser, repeats=7)
    args = parser.parse_args(argv)
    parts = {
        "RMS norm: single operations, one precision": norms,
        "rotation: real products, complex product": rotations,
    }
    if args.blocks:
        parts |= {"Syncphony's blocks: eager, compiled": syncphony, "Harmony's layers: eager, compiled": harmony}
    rows = [rows_of(name, *make(args), args) for name, make in parts.items()]
    print(machine_facts(args.device, "bfloat16 autocast" if args.bfloat16 else "float32"))
    print(f"{args.tokens} tokens of {HEADS} heads of {HEAD_DIM}; {clock_name(args)}; ratio = second / first")
    times = ("first", "second", "ratio")
    print_table(["", *times, *(f"with backward, {times[0]}", *times[1:]), "error, first", "second"], rows)


if __name__ == "__main__":
    main()
