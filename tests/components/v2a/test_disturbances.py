import pytest
import torch

from components.v2a.disturbances import DISTURBANCES, NonEvents, fading, fooling_clip


def test_a_flash_begins_at_once_and_fades():
    course = fading(5, 2, 2.0)
    assert course.tolist() == pytest.approx([0, 0, 1, 0.6065, 0.3679], abs=1e-4)
    assert fading(4, 1, torch.inf).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("kind", DISTURBANCES)
def test_a_fooling_clip_is_still_but_for_its_onsets(kind):
    frame = torch.full((3, 16, 16), 0.5)
    clip = fooling_clip(frame, 30, 10.0, [0.5, 2.5], kind, torch.Generator().manual_seed(0))
    assert clip.shape == (30, 3, 16, 16)
    assert 0 <= clip.min() <= clip.max() <= 1
    assert torch.equal(clip[:5], frame.expand(5, -1, -1, -1))
    strength = (clip - frame).abs().mean((1, 2, 3))
    assert strength[5] > 5 * strength[24] and strength[25] > 5 * strength[24]
    again = fooling_clip(frame, 30, 10.0, [0.5, 2.5], kind, torch.Generator().manual_seed(0))
    assert torch.equal(clip, again)


def test_a_share_of_the_clips_is_disturbed():
    video = torch.full((200, 6, 3, 8, 8), 0.5)
    changed = (NonEvents(share=0.5)(video, torch.Generator().manual_seed(0)) != video).flatten(1).any(1)
    assert 70 < changed.sum() < 130
    assert torch.equal(NonEvents(share=0.0)(video, torch.Generator()), video)
