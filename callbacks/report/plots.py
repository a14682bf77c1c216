"""The drawings of the report page, as inline SVG coloured by the page's style sheet."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from components.metrics.cyclesync.matching import match_events

ROW = 26
LABEL_WIDTH = 132
PLOT_WIDTH = 640
_EDGE = 14
_MOST_POINTS = 60

REFERENCE_TRACKS = ("true", "driving")

_METRIC = re.compile(r"(cyclesync|sync_[cd]|truth_sync|path_error|found|psnr(?:_moving)?|ssim)(_|$)")
_OF_KIND = re.compile(r"\w+_(w0|off_sync|no_synccfg|audio_to_video|video_to_audio|real|chance)")


def color_class(kind: str) -> str:
    """The style sheet's class of a kind of video or of the metric that judges it."""
    metric = _METRIC.match(kind)
    name = kind[metric.end() :] if metric else kind
    # a judge that was given another name judges the same kinds of video
    if other := _OF_KIND.fullmatch(name):
        name = other[1]
    return "k-" + re.sub(r"\W", "_", name or "generated")


def onset_plot(
    onsets: Mapping[str, Sequence[float]],
    duration_s: float,
    tolerance_s: float,
    sound_onsets: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """One row per track, a mark per onset, bands where an onset counts as matched.

    A full mark is matched with an onset of the sound that belongs to its row, a hollow one is not.

    Args:
        onsets: track name -> seconds.
        duration_s: end of the time axis.
        tolerance_s: half-width of the bands.
        sound_onsets: track name -> onsets of the sound it is compared with; None compares all with the track
            ``driving``.
    """
    height = ROW * len(onsets)
    if sound_onsets is None:
        sound_onsets = dict.fromkeys(onsets, onsets.get("driving", ()))

    def x(time: float) -> float:
        return LABEL_WIDTH + time / duration_s * PLOT_WIDTH

    parts = [
        f'<svg class="onsets" viewBox="0 0 {LABEL_WIDTH + PLOT_WIDTH + _EDGE} {height + 24}" '
        f'data-duration="{duration_s:.6f}" data-left="{LABEL_WIDTH}" data-width="{PLOT_WIDTH}" role="img" '
        'aria-label="onset times of each track">'
    ]
    for row, (name, times) in enumerate(onsets.items()):
        top = row * ROW
        for time in sound_onsets.get(name, ()):
            begin, end = x(max(0.0, time - tolerance_s)), x(min(duration_s, time + tolerance_s))
            parts.append(f'<rect class="band" x="{begin:.1f}" y="{top}" width="{end - begin:.1f}" height="{ROW}"/>')
        parts.append(f'<text class="row-label" x="{LABEL_WIDTH - 10}" y="{top + 17}">{escape(label_of(name))}</text>')
        parts.append(f'<line class="rule" x1="{LABEL_WIDTH}" x2="{x(duration_s)}" y1="{top + ROW}" y2="{top + ROW}"/>')
        # the reference's own marks are always full
        full = set(range(len(times)))
        if name not in REFERENCE_TRACKS:
            full = {second for _, second in match_events(list(sound_onsets.get(name, ())), list(times), tolerance_s)}
        for index, time in enumerate(times):
            look = "onset" if index in full else "onset missed"
            parts.append(
                f'<rect class="{look} {color_class(name)}" x="{x(time) - 2:.1f}" y="{top + 5}" '
                f'width="4" height="{ROW - 10}" rx="2"><title>{time:.3f} s</title></rect>'
            )
    parts.append(_time_axis(duration_s, height, x(0.0), x(duration_s)))
    parts.append(f'<line class="playhead" x1="{LABEL_WIDTH}" x2="{LABEL_WIDTH}" y1="0" y2="{height}"/></svg>')
    return "".join(parts)


def _time_axis(duration_s: float, top: float, left: float, right: float) -> str:
    step = _round_step(duration_s / 6)
    parts = []
    for index in range(int(duration_s / step + 1e-9) + 1):
        position = left + index * step / duration_s * (right - left)
        parts.append(f'<text class="tick" x="{position:.1f}" y="{top + 17}">{index * step:g} s</text>')
    return "".join(parts)


def curve_plot(curves: Mapping[str, Sequence[tuple[int, float, float, float]]]) -> str:
    """Metrics over training steps with their intervals.

    Args:
        curves: metric name -> points ``(step, value, low, high)`` in order of step; NaN bounds draw no interval, NaN
            values no point.
    """
    curves = {name: [point for point in curve if math.isfinite(point[1])] for name, curve in curves.items()}
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ""
    width, height, left, bottom = PLOT_WIDTH + LABEL_WIDTH, 260, 46, 28
    first, last = min(step for step, *_ in points), max(step for step, *_ in points)
    values = [value for _, value, *_ in points]
    top_value, low_value = max(0.0, *values), min(0.0, *values)
    span = top_value - low_value
    tick = _round_step((span if span > 1e-30 else 1.0) / 5)  # a subnormal span has no power of ten below it
    top_value = math.ceil(top_value / tick - 1e-9) * tick or tick
    low_value = math.floor(low_value / tick + 1e-9) * tick

    def x(step: int) -> float:
        if first == last:
            return left + (width - left) / 2
        return left + 12 + (step - first) / (last - first) * (width - left - 30)

    def y(value: float) -> float:
        # intervals may reach beyond what a score can be: they end at the frame
        share = (top_value - min(max(value, low_value), top_value)) / (top_value - low_value)
        return 8 + share * (height - bottom - 8)

    parts = [f'<svg class="curves" viewBox="0 0 {width} {height}" role="img" aria-label="metrics over steps">']
    for index in range(round((top_value - low_value) / tick) + 1):
        value = low_value + index * tick
        parts.append(f'<line class="rule" x1="{left}" x2="{width}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text class="value-tick" x="{left - 8}" y="{y(value) + 4:.1f}">{value:g}</text>')
    steps = sorted({step for step, *_ in points})
    for step in steps[:: max(1, math.ceil(len(steps) / 8))]:
        parts.append(f'<text class="tick" x="{x(step):.1f}" y="{height - 8}">{step:,}</text>')
    for name, curve in curves.items():
        kind = color_class(name)
        bounded = [point for point in curve if math.isfinite(point[2] + point[3])]
        if len(bounded) > 1:
            # along the upper ends and back along the lower ones
            around = [(x(s), y(high)) for s, _, _, high in bounded] + [(x(s), y(low)) for s, _, low, _ in bounded[::-1]]
            parts.append(f'<polygon class="ribbon {kind}" points="{_path(around)}"/>')
        else:
            parts += [
                f'<line class="whisker {kind}" x1="{x(s):.1f}" x2="{x(s):.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>'
                for s, _, low, high in bounded
            ]
        parts.append(f'<polyline class="curve {kind}" points="{_path((x(s), y(v)) for s, v, *_ in curve)}"/>')
        parts += [  # many points would hide the line
            f'<circle class="point {kind}" cx="{x(s):.1f}" cy="{y(v):.1f}" r="3.5">'
            f"<title>{escape(name)} at step {s:,}: {v:.4g}</title></circle>"
            for s, v, *_ in (curve if len(curve) <= _MOST_POINTS else curve[-1:])
        ]
    return "".join([*parts, "</svg>"])


def interval_bar(value: float, low: float, high: float, scale: tuple[float, float], name: str) -> str:
    """A dot with whiskers on an axis shared by all rows of a table; nothing for a value that is no number."""
    if not math.isfinite(value):
        return ""

    def x(number: float) -> float:
        return 4 + (number - scale[0]) / (scale[1] - scale[0]) * 212

    whisker = ""
    if math.isfinite(low + high):
        whisker = f'<line class="whisker {color_class(name)}" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="10" y2="10"/>'
    return (
        '<svg class="interval" viewBox="0 0 220 20" aria-hidden="true"><line class="rule" x1="4" x2="216" y1="10" '
        f'y2="10"/>{whisker}<circle class="point {color_class(name)}" cx="{x(value):.1f}" cy="10" r="4.5"/></svg>'
    )


def label_of(kind: str) -> str:
    """What people call a kind of video or a track of onsets."""
    return {
        "true": "true events",
        "driving": "driving sound",
        "generated": "generated",
        "w0": "no sync guidance",
        "off_sync": "off-sync",
        "no_synccfg": "no SyncCFG",
        "real": "real",
    }.get(kind, kind.replace("_", " "))


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 x 10^n above ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))
