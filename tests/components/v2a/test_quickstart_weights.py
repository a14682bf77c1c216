"""The weights that judge the two quickstarts, on clips of a seed they have never seen."""

import time

import pytest
import torch
from torch.nn.functional import avg_pool2d

from components.contracts import clip_generator
from components.metrics.cyclesync.metric import CycleSync, cyclesync_onsets
from components.v2a.disturbances import DISTURBANCES, fooling_clip
from components.v2a.onset_v2a import OnsetV2A
from components.weights.pretrained import PACKAGE_ROOT
from datamodules.procedural_clips import ProceduralClips
from datamodules.procedural_speech import ProceduralSpeech

FOLDERS = {"syncphony": "configs/weights/quickstart_v2a", "harmony": "configs/weights/quickstart_harmony_v2a"}
TOLERANCES = (0.05, 1 / 24, 0.1)


@pytest.fixture(scope="module", params=FOLDERS)
def system(request):
    return request.param


@pytest.fixture(scope="module")
def batch(system, tmp_path_factory):
    root = str(tmp_path_factory.mktemp("clips"))
    shared = {"root": root, "num_train": 1, "num_test": 48, "render_seed": 77, "val_batch_size": 48}
    clips = ProceduralClips(**shared) if system == "syncphony" else ProceduralSpeech(**shared, variety=0.3)
    clips.prepare_data()
    clips.setup("validate")
    return next(iter(clips.val_dataloader()))


@pytest.fixture(scope="module")
def model(system):
    return OnsetV2A.from_pretrained(FOLDERS[system])


def scores(model, batch, video):
    """CycleSync x100 of matched and of mismatched pairs at 0.05 s."""
    sound, rate = model(video, batch.fps, None, [clip_generator(name, 0) for name in batch.ids])
    seconds = batch.video.shape[1] / batch.fps
    heard, inferred = (cyclesync_onsets(*track, seconds) for track in ((batch.audio, batch.sample_rate), (sound, rate)))
    found = []
    for partners in (heard, heard[1:] + heard[:1]):
        metric = CycleSync(len(batch), *TOLERANCES[:1], TOLERANCES[1:])
        metric.update(partners, inferred, range(len(batch)))
        found.append(metric.compute()["value"].item())
    return found


def test_real_clips_are_heard_and_mismatched_pairs_are_not(model, batch):
    real, chance = scores(model, batch, batch.video / 255)
    assert real >= 90
    assert chance <= 25


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_slightly_blurred_and_noisy_clips_are_heard_too(model, batch, noise):
    video = batch.video / 255
    blurred = avg_pool2d(video.flatten(0, 1), 3, stride=1, padding=1, count_include_pad=False).view(video.shape)
    noisy = blurred + noise * torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    real, chance = scores(model, batch, noisy.clamp(0, 1))
    assert real >= 85
    assert chance <= 25


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_still_clips_are_silent(model, batch, noise):
    still = (batch.video[:, :1] / 255).expand(-1, 49, -1, -1, -1)
    noisy = still + noise * torch.randn(still.shape, generator=torch.Generator().manual_seed(0))
    assert not model(noisy.clamp(0, 1), 24.0)[0].any()


@pytest.mark.parametrize("kind", DISTURBANCES)
def test_flashes_at_the_onsets_of_a_frozen_picture_are_no_events(model, batch, kind):
    """A judge of pictures must not be fooled by what flashes in time: no better than mismatched pairs of real clips."""
    frames = batch.video.shape[1]
    detected = cyclesync_onsets(batch.audio, batch.sample_rate, frames / batch.fps)
    clips = [
        fooling_clip(video[0] / 255, frames, batch.fps, onsets, kind, clip_generator(name, 0))
        for name, video, onsets in zip(batch.ids, batch.video, detected, strict=True)
    ]
    assert scores(model, batch, torch.stack(clips))[0] <= scores(model, batch, batch.video / 255)[1]


def test_events_out_of_order_are_not_heard(model, batch):
    order = torch.randperm(49, generator=torch.Generator().manual_seed(0))
    assert scores(model, batch, batch.video[:, order] / 255)[0] < 30


def test_is_quick(model):
    video = torch.rand(64, 49, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model(video[:2], 24.0)
    began = time.process_time()
    model(video, 24.0)
    assert time.process_time() - began < 6.0  # processor seconds, i.e. 3 s on two cores


def test_files_are_small(system):
    assert sum(file.stat().st_size for file in (PACKAGE_ROOT / FOLDERS[system]).iterdir()) < 1_000_000
