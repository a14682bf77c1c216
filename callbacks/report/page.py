"""Composes the report: one HTML page that needs nothing but the media files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from math import isfinite
from typing import Literal

from callbacks.report.plots import color_class, curve_plot, interval_bar, label_of, onset_plot
from components.contracts import MetricResult

Status = Literal["running", "finished", "stopped"]
Point = tuple[int, float, float, float]
"""Training step, value, low and high end of the interval."""


@dataclass(frozen=True)
class OnsetTracks:
    """What one judge heard in a clip.

    Attributes:
        metric: name of the metric.
        onsets: track -> onset times in seconds; None or absent where unknown.
        duration_s: length that is compared.
        tolerance_s: tolerance of the match.
        sound_onsets: track -> onset times of the sound it is compared with; None where all are compared with one,
            the track ``driving``.
    """

    metric: str
    onsets: Mapping[str, Sequence[float] | None]
    duration_s: float
    tolerance_s: float
    sound_onsets: Mapping[str, Sequence[float]] | None = None


@dataclass(frozen=True)
class ClipEntry:
    """One clip on the page.

    Attributes:
        id: name of the clip.
        caption: its prompt.
        wide: path of the side-by-side mp4, relative to the page; its first frame lies beside it as jpg.
        videos: kind (``generated``, a variant, ``real``) -> path of its mp4, likewise.
        scores: metric name -> score of this clip, None where undefined.
        kinds: metric name -> the kind of video it judges; those without one judge what was generated.
        plots: the onsets that a judge heard, one plot for each judge.
    """

    id: str
    caption: str
    wide: str
    videos: Mapping[str, str]
    scores: Mapping[str, float | None] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    plots: Sequence[OnsetTracks] = ()


@dataclass(frozen=True)
class ReportPage:
    """Everything the page shows.

    Attributes:
        title: name of the experiment.
        status: ``running``, ``finished`` or ``stopped``.
        remark: when and why, in words.
        results: the last evaluation.
        curves: metric -> its values over the evaluations of this run.
        clips: the clips to watch.
        config: text of the configuration, or None.
        versions: package -> version.
    """

    title: str
    status: Status
    remark: str
    results: Mapping[str, MetricResult]
    curves: Mapping[str, Sequence[Point]]
    clips: Sequence[ClipEntry]
    config: str | None
    versions: Mapping[str, str]

    def html(self) -> str:
        """The whole page."""
        style, script = (_asset(f"page.{kind}") for kind in ("css", "js"))
        body = "".join([self._header(), self._results(), self._curves(), self._clips(), self._record()])
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)} · avsync</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
            f"<style>\n{style}</style></head>\n<body><main>{body}</main>\n<script>\n{script}</script></body></html>\n"
        )

    def _header(self) -> str:
        return (
            f'<header><h1>{escape(self.title)}</h1><span class="status {self.status}">{self.status}</span>'
            f"<p>{escape(self.remark)}</p></header>"
        )

    def _results(self) -> str:
        if not self.results:
            return ""
        # 0 is always on the axis, which is never of length 0
        numbers = [0.0, 1e-9] + [
            n for result in self.results.values() for n in (result.value, *result.ci95) if isfinite(n)
        ]
        scale = (min(numbers), max(numbers))
        rows = "".join(
            f'<tr><td><span class="dot {color_class(name)}"></span>{escape(name)}</td>'
            f'<td class="value">{_number(result.value, 2)}</td><td>{result.interval_text}</td>'
            f"<td>{interval_bar(result.value, *result.ci95, scale, name)}</td><td>{result.n}</td>"
            f"<td>{_tolerance(result)}</td></tr>"
            for name, result in self.results.items()
        )
        return (
            '<h2>Results</h2><div class="card scroll"><table><thead><tr><th>metric</th><th>value</th>'
            "<th>95 % interval</th><th></th><th>n</th><th>tolerance</th></tr></thead>"
            f"<tbody>{rows}</tbody></table></div>{self._judges()}"
        )

    def _judges(self) -> str:
        """Which judge stands behind which entries, so that two of a kind are told apart."""
        judged: dict[tuple[str, str], list[str]] = {}
        for name, result in self.results.items():
            for kind in ("v2a", "syncnet"):
                if kind in result.details:
                    judge = str(result.details[kind]), str(result.details.get(f"{kind}_sha256", ""))[:12]
                    judged.setdefault(judge, []).append(name)
        lines = "".join(
            f"<br>{escape(', '.join(names))}: {escape(name)} ({escape(sha256)})"
            for (name, sha256), names in judged.items()
        )
        return f'<p class="hint">Judges, and the SHA-256 that tells them apart:{lines}</p>' if lines else ""

    def _curves(self) -> str:
        groups: dict[str, dict[str, Sequence[Point]]] = {}
        for name, points in sorted(self.curves.items(), key=lambda curve: curve[0] not in self.results):
            if len({step for step, *_ in points}) < 2:
                continue  # a single evaluation is told by the table of results
            groups.setdefault(name.partition("_")[0], {})[name] = points
        plots = "".join(
            f'<div class="card">{curve_plot(group)}<div class="legend">'
            + "".join(f'<span><span class="dot {color_class(name)}"></span>{escape(name)}</span>' for name in group)
            + "</div></div>"
            for group in groups.values()
        )
        return f"<h2>Over training steps</h2>{plots}" if plots else ""

    def _clips(self) -> str:
        if not self.clips:
            return ""
        own = any(plot.sound_onsets is not None for clip in self.clips for plot in clip.plots)
        plays, sound = ("Every video plays its own", "that sound") if own else ("All videos play the driving", "it")
        hint = (
            f"{plays} sound. A full mark in the onset plot is matched with an onset of {sound} (grey bands: the "
            "tolerance), a hollow one is not; click into the plot to go there."
        )
        return f'<h2>Clips</h2><p class="hint">{hint}</p>{self._scores()}' + "".join(map(_clip, self.clips))

    def _scores(self) -> str:
        names = list(dict.fromkeys(name for clip in self.clips for name in clip.scores))
        if not names:
            return ""
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        rows = "".join(
            f'<tr><td><a href="#{escape(clip.id)}">{escape(clip.id)}</a></td>'
            + "".join(f"<td>{_number(clip.scores.get(name), 1)}</td>" for name in names)
            + "</tr>"
            for clip in self.clips
        )
        return (
            f'<div class="card scroll" style="margin:12px 0 18px"><table class="scores"><thead><tr><th>clip</th>{head}'
            f"</tr></thead><tbody>{rows}</tbody></table></div>"
        )

    def _record(self) -> str:
        versions = ", ".join(f"{package} {version}" for package, version in self.versions.items())
        config = ""
        if self.config is not None:
            config = f"<details><summary>Configuration</summary><pre>{escape(self.config)}</pre></details>"
        return f'<h2>Record</h2><div class="card">{escape(versions)}{config}</div>'


def poster_of(path: str) -> str:
    """Where the picture lies that is shown before the video at ``path`` is played."""
    return path.removesuffix(".mp4") + ".jpg"


def _clip(clip: ClipEntry) -> str:
    players = "".join(
        f"<figure>{_player(path)}<figcaption>{escape(label_of(kind))}{_of_kind(clip, kind)}</figcaption></figure>"
        for kind, path in clip.videos.items()
    )
    plots = "".join(_plot(tracks, named=len(clip.plots) > 1) for tracks in clip.plots)
    return (
        f'<section class="card clip" id="{escape(clip.id)}"><header><h3>{escape(clip.id)}</h3>'
        f'<span class="caption">{escape(clip.caption)}</span></header>'
        f'{_player(clip.wide, "wide")}{plots}<div class="players">{players}</div></section>'
    )


def _plot(tracks: OnsetTracks, named: bool) -> str:
    onsets = {name: times for name, times in tracks.onsets.items() if times is not None}
    if not onsets or tracks.duration_s <= 0:
        return ""
    title = f'<p class="hint">{escape(tracks.metric)}</p>' if named else ""
    return title + onset_plot(onsets, tracks.duration_s, tracks.tolerance_s, tracks.sound_onsets)


def _player(path: str, kind: str = "small") -> str:
    # nothing is loaded before it is played: forty videos that load at once keep a browser busy for long
    source, poster = escape(path), escape(poster_of(path))
    return f'<video class="{kind}" controls loop playsinline preload="none" poster="{poster}" src="{source}"></video>'


def _of_kind(clip: ClipEntry, kind: str) -> str:
    """The scores that judge one kind of video of a clip: ``cyclesync_w0`` belongs to ``w0``."""
    found = {name: score for name, score in clip.scores.items() if clip.kinds.get(name, "generated") == kind}
    return "".join(f" · {escape(name)} <b>{_number(score, 1)}</b>" for name, score in found.items())


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or not isfinite(value) else f"{value:.{digits}f}"


def _tolerance(result: MetricResult) -> str:
    tolerance = result.details.get("tolerance_s")
    return f"{tolerance:.3g} s" if isinstance(tolerance, float) else ""


def _asset(name: str) -> str:
    return files("callbacks.report").joinpath(name).read_text()
