import pytest
import torch

from components.errors import InputError
from components.metrics.faces.s3fd import S3FD, scaled
from components.metrics.faces.s3fd_net import S3FDNet
from components.weights.identity import sha256_of


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Drawn ones, in the public file's form."""
    file = tmp_path_factory.mktemp("weights") / "sfd_face.pth"
    torch.manual_seed(0)
    torch.save(S3FDNet().state_dict(), file)
    return file


@pytest.fixture(scope="module")
def detector(weights):
    """All it knows is to find a face in every cell, a surer one where it is bright."""
    made = S3FD(weights)
    with torch.no_grad():
        for conf in made.net.conf:
            conf.weight.mul_(0.1)
            conf.bias.zero_()
            conf.bias[-1] = 3
    return made


def test_boxes_are_where_the_anchors_are(detector):
    """Anchors of one size do not overlap by three tenths; a coarse one takes those below it away."""
    frames = torch.rand(2, 3, 160, 240, generator=torch.Generator().manual_seed(0))
    found = detector.detect(frames)
    assert all(boxes.shape[1] == 4 and (boxes[:, 2:] > boxes[:, :2]).all() for boxes in found)
    assert all(0 < len(boxes) < 200 for boxes in found)
    for frame, boxes in zip(frames, found, strict=True):
        torch.testing.assert_close(detector.detect(frame[None])[0], boxes, atol=1e-2, rtol=0)


def test_nobody_is_sure_enough(weights):
    assert [len(boxes) for boxes in S3FD(weights, confidence=0.99).detect(torch.rand(3, 3, 112, 130))] == [0, 0, 0]


def test_small_pictures_are_refused(detector):
    with pytest.raises(InputError, match=r"pictures of 130x109 at 32x27, but needs 28 pixels a side: raise its scale"):
        detector.detect(torch.rand(1, 3, 109, 130))


def test_a_quarter_is_the_mean_of_the_four_in_the_middle():
    pictures = torch.randint(0, 256, (2, 3, 24, 40), generator=torch.Generator().manual_seed(0)).float()
    blocks = pictures.unflatten(3, (10, 4)).unflatten(2, (6, 4))[:, :, :, 1:3, :, 1:3]
    assert torch.equal(scaled(pictures, 0.25), (blocks.mean(dim=(3, 5)) + 0.5).floor())
    assert torch.equal(scaled(pictures, 1.0), pictures)
    assert scaled(pictures[:, :, :2, :3], 0.25).shape == (2, 3, 1, 1)


def test_weights_are_checked(weights, tmp_path):
    S3FD(weights, sha256=sha256_of(weights))
    with pytest.raises(InputError, match="but sha256 asks for 0000"):
        S3FD(weights, sha256="0" * 64)
    with pytest.raises(
        InputError, match=r"S3FD\.source: weights file 'none\.pth' does not exist; give sfd_face\.pth of"
    ):
        S3FD("none.pth")
    torch.save({"vgg.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth' does not fit this S3FDNet: 64 missing"):
        S3FD(tmp_path / "other.pth")
    with torch.device("meta"):
        assert S3FD("none.pth").net.vgg[0].weight.is_meta


@pytest.mark.parametrize(
    "settings", [{"confidence": 1.0}, {"confidence": 0.0}, {"scale": 0.0}, {"scale": 1.5}, {"frames_at_once": 0}]
)
def test_bad_settings(settings):
    ((name, value),) = settings.items()
    with pytest.raises(InputError, match=rf"S3FD\.{name} is {value}"):
        S3FD("none.pth", **settings)


def test_what_boxes_depend_on_is_told(weights):
    assert S3FD(weights, frames_at_once=1).identity() == S3FD(weights).identity()
    assert S3FD(weights).identity()["weights_sha256"] == sha256_of(weights)
    assert S3FD(weights, scale=0.5).identity() != S3FD(weights).identity()
