"""AV-Align on clips whose events are known: what it notices, and what it takes for synchrony that is none."""

import doctest
import sys
from dataclasses import replace
from functools import cache
from statistics import fmean

import numpy as np
import pytest
import torch

from components.contracts import ClipBatch
from components.errors import InputError
from components.metrics.av_align import scorer
from components.metrics.av_align.scorer import AVAlign, av_align
from components.metrics.scorers import real_clips
from components.metrics.sound_offsets import with_exchanged_sound, with_sound_at
from datamodules.procedural.scenes import SCENES
from datamodules.procedural.sounds import render_sound
from datamodules.procedural_clips import draw_events

FPS, RATE, SIDE, SECONDS = 24.0, 22_050, 48, 3.0
NUM_CLIPS = 4
FRAMES = round(SECONDS * FPS)


@cache
def clips(picture):
    """Rendered scenes with their sounds, or pictures of another kind over the same sounds."""
    videos, sounds, onsets = [], [], []
    for index in range(NUM_CLIPS):
        rng = np.random.default_rng([7, index])
        events = draw_events(SECONDS, rng)
        kind = picture if picture in SCENES else "striking_mallet"
        frames = SCENES[kind](events, np.arange(FRAMES) / FPS, SIDE, SIDE, 0.5, rng)
        onsets.append(tuple(event.time_s for event in events))
        videos.append(torch.from_numpy(frames) if picture in SCENES else painted(picture, onsets[-1], index))
        sounds.append(torch.from_numpy(render_sound(kind, events, round(SECONDS * RATE), RATE, 0.5, rng)))
    ids = [f"clip{index}" for index in range(NUM_CLIPS)]
    video, audio = torch.stack(videos), torch.stack(sounds)
    return real_clips(ClipBatch(ids, video, FPS, audio, RATE, [""] * NUM_CLIPS, ids, onsets=onsets))


def painted(kind, onsets, seed):
    """A random texture, uint8 ``[T, 3, H, W]``: ``still``, or one that ``jumps`` or ``flashes`` at each onset."""
    noise = torch.rand(1, 3, SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(seed))
    texture = torch.nn.functional.interpolate(noise, (SIDE, SIDE), mode="bicubic").clamp(0, 1)[0]
    since = torch.arange(FRAMES)[:, None] / FPS - torch.tensor(onsets)  # [T, onsets]
    if kind == "jumps":
        frames = torch.stack([texture.roll(-int(count), 1) for count in (since >= 0).sum(1)])
    else:
        glow = torch.where(since >= 0, torch.exp(-since.clamp(min=0) / 0.05), 0.0).amax(1).reshape(-1, 1, 1, 1)
        frames = texture + (1 - texture) * glow * (kind == "flashes")
    return (frames * 255).round().to(torch.uint8)


def mean_score(generation):
    found = AVAlign().score(generation, range(NUM_CLIPS))
    assert all(score.problem is None for score in found)
    return fmean(score.values["av_align"] for score in found)


def curve(generation, offsets_s):
    return {offset: mean_score(moved) for offset, moved in with_sound_at(generation, offsets_s).items()}


def test_events_that_move_once_are_found_to_the_frame():
    made = clips("jumps")
    assert mean_score(made) == 1.0
    found = curve(made, (-0.5, -0.1, -1.5 / FPS, 0.0, 1.5 / FPS, 0.1, 0.5))
    assert found.pop(0.0) == 1.0
    assert max(found.values()) < 0.5 and found[-0.1] == found[0.1] == 0.0


@pytest.mark.parametrize("kind", list(SCENES))
def test_scenes_are_best_where_they_belong_on_a_coarse_grid(kind):
    """Within 0.1 s this does not hold: a ball that falls and flies off moves most before and after its contact."""
    found = curve(clips(kind), (-0.5, -0.25, 0.0, 0.25, 0.5))
    best = found.pop(0.0)
    assert best > 1.5 * max(found.values())


def test_other_recordings_sounds_are_near_chance():
    made = clips("jumps")
    assert mean_score(with_exchanged_sound(made)) < 0.2


def test_flashes_count_as_motion():
    """Nothing moves in them: a model can earn a full score with light alone."""
    made = clips("flashes")
    assert mean_score(made) > 0.9
    assert mean_score(with_exchanged_sound(made)) < 0.2


def test_a_still_picture_has_no_peaks():
    made = clips("still")
    assert AVAlign().peaks(made.video[0], FPS) == []
    assert mean_score(made) == 0.0


def test_nothing_seen_and_nothing_heard_is_counted_apart():
    silent = clips("still")
    silent = replace(silent, audio=torch.zeros_like(silent.audio))
    assert [score.problem for score in AVAlign().score(silent, [0, 1])] == ["no_events"] * 2
    moving = replace(clips("jumps"), audio=torch.zeros_like(silent.audio))
    assert mean_score(moving) == 0.0


@pytest.mark.parametrize(("frames", "problem"), [(3, "too_short"), (4, None)])
def test_clips_without_room_for_a_peak(frames, problem):
    made = clips("still")
    short = replace(made, video=made.video[:, :frames], audio=made.audio[:, : round(frames / FPS * RATE)])
    assert AVAlign().score(short, [0])[0].problem == problem


def test_what_is_heard_after_the_picture_does_not_count():
    made = clips("jumps")
    longer = replace(made, audio=torch.cat([made.audio, made.audio], dim=1))
    assert mean_score(longer) == mean_score(made)


def test_a_row_is_scored_alike_in_any_batch():
    made, judge = clips("speaking_face"), AVAlign()
    together = judge.score(made, range(NUM_CLIPS))
    assert [judge.score(made, [row])[0] for row in (3, 1)] == [together[3], together[1]]


def test_the_floor_is_in_pixels_and_part_of_the_identity():
    made = clips("jumps")
    assert AVAlign(min_flow=50.0).peaks(made.video[0], FPS) == []
    assert AVAlign(min_flow=50.0).identity() != AVAlign().identity()
    with pytest.raises(InputError, match=r"AVAlign\.min_flow is -1\.0"):
        AVAlign(min_flow=-1.0)


def test_a_frame_apart_is_no_match():
    assert av_align([1.0], [1.0 + 1 / 25], 25.0) == 0.0
    assert av_align([1.0], [1.0 + 0.99 / 25], 25.0) == 1.0
    # one peak serves one onset
    assert av_align([1.0, 1.02], [1.01], 25.0) == 0.5
    assert av_align([], [1.0], 25.0) == av_align([1.0], [], 25.0) == 0.0
    assert av_align([], [], 25.0) is None


def test_a_missing_library_is_found_before_anything_is_generated(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"pip install 'avsync\[eval\]'"):
        AVAlign()


def test_examples_in_the_documentation():
    assert doctest.testmod(scorer).failed == 0
