"""Judges of synchrony on clips of known truth: best where the sound belongs, and what they take for motion.

What `docs/evaluation.md` says of each of them is asserted here, also where a published metric fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from statistics import fmean
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor

from components.contracts import Generation, clip_generator
from components.metrics.av_align.scorer import AVAlign
from components.metrics.cyclesync.matching import onset_iou
from components.metrics.cyclesync.metric import cyclesync_onsets
from components.metrics.scorers import real_clips
from components.metrics.sound_offsets import with_exchanged_sound, with_sound_at
from components.metrics.syncnet.model import SyncNet
from components.metrics.syncnet.scorer import SyncNetScorer
from components.metrics.truth.events import seen_events
from components.metrics.truth.tracker import thing_of, track
from components.v2a.disturbances import fooling_clip
from components.v2a.onset_v2a import OnsetV2A
from datamodules.procedural_speech import ProceduralSpeech

NUM_CLIPS = 16
OFFSETS_S = (-0.5, -0.25, -0.125, 0.0, 0.125, 0.25, 0.5)
FAKES = ("frozen", "noise", "flashes", "brightness")


@cache
def clips() -> Generation:
    """Speaking faces of 32x32: the one kind of scene that all of these judges may be asked about."""
    with TemporaryDirectory() as root:
        data = ProceduralSpeech(
            root,
            num_train=1,
            num_test=NUM_CLIPS,
            strike_share=0,
            render_seed=79,
            variety=0.3,
            reference_s=None,
            val_batch_size=NUM_CLIPS,
        )
        data.prepare_data()
        data.setup("validate")
        return real_clips(next(iter(data.val_dataloader())))


def heard(generation: Generation) -> list[list[float]]:
    seconds = generation.video.shape[1] / generation.fps
    return cyclesync_onsets(generation.audio, generation.sample_rate, seconds)


def share(onsets: list[list[float]], events: list[list[float]]) -> float:
    """Matched pairs over all, x100, mean over the clips."""
    found = [onset_iou(*pair, [0.05]) for pair in zip(onsets, events, strict=True)]
    return 100 * fmean(0.0 if one is None else one[0] for one in found)


@cache
def v2a() -> OnsetV2A:
    return OnsetV2A.from_pretrained("configs/weights/quickstart_harmony_v2a")


def cyclesync(generation: Generation) -> float:
    names = generation.reference.ids
    sound, rate = v2a()(generation.video, generation.fps, None, [clip_generator(name, 0) for name in names])
    return share(heard(generation), cyclesync_onsets(sound, rate, generation.video.shape[1] / generation.fps))


def truth_sync(generation: Generation) -> float:
    """As Harmony's: what is seen against what is heard."""
    batch = generation.reference
    tracks = [
        track(video, first, thing_of(caption))
        for video, first, caption in zip(generation.video, batch.video[:, 0] / 255, batch.captions, strict=True)
    ]
    return share(heard(generation), [seen_events(one, generation.fps) for one in tracks])


def av_align(generation: Generation) -> float:
    found = AVAlign().score(generation, range(NUM_CLIPS))
    return 100 * fmean(one.values.get("av_align", 0.0) for one in found)


@cache
def syncnet() -> SyncNetScorer:
    return SyncNetScorer(SyncNet.from_pretrained("configs/weights/quickstart_syncnet"), min_duration_s=0.9)


def sync_c(generation: Generation) -> float:
    found = syncnet()(generation.video, generation.fps, generation.audio, generation.sample_rate)
    return float(found["sync_c"].mean())


def minus_sync_d(generation: Generation) -> float:
    found = syncnet()(generation.video, generation.fps, generation.audio, generation.sample_rate)
    return -float(found["sync_d"].mean())


JUDGES: Mapping[str, Callable[[Generation], float]] = {
    "cyclesync": cyclesync,
    "truth_sync": truth_sync,
    "av_align": av_align,
    "sync_c": sync_c,
    "sync_d": minus_sync_d,
}


def fake(kind: str) -> Generation:
    """Pictures in which nothing moves, beside the real sounds."""
    real = clips()
    num_frames, firsts = real.video.shape[1], real.video[:, 0]
    made: list[Tensor] = []
    for first, onsets, name in zip(firsts, heard(real), real.reference.ids, strict=True):
        draw = clip_generator(name, 1)
        if kind == "frozen":
            made.append(first.expand(num_frames, -1, -1, -1))
        elif kind == "noise":
            made.append(torch.rand(real.video[0].shape, generator=draw))
        else:
            form = {"flashes": "patch", "brightness": "brightness_jump"}[kind]
            made.append(fooling_clip(first, num_frames, real.fps, onsets, form, draw))
    return replace(real, video=torch.stack(made))


@cache
def curve(judge: str) -> dict[float, float]:
    return {offset: JUDGES[judge](moved) for offset, moved in with_sound_at(clips(), OFFSETS_S).items()}


@cache
def chance(judge: str) -> float:
    return JUDGES[judge](with_exchanged_sound(clips()))


@pytest.mark.parametrize("judge", JUDGES)
def test_real_clips_are_best_where_their_sound_belongs(judge):
    found = dict(curve(judge))
    best = found.pop(0.0)
    assert best > max(found.values()) and best > chance(judge)


@pytest.mark.parametrize("judge", ["sync_c", "sync_d"])
def test_syncnet_falls_slowly_because_it_searches_the_offset(judge):
    """By the published protocol the best of 31 shifts counts: an eighth of a second off costs next to nothing."""
    found, floor = curve(judge), chance(judge)
    for offset in (-0.125, 0.125):
        assert found[offset] - floor > 0.6 * (found[0.0] - floor)


@pytest.mark.parametrize("kind", FAKES)
@pytest.mark.parametrize("judge", JUDGES)
def test_what_does_not_move_does_not_beat_chance(judge, kind):
    found = JUDGES[judge](fake(kind))
    # findings, not wishes: AV-Align takes light for motion, and a SyncNet lays what it never saw in the middle of all
    if judge == "av_align" and kind in ("flashes", "brightness"):
        assert found > curve(judge)[0.0]
    elif judge == "sync_d" and kind == "noise":
        assert chance(judge) < found < curve(judge)[0.5]
    else:
        assert found <= chance(judge)
