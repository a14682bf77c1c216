"""Clips whose sound is moved against the picture, or is another clip's: what a judge of synchrony must notice.

A judge whose score is not best at offset 0, or that rates another recording's sound as well as the clip's own, says
nothing about synchrony. Nothing is filled up with silence or black frames, which a judge would notice: picture and
sound are cut to the time that both cover.

Signs: a positive offset moves the sound later. What was heard at t is then heard at ``t + offset_s`` on the picture's
clock.

Legend for shapes: B clips, T frames, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from components.contracts import Generation
from components.errors import InputError

# seconds; a product of times and rates may miss a whole number by rounding
_ROUNDING_S = 1e-6


def with_sound_moved(generation: Generation, offset_s: float) -> Generation:
    """The same clips with their sound moved, as long as picture and sound overlap.

    The picture loses whole frames, at its beginning where the sound comes later and at its end where it comes earlier;
    the sound is cut at the sample. Moved by x and then by -x the clips' common middle is left. ``reference`` stays as
    it is and variants are left out.

    Args:
        generation: video ``[B, T, 3, H, W]`` and sound ``[B, S]``.
        offset_s: how much later the sound is to come; negative for earlier.

    Returns:
        The clips, unchanged for an offset of 0.

    Raises:
        InputError: if no frame is left.
    """
    lost = _frames_within(abs(offset_s), generation.fps)
    first = lost if offset_s > 0 else 0
    return _cut(generation, first, generation.video.shape[1] - lost, offset_s)


def with_sound_at(generation: Generation, offsets_s: Sequence[float]) -> dict[float, Generation]:
    """The same pictures with their sound at several offsets: the points of a curve, which differ in nothing else.

    All have the middle of the picture that has sound at every offset.

    Args:
        generation: as `with_sound_moved` takes it.
        offsets_s: how much later the sound is to come; negative for earlier.

    Returns:
        Offset -> clips.

    Raises:
        InputError: if no frame is left.
    """
    before = _frames_within(max((0.0, *offsets_s)), generation.fps)
    after = _frames_within(max((0.0, *(-offset for offset in offsets_s))), generation.fps)
    num_frames = generation.video.shape[1] - before - after
    return {offset: _cut(generation, before, num_frames, offset) for offset in offsets_s}


def with_exchanged_sound(generation: Generation) -> Generation:
    """The same pictures, each with the sound of another recording: the level of chance.

    With the clips in the order of their ids, each takes the sound of the next one (around the end) that was cut from
    another recording, as the callbacks' ``chance`` does over a whole set. ``reference`` stays as it is and variants are
    left out.

    Raises:
        InputError: if all clips come from one recording.
    """
    clips = generation.reference
    order = sorted(range(len(clips)), key=lambda row: clips.ids[row])
    others = {}
    for place, row in enumerate(order):
        following = (*order[place + 1 :], *order[:place])
        other = next((other for other in following if clips.video_ids[other] != clips.video_ids[row]), None)
        if other is None:
            raise InputError(
                f"clip {clips.ids[row]} cannot be given another recording's sound: all {len(clips)} clips come from "
                f"{clips.video_ids[row]}; give clips of at least two recordings"
            )
        others[row] = other
    return replace(generation, audio=generation.audio[[others[row] for row in range(len(clips))]], variants={})


def _frames_within(seconds: float, fps: float) -> int:
    """How many frames a cut of so many seconds touches."""
    return math.ceil((seconds - _ROUNDING_S) * fps) if seconds > _ROUNDING_S else 0


def _cut(generation: Generation, first_frame: int, num_frames: int, offset_s: float) -> Generation:
    """The given frames, with the sound that is heard during them when it comes ``offset_s`` later."""
    total, rate = generation.video.shape[1], generation.sample_rate
    if num_frames < 1:
        raise InputError(
            f"sound cannot be moved by {offset_s:g} s in clips of {total / generation.fps:g} s: no frame would be left "
            "that has sound; give a smaller offset or longer clips"
        )
    if num_frames == total and not offset_s:
        return replace(generation, variants={})
    start = round((first_frame / generation.fps - offset_s) * rate)
    # as much as there is: a sound may end before its picture does
    end = start + round(num_frames / generation.fps * rate)
    return replace(
        generation,
        video=generation.video[:, first_frame : first_frame + num_frames],
        audio=generation.audio[:, start:end],
        variants={},
    )
