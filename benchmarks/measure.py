"""Interleaved timing: noise of the machine hits both sides alike."""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch


def add_timing_arguments(parser: argparse.ArgumentParser, repeats: int) -> None:
    """Options for how to time."""
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds that count")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="processor seconds of all threads instead of wall time: for busy machines",
    )


def interleaved(
    actions: Mapping[str, Callable[[], object]], args: argparse.Namespace, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of every action in each round; a round runs all actions, in turning order. One more round warms up.

    Args:
        actions: what to time, by name.
        args: what `add_timing_arguments` asked for.
        device: waited for before the clock is read.
    """
    clock = time.process_time if args.cpu_time else time.perf_counter
    names = list(actions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(1 + args.repeats):
        for name in names if turn % 2 else names[::-1]:
            _wait(device)
            begin = clock()
            actions[name]()
            _wait(device)
            if turn > 0:
                seconds[name].append(clock() - begin)
    return seconds


def clock_name(args: argparse.Namespace) -> str:
    """Column title of the times."""
    return "processor time" if args.cpu_time else "wall time"


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over the rounds of one action's time by another's in the same round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def machine_facts(device: str, dtype: str) -> str:
    """One line: processor, threads, precision, PyTorch."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, {dtype}, torch {torch.__version__}"
    name, flags = _processor()
    bf16 = ", has bfloat16 instructions" if {"avx512_bf16", "amx_bf16"} & flags else ""
    return f"{name}{bf16}; {torch.get_num_threads()} threads, {dtype}, torch {torch.__version__}"


def _processor() -> tuple[str, set[str]]:
    facts: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    return facts.get("model name", platform.processor() or platform.machine()), set(facts.get("flags", "").split())


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with the first column on the left and all others on the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells).rstrip())
