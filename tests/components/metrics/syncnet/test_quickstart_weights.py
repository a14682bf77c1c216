"""The small SyncNet that ships, on speaking faces of a seed it has never seen."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from components.metrics.clip_means import ClipMeans
from components.metrics.syncnet.clip_scores import SCORES, clip_scores
from components.metrics.syncnet.model import SyncNet
from components.metrics.syncnet.scorer import SyncNetScorer
from components.weights.pretrained import PACKAGE_ROOT
from datamodules.procedural_speech import ProceduralSpeech

FOLDER = "configs/weights/quickstart_syncnet"
NUM_CLIPS = 24


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("clips"))
    clips = ProceduralSpeech(
        root,
        num_train=1,
        num_test=NUM_CLIPS,
        strike_share=0,
        render_seed=77,
        variety=0.3,
        reference_s=None,
        val_batch_size=NUM_CLIPS,
    )
    clips.prepare_data()
    clips.setup("validate")
    return next(iter(clips.val_dataloader()))


@pytest.fixture(scope="module")
def scorer():
    return SyncNetScorer(SyncNet.from_pretrained(FOLDER))


def judged(scorer, video, fps, audio, sample_rate):
    """Sync-C, Sync-D and the offsets in frames."""
    pairs = zip(scorer.lips(video, fps), scorer.sounds(audio, sample_rate), strict=True)
    scores = [scorer.score(lips, sound) for lips, sound in pairs]
    metric = ClipMeans(SCORES, NUM_CLIPS)
    metric.update([clip_scores(score) for score in scores], range(NUM_CLIPS))
    found = metric.compute()
    return found["sync_c"].item(), found["sync_d"].item(), torch.tensor([score.offset_s * 25 for score in scores])


def test_own_sounds_are_told_from_others(scorer, batch):
    video = batch.video / 255
    sync_c, sync_d, offsets = judged(scorer, video, batch.fps, batch.audio, batch.sample_rate)
    assert sync_c > 6.5 and sync_d < 3
    assert (offsets.abs() <= 1).all()
    dubbed_c, dubbed_d, offsets = judged(scorer, video, batch.fps, batch.audio.roll(1, 0), batch.sample_rate)
    assert dubbed_c < 4.5 and dubbed_d > 4.5
    assert (offsets.abs() <= 1).float().mean() < 0.5


def test_slightly_blurred_and_noisy_clips_are_judged_alike(scorer, batch):
    video = batch.video / 255
    blurred = avg_pool2d(video.flatten(0, 1), 3, stride=1, padding=1, count_include_pad=False).view(video.shape)
    noisy = blurred + 0.05 * torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    sync_c, sync_d, _ = judged(scorer, noisy.clamp(0, 1), batch.fps, batch.audio, batch.sample_rate)
    assert sync_c > 6 and sync_d < 3.5


def test_a_delay_is_measured(scorer, batch):
    late = batch.audio.roll(5 * 640, 1)
    late[:, : 5 * 640] = 0
    _, _, offsets = judged(scorer, batch.video / 255, batch.fps, late, batch.sample_rate)
    assert ((offsets + 5).abs() <= 1).float().mean() > 0.9


def test_lips_that_do_not_follow_have_no_confidence(scorer, batch):
    video = batch.video / 255
    still = video[:, :1].expand_as(video)
    shuffled = video[:, torch.randperm(video.shape[1], generator=torch.Generator().manual_seed(0))]
    assert judged(scorer, still, batch.fps, batch.audio, batch.sample_rate)[0] < 2
    assert judged(scorer, shuffled, batch.fps, batch.audio, batch.sample_rate)[0] < 3.5
    assert judged(scorer, video, batch.fps, torch.zeros_like(batch.audio), batch.sample_rate)[0] < 2


def test_files_are_small():
    assert sum(file.stat().st_size for file in (PACKAGE_ROOT / FOLDER).iterdir()) < 1_000_000
