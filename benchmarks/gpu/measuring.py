"""Seconds, FLOPs, memory, launches and waits of one piece of work on the device."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.rows import ROOT, Notes, Place, milliseconds
from benchmarks.matrix_rate import best_rate, data_sheet_rate, matrix_products
from components.counting.live_memory import with_peak_bytes

TERA, GIB = 1e12, 2**30
Action = Callable[[], object]
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def timed(action: Action, place: Place, rounds: int = 5, warm_ups: int = 1, most_s: float = 15.0) -> list[float]:
    """Seconds of each round: CUDA's events on a card, the clock on a CPU.

    Args:
        action: run again and again.
        place: where.
        rounds: that count.
        warm_ups: before them.
        most_s: no further round begins after so long, but there is at least one.
    """
    for _ in range(warm_ups):
        action()
    place.wait()
    seconds: list[float] = []
    begin = time.perf_counter()
    while not seconds or (len(seconds) < rounds and time.perf_counter() - begin < most_s):
        seconds.append(_timed_once(action, place))
    return seconds


def _timed_once(action: Action, place: Place) -> float:
    if place.is_rehearsal:
        begin = time.perf_counter()
        action()
        return time.perf_counter() - begin
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    action()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def floating_operations(action: Action) -> int:
    """FLOPs of what really runs, what is computed again for the backward pass included (a CPU's attention is not)."""
    with warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
        warnings.simplefilter("ignore")  # checkpoints leave modules early, which concerns the counts by module
        action()
    return int(counter.get_total_flops())


def matrix_rate(place: Place, dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP/s of the better of two matrix products, here and now."""
    products = matrix_products([128] if place.is_rehearsal else [4096, 8192], [dtype], place.device)
    return best_rate({key: timed(product, place, 10, 3, 2.0) for key, product in products.items()}, dtype)


def measure(label: str, action: Action, place: Place, notes: Notes, rounds: int = 5) -> float:
    """Notes time, FLOPs, their share of the matrix rate and peak memory under ``label``; returns seconds."""
    begin = time.perf_counter()
    flops = floating_operations(action)
    place.wait()
    first_s = time.perf_counter() - begin  # a warm-up as well; what takes seconds needs no other
    rate = matrix_rate(place)
    if not place.is_rehearsal:
        torch.cuda.reset_peak_memory_stats(place.device)
    seconds = timed(action, place, rounds, warm_ups=int(first_s < 2.0 and not place.is_rehearsal), most_s=8.0)
    if place.is_rehearsal:
        peak = with_peak_bytes(action, place.device)[1]
    else:
        peak = torch.cuda.max_memory_allocated(place.device)
    step_s = milliseconds(seconds) / 1000
    figures: dict[str, object] = {
        "ms": 1000 * step_s,
        "rounds": len(seconds),
        "tflop": flops / TERA,
        "tflop_per_s": flops / TERA / step_s,
        "matrix_tflop_per_s": rate / TERA,
        "share_of_matrix_rate": flops / step_s / rate,
        "peak_gib": peak / GIB,
    }
    promised = data_sheet_rate(place.device, torch.bfloat16)
    if promised:
        figures["share_of_data_sheet"] = flops / step_s / promised
    notes.value(**{f"{label}_{name}": value for name, value in figures.items()})
    return step_s


def profile_of(label: str, action: Action, place: Place, notes: Notes, most: int = 10) -> None:
    """Notes launches, synchronisations and the longest kernels of one run; a CPU's operations in a rehearsal."""
    activities = [ProfilerActivity.CPU, *([] if place.is_rehearsal else [ProfilerActivity.CUDA])]
    with profile(activities=activities, acc_events=True) as profiler:
        action()
        place.wait()
    events = list(profiler.key_averages())
    wanted = "CPU" if place.is_rehearsal else "CUDA"
    times = {
        event.key: (event.self_cpu_time_total if place.is_rehearsal else event.self_device_time_total, event.count)
        for event in events
        if event.device_type.name == wanted
    }
    total = sum(spent for spent, _ in times.values()) or 1
    longest = sorted(times.items(), key=lambda item: -item[1][0])[:most]
    counts = {"kernel_launches": _LAUNCHES, "synchronisations": _WAITS}
    found: dict[str, object] = {
        name: sum(event.count for event in events if event.key.startswith(keys)) for name, keys in counts.items()
    }
    found["device_ms"] = total / 1000
    found["longest"] = [
        {"kernel": key[:120], "calls": count, "ms": spent / 1000, "share": spent / total}
        for key, (spent, count) in longest
    ]
    notes.value(**{f"{label}_{name}": value for name, value in found.items()})


def waits_of(label: str, action: Action, place: Place, notes: Notes) -> None:
    """Notes the lines of Python at which the processor waited for the card in one run; none in a rehearsal."""
    if place.is_rehearsal:
        action()
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            action()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    lines = Counter(f"{_short(one.filename)}:{one.lineno}" for one in said if "synchroniz" in str(one.message))
    notes.value(**{f"{label}_waits": sum(lines.values()), f"{label}_waits_at": dict(lines.most_common(20))})


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else "/".join(path.parts[-3:])


def copy_rate(place: Place) -> float:
    """Bytes per second read and written by a copy on the device."""
    source = torch.zeros(1 << (16 if place.is_rehearsal else 30), dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 1000 / milliseconds(timed(lambda: target.copy_(source), place, 10, 2, 2.0))
