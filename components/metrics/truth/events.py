"""When something happens in a track: contact of ball and mallet, a mouth that opens."""

from __future__ import annotations

import torch
from torch import Tensor

from components.metrics.truth.tracker import Track

_CONTACT = 0.5  # a peak of the way below this is no contact
_RISE = 0.3  # a mouth has to open this much further
_OPENING_LAG_S = 0.01
"""A mouth snaps open between two frames, or is drawn at its mean over a frame: half way between the two."""
_FALL_S, _LEAVE_S = 0.16, 0.19  # how long the scenes' things take to the contact and back
_STEPS = 41


def seen_events(track: Track, fps: float) -> list[float]:
    """Times of events in seconds, finer than a frame.

    Frame n shows what is at ``n / fps``. A contact is a peak of the way; where the two flanks meet, the square root of
    the way being linear in time on both, is its time. A mouth opens where it passes half of its rise.

    Args:
        track: of one clip.
        fps: frames per second.
    """
    way = _filled(track.progress)
    return _openings(way, fps) if track.thing == "mouth" else _contacts(way, track.found, fps)


def _contacts(way: Tensor, found: Tensor, fps: float) -> list[float]:
    root = way.clamp(0, 1.5).sqrt()
    times = torch.arange(len(way)) / fps
    events: list[float] = []
    reach = round(_FALL_S * fps)
    for frame in range(len(way)):
        around = slice(max(0, frame - reach), frame + reach + 1)
        if way[frame] < _CONTACT or not found[frame] or way[frame] < way[around].max():
            continue
        before = slice(max(0, frame - reach), frame)
        # it was seen on its way down, at rest or near it: what appears below has not come from anywhere
        if not (found[before] & (way[before] < 0.8 * way[frame])).any():
            continue
        near = slice(max(0, frame - 3), frame + 4)
        offsets = torch.linspace(-1, 1, _STEPS) / fps
        moments = times[frame] + offsets
        until = moments[:, None] - times[near]
        flanks = torch.where(until >= 0, 1 - until / _FALL_S, 1 + until / _LEAVE_S).clamp(min=0)
        scale = (flanks * root[near]).sum(1) / flanks.square().sum(1)
        error = (root[near] - scale[:, None] * flanks).square().sum(1)
        time = moments[error.argmin()].item()
        if not events or time - events[-1] > 1.5 / fps:
            events.append(time)
    return events


def _openings(way: Tensor, fps: float) -> list[float]:
    events: list[float] = []
    low = high = way[0].item()
    rising, start = False, 0
    values = way.tolist()
    for frame, value in enumerate(values):
        if not rising:
            if value <= low:
                low, start = value, frame
            if value - low >= _RISE:
                rising, high = True, value
        elif value > high:
            high = value
        if rising and (value < high - 0.5 * _RISE or value < high * 0.75 or frame == len(values) - 1):
            events.append(_crossing(values, start, frame, (low + high) / 2) / fps + _OPENING_LAG_S)
            rising, low, start = False, value, frame
    return events


def _crossing(values: list[float], start: int, end: int, level: float) -> float:
    """Where ``values`` first pass ``level`` after ``start``, in frames."""
    for frame in range(start + 1, end + 1):
        if values[frame] >= level:
            step = values[frame] - values[frame - 1]
            return frame - (values[frame] - level) / step
    return float(end)


def _filled(values: Tensor) -> Tensor:
    """Frames without a value take the last one known, so that a flash neither moves a thing nor ends a movement."""
    kept, last = [], 0.0
    for value in values.tolist():
        last = last if value != value else value
        kept.append(last)
    return torch.tensor(kept)
