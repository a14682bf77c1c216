"""Every callback that judges: two ranks of which one has most clips, or all, find what one process finds, bit for bit.

Fréchet distances alone are equal to ten digits. The clips come one by one, so that a network's sums do not depend on
how many share a batch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from callbacks.clip_metrics import ClipMetrics
from callbacks.cyclesync import CycleSyncCallback
from callbacks.evaluation import EvaluationCallback
from callbacks.picture_truth import PictureTruth
from callbacks.set_metrics import SetMetrics
from callbacks.sync_confidence import SyncConfidenceCallback
from components.contracts import ClipBatch, Generation
from components.metrics.av_align.scorer import AVAlign
from components.metrics.syncnet.model import SyncNet
from components.metrics.syncnet.scorer import SyncNetScorer
from components.v2a.motion_v2a import MotionV2A
from datamodules.procedural.scenes import SCENES
from datamodules.procedural.sounds import render_sound
from datamodules.procedural_clips import draw_events
from tests.callbacks.test_clip_metrics import Levels
from tests.callbacks.test_set_metrics import Colours
from tests.components.metrics.ranks import on_two_ranks

pytestmark = pytest.mark.gate

FPS, RATE, SIDE, FRAMES = 24.0, 16_000, 32, 49
KINDS = {"bouncing_ball": "a bouncing ball", "striking_mallet": "a mallet striking a bar"}
NUM_CLIPS = 6
SHARES = {"uneven": 4, "all": NUM_CLIPS}
"""How many of the clips rank 0 has."""


@cache
def clips() -> list[Generation]:
    """Rendered scenes: generated ones are darker, and without guidance they are frozen."""
    made = []
    for index in range(NUM_CLIPS):
        rng = np.random.default_rng([3, index])
        kind = list(KINDS)[index % 2]
        events = draw_events(FRAMES / FPS, rng)
        frames = torch.from_numpy(SCENES[kind](events, np.arange(FRAMES) / FPS, SIDE, SIDE, 0.5, rng))[None]
        samples = round(FRAMES / FPS * RATE)
        audio = torch.from_numpy(render_sound(kind, events, samples, RATE, 0.5, rng)).float()[None]
        name, onsets = f"{kind}/{index}", [tuple(event.time_s for event in events)]
        # two clips of each recording
        recording = f"recording {index // 2}"
        batch = ClipBatch([name], frames, FPS, audio, RATE, [KINDS[kind]], [recording], onsets=onsets)
        video = 0.8 * frames / 255
        still = Generation(video[:, :1].repeat(1, FRAMES, 1, 1, 1), FPS, audio, RATE, batch)
        made.append(Generation(video, FPS, audio, RATE, batch, {"w0": still}))
    return made


def judges() -> list[EvaluationCallback]:
    torch.manual_seed(0)
    net = SyncNet((4,) * 6, (4,) * 6, 8, 8, 64)
    sets = {"fid": "frechet", "kid": "kernel", "is": "inception_score"}
    return [
        CycleSyncCallback(MotionV2A(), fooling=True),
        SyncConfidenceCallback(SyncNetScorer(net, min_duration_s=1.0)),
        PictureTruth(),
        ClipMetrics(Levels(darkest=0.3), exchanged=True, sound_offsets_s=(-0.25, 0.0, 0.25)),
        ClipMetrics(AVAlign(), exchanged=True),
        SetMetrics(Colours(), sets),
    ]


def judged(share: list[Generation], world_size: int) -> dict[str, object]:
    """Results, and scores of every clip, of all judges after an evaluation of these clips."""
    trainer = SimpleNamespace(
        world_size=world_size,
        is_global_zero=True,
        progress_bar_callback=None,
        loggers=[],
        state=SimpleNamespace(fn="validate"),
    )
    module = SimpleNamespace(device=torch.device("cpu"), log_dict=lambda *_, **__: None)
    found: dict[str, object] = {}
    for judge in judges():
        judge.start(trainer, module)
        for clip in share:
            judge.update(clip)
        judge.finish(trainer, module)
        for name, result in judge.results.items():
            # a sum of products over all frames, whose last bits go by the order: of 16 digits 10 are compared
            value = f"{result.value:.10g}" if name.startswith("fid") else result.value
            # as text: NaN is not equal to itself
            found[name] = repr((value, result.ci95, result.n, dict(result.details)))
        found |= {f"{judge.metrics[0]} of {clip}": repr(row) for clip, row in judge.clip_rows.items()}
    return found


def shared(name: str, rank: int) -> dict[str, object]:
    here = SHARES[name]
    share = clips()[:here] if rank == 0 else clips()[here:]
    if rank == 0:
        # one more evens out the ranks
        share = [*share, replace(clips()[0], valid=torch.tensor([False]))]
    return judged(share, world_size=2)


def both_shares(rank: int) -> dict[str, dict[str, object]]:
    return {name: shared(name, rank) for name in SHARES}


@pytest.fixture(scope="module")
def ranks() -> tuple[dict[str, dict[str, object]], dict[str, dict[str, object]]]:
    return on_two_ranks(both_shares)


@pytest.mark.parametrize("share", SHARES)
def test_two_ranks_find_what_one_finds(ranks, share):
    alone = judged(clips(), world_size=1)
    first = {name.partition("_")[0] for name in alone}
    assert {"cyclesync", "sync", "truth", "psnr", "brightness", "av", "fid", "kid", "is"} <= first
    for rank in ranks:
        assert rank[share] == alone
