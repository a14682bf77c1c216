"""Composes the report: one HTML page that needs nothing but the media files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Literal

from callbacks.report.clip_cards import Badged, ClipEntry, best_first, card, score_table
from callbacks.report.clip_order import clip_data, order_bar
from callbacks.report.names import METRICS, color_class, headline, split_name
from callbacks.report.outcome import spread, tables
from callbacks.report.plots import curve_plot
from components.contracts import MetricResult

Status = Literal["running", "finished", "stopped"]
Point = tuple[int, float, float, float]
"""Training step, value, low and high end of the interval."""


@dataclass(frozen=True)
class ReportPage:
    """Everything the page shows.

    Attributes:
        title: name of the experiment.
        status: ``running``, ``finished`` or ``stopped``.
        lead: what came out, in one sentence.
        remark: when and why, in words.
        results: the last evaluation.
        curves: metric -> its values over the evaluations of this run.
        clips: the clips to watch.
        all_scores: scores of all clips that were evaluated, by the headline metric.
        next_steps: what one may do next -> the command that does it.
        config: text of the configuration, or None.
        versions: package -> version.
    """

    title: str
    status: Status
    lead: str
    remark: str
    results: Mapping[str, MetricResult]
    curves: Mapping[str, Sequence[Point]]
    clips: Sequence[ClipEntry]
    config: str | None
    versions: Mapping[str, str]
    all_scores: Sequence[float] = ()
    next_steps: Mapping[str, str] = field(default_factory=dict)

    def html(self) -> str:
        """The whole page."""
        style, script, ordering = (
            files("callbacks.report").joinpath(name).read_text() for name in ("page.css", "page.js", "clip_order.js")
        )
        first, others = best_first(self.clips, headline(self.results))
        picked = any(badge for badge, _ in first)
        above = self._clip_hint(picked) + order_bar(self.clips, picked)
        body = "".join(
            [
                self._header(),
                _section("Clips", above + _deck(first), bool(first)),
                _section("What came out", tables(self.results), bool(self.results)),
                _section("What to do next", self._next(), bool(self.next_steps)),
                _section("Over training steps", self._curves()),
                _section("With the sound moved", self._offsets()),
                _section("More clips", _deck(others), bool(others)),
                score_table(self.clips),
                _section("Record", self._record()),
            ]
        )
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)} · avsync</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
            f"<style>\n{style}</style></head>\n<body><main>{body}</main>\n<script>\n{script}{ordering}</script></body></html>\n"
        )

    def _header(self) -> str:
        return (
            f'<header><h1>{escape(self.title)}</h1><span class="status {self.status}">{self.status}</span>'
            f'<p class="lead">{escape(self.lead)}</p><p class="soft">{escape(self.remark)}</p></header>'
        )

    def _clip_hint(self, picked: bool) -> str:
        shown, metric = len(self.clips), headline(self.results)
        own = any(clip.has_own_sounds for clip in self.clips)
        plays, sound = ("its own", "that sound") if own else ("the driving", "it")
        chosen = f"The first {shown} clips of the evaluation, not chosen by how good they are"
        if metric and picked:
            chosen += f"; of these, the best, the median and the worst by {METRICS[metric].label} come first"
        over = ""
        if metric and self.all_scores:
            over = f" All {len(self.all_scores)} clips score {spread(self.all_scores)}."
        return (
            f'<p class="hint">{chosen}.{over} Every video plays {plays} sound: click on it to hear it. In the plot '
            f"below it a full mark is matched with an onset of {sound} (grey bands: the tolerance), a hollow one is "
            "not; click into the plot to go there.</p>"
        )

    def _next(self) -> str:
        def words(command: str) -> str:
            # broken between words alone, not behind the hyphens of an option
            return " ".join(f"<span>{escape(word)}</span>" for word in command.split())

        steps = "".join(
            f'<li>{escape(say)}<div class="command"><pre>{words(command)}</pre>'
            '<button class="copy" type="button">copy</button></div></li>'
            for say, command in self.next_steps.items()
        )
        return f'<ul class="card next">{steps}</ul>'

    def _curves(self) -> str:
        groups: dict[str, dict[str, Sequence[Point]]] = {}
        for name, points in sorted(self.curves.items(), key=lambda curve: curve[0] not in self.results):
            if len({step for step, *_ in points}) < 2:
                continue  # a single evaluation is told by the table of results
            groups.setdefault(split_name(name)[0], {})[name] = points

        def heading(metric: str) -> str:
            known = METRICS.get(metric)
            # what is in the tables is explained there
            says = f'<p class="hint">{escape(known.says)}</p>' if known and metric not in self.results else ""
            return f"<h3>{escape(known.label if known else metric)}</h3>{says}"

        return "".join(
            f'<div class="card">{heading(metric)}{curve_plot(group)}<div class="legend">'
            + "".join(f'<span><span class="dot {color_class(name)}"></span>{escape(name)}</span>' for name in group)
            + "</div></div>"
            for metric, group in groups.items()
        )

    def _offsets(self) -> str:
        """What judges of synchrony say when the sound is moved against the picture."""
        groups: dict[str, dict[str, list[Point]]] = {}
        for name, result in self.results.items():
            curve = result.details.get("by_sound_offset")
            if isinstance(curve, Mapping) and len(curve) > 1:
                points = [(round(1000 * float(offset)), *values) for offset, values in curve.items()]
                groups.setdefault(split_name(name)[0], {})[name] = sorted(points)
        hint = (
            '<p class="hint">Milliseconds by which the sound comes later. A judge that hears synchrony is at its best'
            " at 0 on real clips.</p>"
        )
        return (hint if groups else "") + "".join(
            f'<div class="card"><h3>{escape(METRICS[metric].label if metric in METRICS else metric)}</h3>'
            f'{curve_plot(group, "offset {:+,} ms")}<div class="legend">'
            + "".join(f'<span><span class="dot {color_class(name)}"></span>{escape(name)}</span>' for name in group)
            + "</div></div>"
            for metric, group in groups.items()
        )

    def _record(self) -> str:
        versions = ", ".join(f"{package} {version}" for package, version in self.versions.items())
        config = ""
        if self.config is not None:
            config = f"<details><summary>Configuration</summary><pre>{escape(self.config)}</pre></details>"
        return f'<div class="card">{escape(versions)}{config}</div>'


def _deck(clips: Sequence[Badged]) -> str:
    """Cards that the page's script puts into another order."""
    return f'<div class="deck">{"".join(card(clip, badge, clip_data(clip)) for badge, clip in clips)}</div>'


def _section(heading: str, content: str, there: bool = True) -> str:
    return f"<h2>{heading}</h2>{content}" if there and content else ""
