"""MTCNN with the shipped weights, on photographs that come with scikit-image and on what has no face."""

import shutil

import numpy as np
import pytest
import skimage.data
import torch
from torch.nn.functional import interpolate

from components.errors import InputError
from components.metrics.faces.boxes import over_union
from components.metrics.faces.mtcnn import MTCNN, NETS, SHIPPED
from components.weights.identity import sha256_of
from components.weights.pretrained import PACKAGE_ROOT
from datamodules.procedural_clips import ProceduralClips

BY_HAND = {"astronaut": (179, 66, 269, 177), "camera": (198, 119, 256, 197)}
"""From the hair to the chin, from cheek to cheek."""
FACELESS = ("coffee", "chelsea", "rocket", "brick", "grass", "gravel", "coins", "moon")


def photograph(name: str) -> torch.Tensor:
    """float ``[3, H, W]`` in [0, 1]."""
    picture = torch.from_numpy(np.array(getattr(skimage.data, name)()))
    return (picture.permute(2, 0, 1)[:3] if picture.ndim == 3 else picture.expand(3, -1, -1)).float() / 255


def overlap(found: torch.Tensor, by_hand: tuple[float, ...]) -> float:
    return over_union(torch.stack([found, torch.tensor(by_hand, dtype=torch.float32)]))[0, 1].item()


@pytest.fixture(scope="module")
def detector() -> MTCNN:
    return MTCNN()


@pytest.fixture(scope="module")
def scene() -> torch.Tensor:
    """A half-length portrait beside a wall, at the full experiments' size."""
    wall = interpolate(photograph("brick")[None], (480, 832), mode="bilinear")[0]
    wall[:, :, 300:780] = interpolate(photograph("astronaut")[None], (480, 480), mode="bilinear")[0]
    return wall


@pytest.mark.parametrize("name", BY_HAND)
def test_a_face_is_found_where_it_is(detector: MTCNN, name: str) -> None:
    (found,) = detector.detect(photograph(name)[None])
    assert len(found) == 1
    assert overlap(found[0], BY_HAND[name]) > 0.8


@pytest.mark.parametrize("name", FACELESS)
def test_photographs_without_people_have_no_face(detector: MTCNN, name: str) -> None:
    assert [len(found) for found in detector.detect(photograph(name)[None])] == [0]


def test_noise_and_plain_pictures_have_no_face(detector: MTCNN) -> None:
    draw = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 3, 480, 832, generator=draw)
    coarse = interpolate(torch.rand(2, 3, 30, 52, generator=draw), (480, 832), mode="bilinear")
    grey = torch.full((1, 3, 480, 832), 0.5)
    ramp = torch.linspace(0, 1, 832).expand(1, 3, 480, 832)
    assert [len(found) for found in detector.detect(torch.cat([noise, coarse, grey, ramp]))] == [0] * 6


def test_balls_and_mallets_have_no_face(detector: MTCNN, tmp_path) -> None:
    clips = ProceduralClips(
        str(tmp_path), num_train=2, num_test=4, kinds=["bouncing_ball", "striking_mallet"], val_batch_size=4
    )
    clips.prepare_data()
    clips.setup("validate")
    video = next(iter(clips.val_dataloader())).video[:, ::12].flatten(0, 1).float() / 255
    enlarged = interpolate(video, scale_factor=10, mode="bilinear")
    assert sum(len(found) for found in detector.detect(enlarged)) == 0


def test_frames_do_not_see_each_other(detector: MTCNN, scene: torch.Tensor) -> None:
    """Two people, one, nobody, and the first scene mirrored, however many are looked at together."""
    two = scene.clone()
    two[:, 100:300, :200] = photograph("camera")[:, 50:250, 100:300]
    frames = torch.stack([two, scene, torch.zeros_like(scene), two.flip(2)])
    found = detector.detect(frames)
    assert [len(boxes) for boxes in found] == [2, 1, 0, 2]
    for at_once in (1, 3):
        detector.frames_at_once = at_once
        for boxes, expected in zip(detector.detect(frames), found, strict=True):
            torch.testing.assert_close(boxes, expected, atol=1e-2, rtol=0)
    detector.frames_at_once = 8
    # (480 / 512 of the photograph's size, 300 columns to the right)
    by_hand = [edge * 480 / 512 + shift for edge, shift in zip(BY_HAND["astronaut"], (300, 0, 300, 0), strict=True)]
    assert overlap(found[1][0], tuple(by_hand)) > 0.8
    left, top, right, bottom = by_hand
    assert max(overlap(box, (832 - right, top, 832 - left, bottom)) for box in found[3]) > 0.8


