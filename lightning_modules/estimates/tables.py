"""An estimate as tables in Markdown, for a screen and for a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lightning_modules.estimates.estimate import GIB, RESERVED, Estimate
from lightning_modules.estimates.memory import Part

TERA, GIGA = 1e12, 1e9


def tables(found: Estimate) -> Iterator[str]:
    """One block of text after the other."""
    yield _parts(found)
    yield _flops(found)
    yield _memory(found)
    yield _time(found)
    yield _network(found)
    yield _data(found)
    yield _checkpoints(found)
    yield (
        "MFU counts the transformer's forward and backward pass; what activation checkpoints compute again is not in "
        "it.\nA stated MFU is an assumption: nothing here says that a network or a disk lets it be reached."
    )


def markdown(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with the first column on the left and all others on the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def shown(line: Sequence[str]) -> str:
        first, *others = line
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([title, "", shown(lines[0]), shown(rule), *map(shown, lines[1:])])


def _parts(found: Estimate) -> str:
    memory = found.counts.memory
    parts = memory.sharded | memory.replicated | memory.freed
    parts = {name: part for name, part in parts.items() if part.parameters}
    parts["total"] = Part.total(parts.values())
    rows = [
        [name, f"{part.parameters / 1e6:,.1f}", f"{part.trained / 1e6:,.1f}", f"{part.weights / GIB:.2f}"]
        for name, part in parts.items()
    ]
    title = "What there is; encoders of texts are loaded for new texts only, and then freed"
    return markdown(title, ["part", "parameters (M)", "trained (M)", "weights (GiB)"], rows)


def _flops(found: Estimate) -> str:
    counts = found.counts
    per_clip = {"transformer, forward and backward": counts.transformer_flops, **counts.encoding.flops}
    rows = [[name, _number(flops / TERA)] for name, flops in per_clip.items()]
    title = f"FLOPs of one clip, attention counted ({counts.cost.tokens / counts.shape.clips:,.0f} tokens a clip)"
    return markdown(title, ["part", "TFLOP"], rows)


def _memory(found: Estimate) -> str:
    memory, question = found.counts.memory, found.question
    rows = []
    for row in _dealt(found):
        held = [f"{value / GIB:.2f}" for value in row["memory"].values()]
        rows.append([str(row["gpus"]), *held, *("yes" if fits else "no" for fits in row["fits"].values())])
    names = list(next(_dealt(found))["memory"])
    sizes = [f"{size:g} GB" for size in question.memory_gb]
    how = "weights and optimizer sharded" if found.run.sharded else "the whole model on every GPU"
    kept = "with" if memory.checkpoints else "without"
    title = (
        f"Memory of each GPU in GiB: {memory.clips}, {how}. Activations: {kept} checkpoints,\n"
        f"{memory.activations.batch}; all kept they are {memory.activations.without_checkpoints / GIB:.2f} GiB.\n"
        "The peak takes the largest of activations, encoding and stepping (the optimizer's);\n"
        f"it fits where {RESERVED:.0%} of the GPU are left"
    )
    return markdown(title, ["GPUs", *names, *sizes], rows)


def _time(found: Estimate) -> str:
    rows = []
    for row in found.rows:
        if row["dealt"] is None:
            rows.append([str(row["gpus"]), *["–"] * 9])
            continue
        dealt = row["dealt"]
        for speed in row["mfu"]:
            rows.append(
                [
                    str(row["gpus"]),
                    f"{dealt['clips']:,}",
                    str(dealt["batch"]),
                    str(dealt["accumulate"]),
                    f"{speed['mfu']:g}",
                    _number(speed["step_s"]),
                    f"{speed['clips_per_s']:,.2f}",
                    f"{speed['days']:,.1f}",
                    f"{speed['gpu_hours']:,.0f}",
                    f"{speed['gpu_hours_encoded']:,.0f}",
                ]
            )
    header = ["GPUs", "clips a step", "batch", "accumulated", "MFU", "step (s)", "clips/s", "days", "GPU-hours"]
    title = f"{found.run.steps:,} steps at a peak of {found.question.peak_tflops:g} TFLOP/s"
    if any(row["dealt"] is None for row in found.rows):
        title += "; –: the clips of a step cannot be dealt out evenly"
    return markdown(title, [*header, "on encoded clips"], rows)


def _network(found: Estimate) -> str:
    fast = max(range(len(found.question.mfu)), key=found.question.mfu.__getitem__)
    rows = []
    for row in _dealt(found):
        carried, speed = row["network"], row["mfu"][fast]
        rows.append(
            [
                str(row["gpus"]),
                f"{carried['all_gather'] / GIGA:,.2f}",
                f"{carried['reduce_scatter'] / GIGA:,.2f}",
                f"{speed['network_bytes_per_s'] / GIGA:,.2f}",
                f"{speed['recorded_bytes_per_s'] / 1e6:,.1f}",
                f"{speed['encoded_bytes_per_s'] / 1e6:,.1f}",
                f"{speed['decoded_bytes_per_s_per_gpu'] / 1e6:,.1f}",
            ]
        )
    reduced = "reduce-scatter (GB)" if found.run.sharded else "all-reduce (GB)"
    mfu = found.question.mfu[fast]
    title = (
        f"What each GPU receives over the network in a step, and what network and loader carry at MFU {mfu:g}:\n"
        "the network of each GPU, recordings and encoded clips for all of them, decoded clips into each"
    )
    header = ["GPUs", "all-gather (GB)", reduced, "network (GB/s)", "recordings (MB/s)", "encoded (MB/s)"]
    return markdown(title, [*header, "decoded (MB/s)"], rows)


def _data(found: Estimate) -> str:
    clip, question = found.clip_bytes(), found.question
    rows = []
    for name, size in clip.items():
        whole = [] if question.clips is None else [_number(size * question.clips / TERA)]
        rows.append([name, _number(size / 1e6), *whole])
    title = f"A clip: recorded at {question.video_mbit:g} Mbit/s, decoded in memory, encoded in float32"
    header = ["clip", "MB"] if question.clips is None else ["clip", "MB", f"{question.clips:,} clips (TB)"]
    return markdown(title, header, rows)


def _checkpoints(found: Estimate) -> str:
    stored = found.checkpoints
    rows = [
        ["one checkpoint", "1", f"{stored.size / GIGA:,.2f}"],
        ["kept at the end", str(stored.kept), f"{stored.kept_bytes / GIGA:,.2f}"],
        ["most at a time", "", f"{stored.most_bytes / GIGA:,.2f}"],
        ["written in all", str(stored.written), f"{stored.written_bytes / GIGA:,.2f}"],
    ]
    return markdown("Checkpoints of the whole run", ["checkpoints", "number", "GB"], rows)


def _number(value: float) -> str:
    """Two decimals, or two digits of what is small."""
    return f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.2g}"


def _dealt(found: Estimate) -> Iterator[dict[str, Any]]:
    return (row for row in found.rows if row["dealt"] is not None)
