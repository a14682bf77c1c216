"""The drawings of the report page, coloured by its style sheet: HTML that follows the width, and inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from callbacks.report.names import color_class, label_of
from components.metrics.cyclesync.matching import match_events

_WIDTH = 772
_MOST_POINTS = 60

REFERENCE_TRACKS = ("true", "driving")


@dataclass(frozen=True)
class Waveform:
    """A sound as it is drawn.

    Attributes:
        peaks: largest amplitude of each of equally long pieces.
        duration_s: length of all of them together.
    """

    peaks: Sequence[float]
    duration_s: float


def onset_plot(
    onsets: Mapping[str, Sequence[float]],
    duration_s: float,
    tolerance_s: float,
    sound_onsets: Mapping[str, Sequence[float]] | None = None,
    waves: Mapping[str, Waveform] | None = None,
) -> str:
    """One row per track: its sound's waveform, a mark per onset, bands where an onset counts as matched.

    A full mark is matched with an onset of the sound that belongs to its row, a hollow one is not.

    Args:
        onsets: track name -> seconds.
        duration_s: end of the time axis.
        tolerance_s: half-width of the bands.
        sound_onsets: track name -> onsets of the sound it is compared with; None compares all with the track
            ``driving``.
        waves: track name -> the sound that is drawn behind its marks.
    """
    if sound_onsets is None:
        sound_onsets = dict.fromkeys(onsets, onsets.get("driving", ()))
    rows = "".join(
        f'<div class="row"><span class="row-label">{escape(label_of(name))}</span><div class="lane">'
        + _bands(sound_onsets.get(name, ()), duration_s, tolerance_s)
        + (_wave(waves[name], duration_s) if waves and name in waves else "")
        + _marks(name, times, sound_onsets.get(name, ()), duration_s, tolerance_s)
        + "</div></div>"
        for name, times in onsets.items()
    )
    return (
        f'<div class="onsets" data-duration="{duration_s:.6f}" role="img" aria-label="onset times of each track">'
        f'{rows}<div class="row axis"><span></span><div class="lane">{_ticks(duration_s)}</div></div>'
        '<div class="time"><i class="playhead"></i></div></div>'
    )


def _bands(times: Iterable[float], duration_s: float, tolerance_s: float) -> str:
    ends = [(max(0.0, time - tolerance_s), min(duration_s, time + tolerance_s)) for time in times]
    return "".join(
        f'<i class="band" style="left:{_percent(begin, duration_s)};width:{_percent(end - begin, duration_s)}"></i>'
        for begin, end in ends
    )


def _marks(name: str, times: Sequence[float], sound: Sequence[float], duration_s: float, tolerance_s: float) -> str:
    # the reference's own marks are always full
    full = set(range(len(times)))
    if name not in REFERENCE_TRACKS:
        full = {second for _, second in match_events(list(sound), list(times), tolerance_s)}
    return "".join(
        f'<i class="{"onset" if index in full else "onset missed"} {color_class(name)}" '
        f'style="left:{_percent(time, duration_s)}" title="{time:.3f} s"></i>'
        for index, time in enumerate(times)
    )


def _wave(wave: Waveform, duration_s: float) -> str:
    # a sound of low level is drawn large as well, silence is not
    scale = max(0.05, *wave.peaks) if wave.peaks else 1.0
    upper = [(index + 0.5, -max(0.02, peak / scale)) for index, peak in enumerate(wave.peaks)]
    outline = " ".join(f"{x:g},{y:.2f}" for x, y in (*upper, *((x, -y) for x, y in upper[::-1])))
    return (
        f'<svg class="wave" viewBox="0 -1 {len(wave.peaks)} 2" preserveAspectRatio="none" aria-hidden="true" '
        f'style="width:{_percent(wave.duration_s, duration_s)}"><polygon points="{outline}"/></svg>'
    )


def _ticks(duration_s: float) -> str:
    step = _round_step(duration_s / 4)
    return "".join(
        f'<span class="tick" style="left:{_percent(index * step, duration_s)}">{index * step:g} s</span>'
        for index in range(int(duration_s / step + 1e-9) + 1)
    )


def _percent(time_s: float, duration_s: float) -> str:
    return f"{100 * time_s / duration_s:.2f}%"


def curve_plot(curves: Mapping[str, Sequence[tuple[int, float, float, float]]], axis: str = "step {:,}") -> str:
    """Metrics over training steps, or another whole number, with their intervals.

    Args:
        curves: metric name -> points ``(step, value, low, high)`` in order of step; NaN bounds draw no interval, NaN
            values no point.
        axis: what a point's label calls its number.
    """
    curves = {name: [point for point in curve if math.isfinite(point[1])] for name, curve in curves.items()}
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ""
    width, height, left, bottom = _WIDTH, 260, 46, 28
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

    over = escape(axis.partition(" {")[0])
    parts = [f'<svg class="curves" viewBox="0 0 {width} {height}" role="img" aria-label="metrics over {over}s">']
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
            f"<title>{escape(name)} at {escape(axis.format(s))}: {v:.4g}</title></circle>"
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


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 x 10^n above ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))