def test_smaller_faces_are_found_where_they_are_asked_for(scene: torch.Tensor) -> None:
    small = interpolate(scene[None], scale_factor=0.35, mode="area")  # a face 37 pixels tall
    assert [len(MTCNN(min_face_size=size).detect(small)[0]) for size in (20, 120)] == [1, 0]
    assert len(MTCNN(min_face_size=200).detect(scene[None])[0]) == 0
    assert len(MTCNN(min_face_size=40).detect(scene[None, :, :39, :])[0]) == 0  # no piece fits


def test_thresholds_and_the_step_between_sizes(scene: torch.Tensor) -> None:
    assert len(MTCNN(thresholds=(0.6, 0.7, 1.0)).detect(scene[None])[0]) == 0
    assert len(MTCNN(scale_factor=0.5).detect(scene[None])[0]) == 1


def test_the_original_files_are_read_too(tmp_path, detector: MTCNN) -> None:
    for name in NETS:
        torch.save(getattr(detector, name).state_dict(), tmp_path / f"{name}.pt")
    other = MTCNN(tmp_path)
    assert other.identity() == detector.identity()
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), detector.parameters(), strict=True))
    MTCNN(tmp_path, sha256={"rnet.pt": sha256_of(tmp_path / "rnet.pt")})
    with pytest.raises(InputError, match=r"pnet\.pt' has the SHA-256 \w+, but sha256 asks for 0000"):
        MTCNN(tmp_path, sha256={"pnet.pt": "0" * 64})


def test_what_is_written_is_what_ships(tmp_path, detector: MTCNN) -> None:
    detector.save_pretrained(tmp_path / "mtcnn")
    shipped = PACKAGE_ROOT / SHIPPED
    assert {file.name for file in shipped.iterdir()} == {f"{name}.safetensors" for name in NETS} | {"SHA256SUMS"}
    for file in shipped.iterdir():
        assert file.read_bytes() == (tmp_path / "mtcnn" / file.name).read_bytes()


def test_missing_and_wrong_weights(tmp_path) -> None:
    with pytest.raises(InputError, match=r"pretrained folder 'none/there' was not found"):
        MTCNN("none/there")
    shutil.copy(PACKAGE_ROOT / SHIPPED / "pnet.safetensors", tmp_path)
    with pytest.raises(InputError, match=r"has no rnet\.safetensors or rnet\.pt; MTCNN needs pnet, rnet, onet"):
        MTCNN(tmp_path)
    for name in ("rnet", "onet"):
        shutil.copy(PACKAGE_ROOT / SHIPPED / "rnet.safetensors", tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match=r"onet\.safetensors' does not fit this OutputNet"):
        MTCNN(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_face_size": 0}, "min_face_size is 0"),
        ({"thresholds": (0.6, 0.7)}, r"thresholds is \[0.6, 0.7\]; give three"),
        ({"thresholds": (0.6, 0.7, 70)}, "from 0 to 1"),
        ({"scale_factor": 1}, "scale_factor is 1"),
        ({"frames_at_once": 0}, "frames_at_once is 0"),
    ],
)
def test_bad_settings(settings, message) -> None:
    with pytest.raises(InputError, match=message):
        MTCNN(**settings)


def test_what_boxes_depend_on_is_told() -> None:
    assert MTCNN(frames_at_once=2).identity() == MTCNN().identity()
    assert MTCNN(min_face_size=41).identity() != MTCNN().identity()
