"""Identity and consistency: 1 for pictures that stay, less for those that change, with the real model classes."""

from dataclasses import replace

import pytest
import torch

from components.contracts import PreparedClips
from components.errors import InputError
from components.metrics.video.reference_identity import ReferenceIdentity
from components.metrics.video.subject_consistency import SubjectConsistency
from tests.components.metrics.video.clips import frozen, generation, noise, vision_folder

pytest.importorskip("torchvision")
KINDS = ("dinov3_vit", "dinov2", "vit")


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return vision_folder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    return vision_folder(tmp_path_factory.mktemp("vit"), "vit")


def identities(judge, clips, rows=(0,)):
    return [score.values["reference_identity"] for score in judge.score(clips, rows)]


@pytest.mark.parametrize("pooling", ["cls", "verse_bench"])
def test_a_frozen_clip_keeps_its_identity_and_others_lose_it(folder, pooling):
    judge = ReferenceIdentity(folder, pooling)
    still = frozen(1, 3, 40, 48)
    assert identities(judge, generation(still)) == pytest.approx([1], abs=1e-5)
    other = generation(noise(1, 3, 40, 48, seed=5), real=generation(still).reference.video)
    # half of the frames changed lies between all and none
    half = generation(
        torch.cat([still, noise(1, 3, 40, 48, seed=5)], dim=1),
        real=generation(still).reference.video.repeat(1, 2, 1, 1, 1),
    )
    changed, partly = identities(judge, other)[0], identities(judge, half)[0]
    assert changed < partly < 0.99999
    assert partly == pytest.approx((1 + changed) / 2, abs=1e-4)


def test_the_reference_is_the_first_real_frame(dino):
    real = noise(1, 4, 40, 40)
    judge = ReferenceIdentity(dino)
    of_first = generation(real[:, :1].expand(-1, 4, -1, -1, -1), real=generation(real).reference.video)
    of_last = generation(real[:, 3:].expand(-1, 4, -1, -1, -1), real=generation(real).reference.video)
    assert identities(judge, of_first) == pytest.approx([1], abs=1e-5)
    assert identities(judge, of_last)[0] < 0.9999


def test_poolings_take_different_tokens(dino):
    clips = generation(noise(1, 3, 40, 40))
    assert identities(ReferenceIdentity(dino), clips) != identities(ReferenceIdentity(dino, "verse_bench"), clips)


def test_the_batch_does_not_matter(dino):
    clips = generation(noise(3, 5, 40, 40), real=generation(noise(3, 5, 40, 40, seed=1)).reference.video)
    judge = ReferenceIdentity(dino, frames_at_once=2)
    together = identities(judge, clips, [2, 0])
    assert together == pytest.approx([identities(judge, clips, [row])[0] for row in (2, 0)], abs=1e-6)
    assert identities(ReferenceIdentity(dino), clips, [2, 0]) == pytest.approx(together, abs=1e-6)


def test_judges_stay_frozen_and_say_what_they_are(dino):
    judge = ReferenceIdentity(dino).train()
    assert not judge.training and not any(parameter.requires_grad for parameter in judge.parameters())
    assert judge.identity()["pooling"] == "cls" and len(judge.identity()["sha256"]) == 64
    assert judge.identity()["sha256"] == SubjectConsistency(dino).identity()["sha256"]


def test_without_its_picture_a_clip_has_no_reference(dino):
    clips = generation(noise(1, 2, 40, 40), real=torch.zeros(1, 0, 3, 0, 0, dtype=torch.uint8))
    (prompt,) = ReferenceIdentity(dino).score(clips, [0])
    assert (prompt.values, prompt.problem) == ({}, "no_reference")
    known = torch.ones(1, dtype=torch.bool)
    encoded = PreparedClips(num_frames=2, num_samples=0, sounding=known, moving=known)
    clips = replace(clips, reference=replace(clips.reference, prepared=encoded))
    with pytest.raises(InputError, match="clip 'clip0' comes without its pictures"):
        ReferenceIdentity(dino).score(clips, [0])


def test_what_is_no_dino_is_refused(tmp_path, dino):
    siglip = vision_folder(tmp_path / "siglip", "siglip")
    with pytest.raises(InputError, match="is a model of type 'siglip', but one of vit, dinov2"):
        ReferenceIdentity(siglip)
    with pytest.raises(InputError, match="pooling is 'mean'"):
        ReferenceIdentity(dino, "mean")
    with pytest.raises(InputError, match="was not found"):
        SubjectConsistency(str(tmp_path / "absent"))


def test_consistency_by_hand(dino):
    """Means of the cosines to the first frame and to the one before, negative ones as 0, at a short side of 224."""
    video = noise(1, 4, 48, 64)
    judge = SubjectConsistency(dino, frames_at_once=3)
    (score,) = judge.score(generation(video), [0])
    large = torch.nn.functional.interpolate(video[0], (224, 298), mode="bilinear", align_corners=False)
    normal = ((255 * large).round() / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    with torch.no_grad():
        tokens = judge.net.model(normal, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    cosine = torch.nn.functional.cosine_similarity
    pairs = [
        (max(0, cosine(tokens[i], tokens[0], dim=0)) + max(0, cosine(tokens[i], tokens[i - 1], dim=0))) / 2
        for i in (1, 2, 3)
    ]
    assert score.values["subject_consistency"] == pytest.approx(sum(pairs).item() / 3, abs=1e-5)


class WhiteOrBlack(torch.nn.Module):
    """Opposite unit vectors for bright and dark pictures."""

    def forward(self, pictures):
        return pictures.mean(dim=(1, 2, 3)).sign()[:, None]


def test_opposite_pictures_count_as_0_and_not_less(dino):
    """White, black, white: no likeness at first, then none to the one before and full to the first."""
    judge = SubjectConsistency(dino)
    judge.net = WhiteOrBlack()
    video = torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1, 1).expand(-1, -1, 3, 32, 32)
    assert judge.score(generation(video), [0])[0].values["subject_consistency"] == pytest.approx((0 + 1 / 2) / 2)


def test_a_frozen_clip_is_consistent_and_one_frame_has_no_score(dino):
    judge = SubjectConsistency(dino)
    still, changing = judge.score(generation(torch.cat([frozen(1, 3, 40, 48), noise(1, 3, 40, 48)])), [0, 1])
    assert still.values["subject_consistency"] == pytest.approx(1, abs=1e-5)
    assert changing.values["subject_consistency"] < 0.9999
    assert judge.score(generation(noise(1, 1, 40, 48)), [0])[0].problem == "too_short"
