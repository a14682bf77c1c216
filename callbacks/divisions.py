"""Scores by the parts of a benchmark and by language, beside those of all clips."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from callbacks.clip_scores import ClipScore
from components.contracts import ClipBatch, MetricResult
from components.metrics.bootstrap import bootstrap_interval

Divisions = Mapping[str, str]
"""Division (``subset``, ``language``, ``folder``) -> the part that a clip belongs to."""

FOLDER = "folder"
"""The division by the first folder of a clip's name: the kind of scene in sets that have a folder for each."""

_SAME = 1e-6
_MOST_FOLDERS = 32
"""In sets of more folders they are speakers or recordings, no kinds of scene."""


def divisions_of(batch: ClipBatch, rows: Sequence[int]) -> Iterator[tuple[str, Divisions]]:
    """Clips of those ``rows`` that belong to any part, and to which."""
    for row in rows:
        named = {"subset": batch.subsets, "language": batch.languages}
        found = {name: values[row] for name, values in named.items() if values is not None and values[row]}
        folder, inside, _ = batch.ids[row].partition("/")
        if inside:
            found[FOLDER] = folder
        if found:
            yield batch.ids[row], found


def with_parts(
    results: Mapping[str, MetricResult], scores: Sequence[ClipScore], divisions: Mapping[str, Divisions]
) -> dict[str, MetricResult]:
    """The results, with ``groups`` beside those that are means over clips: division -> part -> value, ci95, n, n_clips.

    A part's value is computed as that of the whole: clips of a recording are averaged first, and the interval is a
    bootstrap over recordings. What is no such mean (a distance between sets) has none. A part that is everything is
    there, too: without it nobody could tell a metric of speech alone from one that was not measured.

    Args:
        results: entries by name.
        scores: of every clip.
        divisions: clip -> its parts; clips without any are left out.
    """
    by_metric: dict[str, list[ClipScore]] = {}
    for score in scores:
        if score.value is not None and math.isfinite(score.value):
            by_metric.setdefault(score.metric, []).append(score)
    names = dict.fromkeys(name for of_clip in divisions.values() for name in of_clip)
    found = dict(results)
    for metric, result in results.items():
        clips = by_metric.get(metric, [])
        if not clips or abs(_means(clips).mean() - result.value) > _SAME * max(1.0, abs(result.value)):
            continue
        groups = {name: _parts(clips, name, divisions) for name in names}
        if groups := {name: parts for name, parts in groups.items() if parts}:
            found[metric] = replace(result, details={**result.details, "groups": groups})
    return found


def _parts(clips: Sequence[ClipScore], name: str, divisions: Mapping[str, Divisions]) -> dict[str, dict[str, object]]:
    members: dict[str, list[ClipScore]] = {}
    for clip in clips:
        if part := divisions.get(clip.clip, {}).get(name):
            members.setdefault(part, []).append(clip)
    if name == FOLDER and len(members) > _MOST_FOLDERS:
        return {}
    return {part: _entry(members[part]) for part in sorted(members)}


def _entry(clips: Sequence[ClipScore]) -> dict[str, object]:
    means = _means(clips)
    (low,), (high,) = bootstrap_interval(means[None])
    return {"value": float(means.mean()), "ci95": [float(low), float(high)], "n": len(means), "n_clips": len(clips)}


def _means(clips: Sequence[ClipScore]) -> np.ndarray:
    """Means of the recordings ``[V]``, in the order of their names."""
    recordings: dict[str, list[float]] = {}
    for clip in clips:
        recordings.setdefault(clip.recording, []).append(float(clip.value or 0.0))
    return np.array([fmean(recordings[name]) for name in sorted(recordings)])
