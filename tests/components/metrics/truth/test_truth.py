"""Trackers and their events on the rendered scenes, degraded ones, frozen ones and flashes."""

import math

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from components.media.clock import ClipShape
from components.metrics.cyclesync.matching import match_events, onset_iou
from components.metrics.truth.events import seen_events
from components.metrics.truth.pictures import picture_scores, psnr_scores
from components.metrics.truth.tracker import path_error, thing_of, track
from components.v2a.disturbances import DISTURBANCES, fooling_clip
from datamodules.procedural_clips import ProceduralClips
from datamodules.procedural_speech import ProceduralSpeech

FPS = 24.0
SETS = [
    (ProceduralClips, 32),
    (ProceduralSpeech, 32),
    pytest.param((ProceduralClips, 64), marks=pytest.mark.slow),  # the same, larger
    pytest.param((ProceduralSpeech, 64), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=SETS, ids=lambda one: f"{one[0].__name__}-{one[1]}")
def batch(request, tmp_path_factory):
    cls, size = request.param
    few = {"num_speakers": 4} if cls is ProceduralSpeech else {}
    shape = ClipShape(num_frames=49, fps=FPS, height=size, width=size, sample_rate=16000)
    root = str(tmp_path_factory.mktemp("clips"))
    clips = cls(root=root, num_train=1, num_test=18, render_seed=5, clip=shape, val_batch_size=18, **few)
    clips.prepare_data()
    clips.setup("validate")
    return next(iter(clips.val_dataloader()))


def seen(batch, video):
    """Tracks and events of every clip of ``video``, by the real first frames."""
    firsts, things = batch.video[:, 0] / 255, map(thing_of, batch.captions)
    tracks = [track(*one) for one in zip(video, firsts, things, strict=True)]
    return tracks, [seen_events(one, FPS) for one in tracks]


def truth_sync(onsets, events):
    scores = [onset_iou(*pair, [0.05]) for pair in zip(onsets, events, strict=True)]
    known = [score[0] for score in scores if score is not None]
    return 100 * sum(known) / len(known)


def test_real_clips_show_their_events_and_others_do_not(batch):
    tracks, events = seen(batch, batch.video / 255)
    assert truth_sync(batch.onsets, events) >= 97
    assert truth_sync(batch.onsets[1:] + batch.onsets[:1], events) < 30
    assert torch.stack([one.found for one in tracks]).float().mean() >= 0.99
    late = [
        found[event] - true[onset]
        for true, found, one in zip(batch.onsets, events, tracks, strict=True)
        for onset, event in match_events(true, found, 0.05)
        if one.thing != "mouth"
    ]
    # contacts are found below a frame, which is 42 ms long
    assert torch.tensor(late).abs().max() < 0.012


@pytest.mark.parametrize("how", ["blurred and noisy", "speckled"])
def test_degraded_clips_show_them_too(batch, how):
    video, drawn_from = batch.video / 255, torch.Generator().manual_seed(0)
    if how == "speckled":
        coarse = torch.randn(len(video) * 49, 3, 8, 8, generator=drawn_from)
        made = video + 0.06 * interpolate(coarse, size=video.shape[-2:]).view(video.shape)
    else:
        flat = avg_pool2d(video.flatten(0, 1), 3, stride=1, padding=1, count_include_pad=False).view(video.shape)
        made = flat + 0.04 * torch.randn(video.shape, generator=drawn_from)
    made = made.clamp(0, 1)
    # as clean as generated clips are
    assert 22 < -10 * (made - video).square().mean().log10() < 28
    assert truth_sync(batch.onsets, seen(batch, made)[1]) >= 90


def test_frozen_clips_show_nothing(batch):
    still = (batch.video[:, :1] / 255).expand(-1, 49, -1, -1, -1)
    tracks, events = seen(batch, still)
    assert not any(events)
    assert all(one.found.all() for one in tracks)
    real, _ = seen(batch, batch.video / 255)
    errors = [path_error(*pair) for pair in zip(tracks, real, strict=True)]
    # as far off as things are away from rest, some of the time
    assert all(0.01 < error < 1 for error in errors)
    assert [path_error(one, one) for one in real] == [0] * len(real)


@pytest.mark.parametrize("kind", DISTURBANCES)
def test_flashes_at_the_right_times_are_no_events(batch, kind):
    drawn_from = torch.Generator().manual_seed(0)
    fooled = [
        fooling_clip(first, 49, FPS, onsets, kind, drawn_from)
        for first, onsets in zip(batch.video[:, 0] / 255, batch.onsets, strict=True)
    ]
    assert truth_sync(batch.onsets, seen(batch, fooled)[1]) <= 10


def test_a_thing_that_is_gone_is_not_found(batch):
    video = (batch.video / 255).clone()
    video[:, 20:] = 0.5
    tracks, _ = seen(batch, video)
    for one in tracks:
        assert one.found[:20].all() and not one.found[20:].any()


def test_psnr_counts_what_moves():
    real = torch.zeros(3, 3, 16, 16)
    real[1:, :, :8, :8] = 0.5
    video = real.clone()
    video[1:, :, :8, :8] = 0.4
    scores = picture_scores(video, real)
    assert scores["psnr_moving"] == pytest.approx(20.0, abs=1e-3)
    # a quarter of the pixels carries all of the error
    assert scores["psnr"] == pytest.approx(20.0 + 6.0206, abs=1e-3)
    assert 0 < scores["ssim"] < 1
    assert picture_scores(real[:1].expand(3, -1, -1, -1), real[:1].expand(3, -1, -1, -1))["psnr_moving"] is None


def test_psnr_by_hand():
    real = torch.zeros(2, 3, 2, 2)
    real[1, :, 0] = 1.0  # the upper half moves
    made = real.clone()
    made[1, :, 0, 0] = 0.9
    scores = psnr_scores(made, real, real[0])
    assert scores["psnr"] == pytest.approx(-10 * math.log10(0.01 / 8), abs=1e-4)
    assert scores["psnr_moving"] == pytest.approx(-10 * math.log10(0.01 / 2), abs=1e-4)
    assert psnr_scores(made[:1], real[:1], real[0])["psnr_moving"] is None  # nothing moves
    assert math.isnan(psnr_scores(made * math.nan, real, real[0])["psnr"])  # what is no number is not passed over
