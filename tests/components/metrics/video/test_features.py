"""FID's and FVD's features: which frames are seen, at what size and scale, and that the batch does not matter."""

import pytest
import torch

from components.errors import InputError
from components.metrics.distributions.set_distance import SetDistance
from components.metrics.video.i3d import I3DClips
from components.metrics.video.inception import InceptionFrames
from tests.components.metrics.video.clips import generation, noise, saved, scripted

pytest.importorskip("torchvision")


class Means(torch.nn.Module):
    """I3D's call; gives the mean of each of four frames, all three colours, and whether the options came."""

    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        flags = torch.tensor([[float(rescale), float(resize), float(return_features)]]) + 0 * x[:, :, 0, 0, 0]
        return torch.cat([x.mean(dim=(1, 3, 4)), flags], dim=1)


class Plain(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.amax(dim=(2, 3, 4))


@pytest.fixture(scope="module")
def means(tmp_path_factory):
    return scripted(Means(), tmp_path_factory.mktemp("scripts") / "means.pt")


def ramp(frames, fps=24.0):
    """Frame n is of level n."""
    levels = torch.arange(frames).float().view(1, -1, 1, 1, 1) / 255
    return generation(levels.expand(1, -1, 3, 16, 20), fps)


def levels(features):
    """Which frames a feature of `Means` saw."""
    return ((features[:, :-3] + 1) / 2 * 255).round().long().tolist()


def test_a_window_has_the_frames_at_its_rate(means):
    extractor = I3DClips(means, num_frames=4, rate_hz=6.0, size=None, dim=7)
    (found,) = extractor.features(ramp(48), [0])
    assert levels(found) == [[0, 4, 8, 12]]
    assert found[0, -3:].tolist() == [0, 0, 1]
    every = I3DClips(means, num_frames=4, rate_hz=None, windows="all", size=8, dim=7)
    assert levels(every.features(ramp(11), [0])[0]) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_arguments_reach_the_script(means, tmp_path):
    settings = {"num_frames": 4, "rate_hz": None, "size": None}
    stylegan = {"rescale": False, "resize": True, "return_features": True}
    extractor = I3DClips(means, **settings, dim=7, arguments=stylegan)
    assert extractor.features(ramp(4), [0])[0][0, -3:].tolist() == [0, 1, 1]
    plain = I3DClips(scripted(Plain(), tmp_path / "plain.pt"), **settings, dim=3, arguments={})
    white = generation(torch.ones(1, 4, 3, 16, 16))
    torch.testing.assert_close(plain.features(white, [0])[0], torch.ones(1, 3))


def test_clips_that_do_not_fit_are_told(means):
    with pytest.raises(InputError, match=r"clip 'clip0' has 5 frames at 6 per second, but I3DClips.num_frames is 12"):
        I3DClips(means, dim=7).features(ramp(20), [0])
    with pytest.raises(InputError, match=r"gave \[1, 7\] for one window, not \[1, 400\]; set dim"):
        I3DClips(means, num_frames=4, rate_hz=None).features(ramp(4), [0])
    with pytest.raises(InputError, match="windows is 'last'"):
        I3DClips(means, windows="last")


def test_the_size_of_pictures_reaches_the_script(tmp_path):
    class Sides(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[x.shape[2], x.shape[3], x.shape[4]]]).float()

    script = scripted(Sides(), tmp_path / "sides.pt")
    common = {"num_frames": 2, "rate_hz": None, "dim": 3, "arguments": {}}
    assert I3DClips(script, size=9, **common).features(ramp(2), [0])[0].tolist() == [[2, 9, 9]]
    assert I3DClips(script, size=None, **common).features(ramp(2), [0])[0].tolist() == [[2, 16, 20]]


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """Random weights; without the counters that old files lack."""
    from components.metrics.video.inception_net import FidInception

    torch.manual_seed(0)
    net = FidInception()
    for parameter in net.parameters():
        if parameter.ndim > 1:  # else nothing of the picture is left behind 94 layers
            torch.nn.init.kaiming_normal_(parameter)
    file = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    saved(net, file)
    return str(file)


@pytest.fixture(scope="module")
def extractor(inception):
    return InceptionFrames(inception, size=80, frames_at_once=2)


def test_frames_of_fid(inception, extractor):
    clips = generation(noise(2, 5, 20, 24), fps=12.0)
    first, second = extractor.features(clips, [0, 1])
    assert first.shape == second.shape == (5, 2048) and first.dtype == torch.float32
    # neither the batch nor what is computed together matters
    (alone,) = extractor.features(clips, [1])
    torch.testing.assert_close(alone, second, atol=1e-5, rtol=1e-4)
    later = InceptionFrames(inception, size=80, skip_first=True, rate_hz=6.0)
    torch.testing.assert_close(later.features(clips, [0])[0], first[[2, 4]], atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="clip 'clip0' has no frame beside its first"):
        later.features(generation(noise(1, 1, 20, 24)), [0])
    # the counters are no weights: files with and without them are the same network
    assert extractor.identity()["sha256"] == later.identity()["sha256"]


def test_logits_and_resizings(inception, extractor):
    clips = generation(noise(1, 1, 20, 24))
    logits = InceptionFrames(inception, size=80, output="logits")
    assert logits.features(clips, [0])[0].shape == (1, 1008) == (1, logits.dim)
    others = [("bicubic", True), ("tensorflow", False)]
    found = [extractor.features(clips, [0])[0]] + [
        InceptionFrames(inception, size=80, resizing=resizing, antialias=antialias).features(clips, [0])[0]
        for resizing, antialias in others
    ]
    assert not torch.allclose(found[0], found[1], atol=1e-3) and not torch.allclose(found[0], found[2], atol=1e-3)


def test_equal_sets_of_clips_are_nearer_than_darker_ones(extractor):
    real, dark = noise(1, 8, 16, 16), noise(1, 8, 16, 16) / 4
    found = []
    for video in (real, dark):
        metric = SetDistance(extractor.dim, ["kernel"])
        metric.update(extractor.features(generation(real), [0])[0], real=True)
        metric.update(extractor.features(generation(video), [0])[0], real=False)
        found.append(metric.compute()["kernel"])
    assert found[0] < 0 < found[1]


def test_wrong_settings_and_files_are_told(inception, tmp_path):
    with pytest.raises(InputError, match="size is 64; the network needs pictures of 75"):
        InceptionFrames(inception, size=64)
    with pytest.raises(InputError, match="resizing is 'lanczos'"):
        InceptionFrames(inception, resizing="lanczos")
    with pytest.raises(InputError, match="'tensorflow' has none"):
        InceptionFrames(inception, resizing="tensorflow", antialias=True)
    with pytest.raises(
        InputError, match=r"InceptionFrames.weights: .* is no file on this disk; download https://github"
    ):
        InceptionFrames(str(tmp_path / "absent.pth"))
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"conv\.weight"):
        InceptionFrames(str(tmp_path / "other.pth"))
