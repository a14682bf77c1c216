import json

import pytest
import torch

from components.contracts import clip_generator
from components.errors import InputError
from components.v2a.onset_v2a import OnsetV2A
from components.weights.identity import SUMS_FILE
from components.weights.pretrained import CONFIG_FILE, WEIGHTS_FILE, sha256_of
from lightning_modules.judges.v2a import onset_targets


@pytest.fixture
def model():
    torch.manual_seed(0)
    return OnsetV2A(stem_channels=4, motion_channels=8, hidden_channels=8)


@pytest.fixture
def video():
    return torch.rand(2, 13, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("shape", "fps"), [((48, 32, 32), 24.0), ((25, 90, 160), 25.0), ((10, 16, 20), 8.0)])
def test_any_size_and_rate_gives_a_sound_of_the_clip_s_length(model, shape, fps):
    frames, height, width = shape
    sound, rate = model(torch.rand(2, frames, 3, height, width), fps)
    assert sound.shape == (2, round(frames / fps * rate))
    assert rate == 22_050
    assert model.curve(torch.rand(2, frames, 3, height, width), fps).shape == (2, 4 * round(frames / fps * 24))


@pytest.mark.parametrize("level", [0.0, 0.37, 1.0])
def test_still_pictures_are_silent_whatever_the_weights(model, level):
    model.network.head.bias.data.fill_(5.0)  # would sound everywhere
    picture = level * torch.rand(1, 1, 3, 32, 32)
    sound, _ = model(picture.expand(-1, 49, -1, -1, -1), 24.0)
    assert not sound.any()


def test_frame_rate_is_met_by_what_is_on_screen(model):
    frames = torch.arange(12.0).view(1, 12, 1, 1, 1).expand(-1, -1, 3, 32, 32) / 12
    doubled = model.working_frames(frames, 12.0)  # each frame is on screen for two working frames
    assert torch.equal(doubled, frames.repeat_interleave(2, dim=1))
    halved = model.working_frames(frames, 48.0)
    assert torch.equal(halved, frames[:, 1::2])
    assert torch.equal(model.working_frames(frames, 24.0), frames)


def test_area_shrinking_sees_every_pixel(model):
    video = torch.zeros(1, 2, 3, 128, 96)
    video[0, 1, :, 77, 41] = 1.0
    small = model.working_frames(video, 24.0)
    assert small.shape == (1, 2, 3, 32, 32)
    assert small[0, 1].mean().item() == pytest.approx(video[0, 1].mean().item())


def test_clips_do_not_influence_each_other(model, video):
    torch.testing.assert_close(model.curve(video, 24.0)[1:], model.curve(video[1:], 24.0))


def test_autocast_changes_nothing(model, video):
    plain = model.curve(video, 24.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.curve(video, 24.0), plain)


def test_network_is_local_in_time(model, video):
    """Frame 10 cannot change the curve of frame 0: 1 (difference) + 1 + 2 + 2 frames either side at most."""
    changed = video.clone()
    changed[:, 10] = 1 - changed[:, 10]
    difference = (model.network(video) - model.network(changed)).abs().amax(dim=0).view(13, 4).amax(dim=1)
    assert (difference[:5] == 0).all()
    assert (difference[9:12] > 0).all()


def test_calibration_finds_threshold_and_lag(model):
    times = [[0.4, 0.9, 1.5], [0.7, 1.3], []]
    curves = 0.6 * onset_targets([[t + 0.02 for t in row] for row in times], 196, 96.0, 0.012)
    curves += 0.3 * onset_targets([[1.1], [0.3], [0.9]], 196, 96.0, 0.012)  # weaker false alarms
    assert model.calibrate(curves, times) == 1.0
    assert 0.3 < model.threshold.item() <= 0.6
    assert model.bias_s.item() == pytest.approx(0.02, abs=2e-3)
    for found, true in zip(model.onsets(curves), times, strict=True):
        assert found == pytest.approx(true, abs=5e-3)


def test_generators_decide_the_noise(model, video):
    model.threshold.fill_(0.0)
    make = lambda seed: model(video, 24.0, None, [clip_generator(name, seed) for name in "ab"])[0]  # noqa: E731
    assert make(0).any()
    assert torch.equal(make(0), make(0))
    assert not torch.equal(make(0), make(1))


def test_round_trip(model, video, tmp_path):
    model.threshold.fill_(0.3)
    model.bias_s.fill_(0.007)
    for _ in range(2):  # the second time over the first
        model.save_pretrained(tmp_path / "v2a")
    loaded = OnsetV2A.from_pretrained(tmp_path / "v2a")
    assert loaded.config == model.config
    assert not loaded.training
    assert (loaded.threshold, loaded.bias_s) == (model.threshold, model.bias_s)
    assert torch.equal(loaded.eval().curve(video, 24.0), model.eval().curve(video, 24.0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["v2a"]
    assert sorted(entry.name for entry in (tmp_path / "v2a").iterdir()) == [SUMS_FILE, CONFIG_FILE, WEIGHTS_FILE]


def test_same_model_same_bytes(model, tmp_path):
    for name in "ab":
        model.save_pretrained(tmp_path / name)
    assert sha256_of(tmp_path / "a" / WEIGHTS_FILE) == sha256_of(tmp_path / "b" / WEIGHTS_FILE)


def test_bad_folders(model, tmp_path):
    with pytest.raises(InputError, match="was not found"):
        OnsetV2A.from_pretrained(tmp_path / "none")
    with pytest.raises(InputError, match=r"config.json does not exist"):
        OnsetV2A.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "v2a")
    config = tmp_path / "v2a" / CONFIG_FILE
    config.write_text(json.dumps({**model.config, "hidden_channels": 16}))
    with pytest.raises(InputError, match=r"of another shape: .*\(file \[8, 32, 5\], model \[16, 32, 5\]\)"):
        OnsetV2A.from_pretrained(tmp_path / "v2a")
    config.write_text(json.dumps({"depth": 3}))
    with pytest.raises(InputError, match=r"is not the config of OnsetV2A .*depth"):
        OnsetV2A.from_pretrained(tmp_path / "v2a")


def test_bad_videos(model):
    with pytest.raises(InputError, match=r"video is \[2, 3, 8, 8\]"):
        model(torch.rand(2, 3, 8, 8), 24.0)
    with pytest.raises(InputError, match="fps is 0"):
        model(torch.rand(2, 4, 3, 8, 8), 0.0)
