"""What all judges of pictures share: whole levels, full precision whatever surrounds them, and what they ask for."""

import importlib.util

import pytest
import torch

from components.errors import InputError
from components.metrics.video.dynamic_degree import DynamicDegree
from components.metrics.video.i3d import I3DClips
from components.metrics.video.imaging_quality import ImagingQuality
from components.metrics.video.inception import InceptionFrames
from components.metrics.video.optical_flow import RaftFlow
from components.metrics.video.reference_identity import ReferenceIdentity
from tests.components.metrics.video.clips import generation, noise, scripted

pytest.importorskip("torchvision")


class Sums(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 3 * 2 * 8 * 8).view(-1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight


@pytest.fixture
def sums(tmp_path):
    script = scripted(Sums(), tmp_path / "sums.pt")
    return I3DClips(script, num_frames=2, rate_hz=None, size=None, dim=1, arguments={})


def test_neither_autocast_nor_gradients_reach_a_judge(sums):
    clips = generation(noise(1, 2, 8, 8))
    (plain,) = sums.features(clips, [0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (within,) = sums.features(clips, [0])
    assert torch.equal(plain, within) and plain.dtype == torch.float32 and not plain.requires_grad
    assert not sums.train().training and not any(weight.requires_grad for weight in sums.parameters())


def test_pictures_have_whole_levels(sums):
    """As a file would hold them: a third of a level is nothing, and neither is what lies beyond the range."""
    clips = generation(noise(1, 2, 8, 8))
    levels = (255 * clips.video).round()
    for other in ((levels + 0.3) / 255, (levels - 0.3) / 255, torch.where(levels == 255, 1.2, clips.video)):
        found = sums.features(generation(other, real=clips.reference.video), [0])[0]
        torch.testing.assert_close(found, sums.features(clips, [0])[0])


def test_without_torchvision_it_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for build in (
        lambda: RaftFlow("raft.pth"),
        lambda: InceptionFrames("inception.pth"),
        lambda: ReferenceIdentity("dino"),
    ):
        with pytest.raises(
            InputError, match=r"needs torchvision, which is not installed: pip install 'avsync\[eval\]'"
        ):
            build()


def test_shapes_alone_need_no_file():
    with torch.device("meta"):
        judges = [
            DynamicDegree(RaftFlow("absent.pth")),
            ImagingQuality("absent.pth"),
            InceptionFrames("absent.pth"),
            I3DClips("absent.pt"),
        ]
    assert judges[2].dim == 2048 and judges[3].dim == 400
    assert all(parameter.is_meta for judge in judges for parameter in judge.parameters())
