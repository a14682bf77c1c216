"""Clips to watch: players that share one row of controls below them, and the onsets a judge heard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TypeVar

from callbacks.report.names import GENERATED, METRICS, color_class, label_of, split_name
from callbacks.report.outcome import number
from callbacks.report.plots import Waveform, onset_plot

T = TypeVar("T")
Badged = tuple[str, "ClipEntry"]


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
class ClipVideo:
    """One of a clip's videos.

    Attributes:
        path: of the mp4, relative to the page; its first frame lies beside it as jpg.
        width: columns.
        height: rows.
        crisp: whether it was enlarged by repeating pixels, which are to be seen as such.
    """

    path: str
    width: int
    height: int
    crisp: bool = False


@dataclass(frozen=True)
class ClipEntry:
    """One clip on the page.

    Attributes:
        id: name of the clip.
        caption: its prompt.
        wide: path of the side-by-side mp4, relative to the page.
        videos: kind (``generated``, a variant, ``real``) -> its video.
        waves: kind -> its sound; ``generated`` alone where all play the same.
        scores: metric name -> score of this clip, None where undefined.
        kinds: metric name -> the kind of video it judges; those without one judge what was generated.
        plots: the onsets that a judge heard, one plot for each judge.
        groups: what it belongs to by kind of group (`callbacks.divisions`), for clips to be picked by.
        higher_is_better: metric name -> which way is better, as its judge says.
    """

    id: str
    caption: str
    wide: str
    videos: Mapping[str, ClipVideo]
    waves: Mapping[str, Waveform] = field(default_factory=dict)
    scores: Mapping[str, float | None] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    plots: Sequence[OnsetTracks] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)

    @property
    def has_own_sounds(self) -> bool:
        """Whether every video plays its own sound."""
        return len(self.waves) > 1


def poster_of(path: str) -> str:
    """Where the picture lies that is shown before the video at ``path`` is played."""
    return path.removesuffix(".mp4") + ".jpg"


def best_first(clips: Sequence[ClipEntry], metric: str | None) -> tuple[list[Badged], list[Badged]]:
    """Best, median and worst clip by a metric, and the others in their order.

    Without a metric, and where its scores tell no clips apart, nothing is picked: the first three come first.
    """
    scored = [(score, clip) for clip in clips if metric and (score := clip.scores.get(metric)) is not None]
    scored.sort(key=lambda item: item[0], reverse=higher_is_better(metric or "", clips))
    if len(scored) < 3 or scored[0][0] == scored[-1][0]:
        return [("", clip) for clip in clips[:3]], [("", clip) for clip in clips[3:]]
    places = {"best": 0, "median": len(scored) // 2, "worst": -1}
    first = [(badge, scored[place][1]) for badge, place in places.items()]
    picked = {clip.id for _, clip in first}
    return first, [("", clip) for clip in clips if clip.id not in picked]


def higher_is_better(name: str, clips: Sequence[ClipEntry]) -> bool:
    """Which way a score is better: as its judge says, whatever it is called; else by its name."""
    said = next((clip.higher_is_better[name] for clip in clips if name in clip.higher_is_better), None)
    metric, _ = split_name(name)
    return (metric not in METRICS or METRICS[metric].higher_is_better) if said is None else said


def card(clip: ClipEntry, badge: str = "", data: str = "") -> str:
    """One clip: its videos side by side, their controls, and the onsets; ``data`` are attributes for scripts."""
    players = "".join(
        f'<figure data-kind="{escape(kind)}"><figcaption><span class="dot {color_class(kind)}"></span>'
        f"{escape(label_of(kind))}</figcaption>{_player(video)}{_scores_of(clip, kind)}</figure>"
        for kind, video in _real_first(clip.videos).items()
    )
    plots = "".join(_plot(clip, tracks, named=len(clip.plots) > 1) for tracks in clip.plots)
    badge = f'<span class="badge {badge}">{badge}</span>' if badge else ""
    return (
        f'<section class="card clip" id="{escape(clip.id)}"{data}>'
        f"<header>{badge}<h3>{escape(clip.caption or clip.id)}</h3>"
        f'<span class="soft">{escape(clip.id if clip.caption else "")}</span></header>'
        f'<div class="players">{players}</div>{_controls(clip)}{plots}</section>'
    )


def score_table(clips: Sequence[ClipEntry]) -> str:
    """Every score of every clip on the page, folded away."""
    names = list(dict.fromkeys(name for clip in clips for name in clip.scores))
    if not names:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        f'<tr><td><a href="#{escape(clip.id)}">{escape(clip.id)}</a></td>'
        + "".join(f"<td>{_score(clip.scores.get(name))}</td>" for name in names)
        + "</tr>"
        for clip in clips
    )
    return (
        '<details class="card"><summary>All scores of these clips</summary><div class="scroll"><table class="scores">'
        f"<thead><tr><th>clip</th>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _player(video: ClipVideo) -> str:
    # nothing is loaded before it is seen: forty videos that load at once keep a browser busy for long
    return (
        f'<video{" class=crisp" if video.crisp else ""} muted loop playsinline preload="none" width="{video.width}" '
        f'height="{video.height}" poster="{escape(poster_of(video.path))}" src="{escape(video.path)}"></video>'
    )


def _controls(clip: ClipEntry) -> str:
    return (
        '<div class="controls"><button class="play" type="button">play</button>'
        '<input class="seek" type="range" min="0" max="1" step="0.001" value="0" aria-label="position">'
        '<span class="clock soft">0.0 s</span><button class="sound" type="button" aria-pressed="false">sound</button>'
        f'<a class="soft" href="{escape(clip.wide)}" download>all in one mp4</a></div>'
    )


def _scores_of(clip: ClipEntry, kind: str) -> str:
    """The scores that judge one kind of video of a clip: ``cyclesync_w0`` belongs to ``w0``."""
    lines = "".join(
        f'<span title="{escape(name)}">{escape(_metric_label(name))} <b>{_score(score)}</b></span>'
        for name, score in clip.scores.items()
        if clip.kinds.get(name, GENERATED) == kind
    )
    return f'<p class="under">{lines}</p>' if lines else ""


def _score(score: float | None) -> str:
    return number(score, 2 if score and abs(score) < 10 else 1)


def _metric_label(name: str) -> str:
    metric, _ = split_name(name)
    return METRICS[metric].label if metric in METRICS else metric


def _plot(clip: ClipEntry, tracks: OnsetTracks, named: bool) -> str:
    onsets = {name: times for name, times in _real_first(tracks.onsets).items() if times is not None}
    if not onsets or tracks.duration_s <= 0:
        return ""
    waves = clip.waves
    if waves and not clip.has_own_sounds:
        waves = {"driving" if "driving" in onsets else "true": waves[GENERATED]}
    title = f'<p class="hint">{escape(_metric_label(tracks.metric))}</p>' if named else ""
    return title + onset_plot(onsets, tracks.duration_s, tracks.tolerance_s, tracks.sound_onsets, waves)


def _real_first(by_kind: Mapping[str, T]) -> dict[str, T]:
    """The real one stands right before what was generated, as what it is measured by."""
    kinds = [kind for kind in by_kind if kind != "real"]
    place = kinds.index(GENERATED) if GENERATED in kinds else len(kinds)
    return {kind: by_kind[kind] for kind in (*kinds[:place], "real", *kinds[place:]) if kind in by_kind}
