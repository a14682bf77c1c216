import pytest
import torch

from components.v2a.degrade import Degrade

NOTHING = {"blur_px": 0, "noise": 0, "flicker": 0, "smear": 0, "brightness": 0, "contrast": 0, "shift": 0}


def clips(seed=0):
    return torch.rand(6, 7, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def degrade(video, seed=0, **amounts):
    return Degrade(**{**NOTHING, "mirror": False, **amounts})(video, torch.Generator().manual_seed(seed))


def test_nothing_asked_nothing_changed():
    torch.testing.assert_close(degrade(clips()), clips(), atol=1e-5, rtol=0)


def test_generator_decides_everything():
    video = clips()
    default = Degrade()
    one, same, other = (default(video, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == video.shape
    assert 0 <= one.min() <= one.max() <= 1


def test_blur_keeps_the_mean_and_lowers_contrast():
    video = clips()
    blurred = degrade(video, blur_px=2.0)
    torch.testing.assert_close(blurred.mean((1, 2, 3, 4)), video.mean((1, 2, 3, 4)), atol=0.01, rtol=0)
    contrast = blurred.std((1, 2, 3, 4)) / video.std((1, 2, 3, 4))
    assert contrast.max() < 1.001
    assert contrast.median() < 0.6  # some clips are left nearly sharp, by design


def test_mirror_flips_whole_clips():
    video = clips()
    mirrored = degrade(video, mirror=True)
    flipped = [torch.allclose(new, old.flip(-1), atol=1e-4) for new, old in zip(mirrored, video, strict=True)]
    kept = [torch.allclose(new, old, atol=1e-4) for new, old in zip(mirrored, video, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert any(flipped)
    assert any(kept)


def test_shift_moves_all_frames_of_a_clip_alike():
    video = torch.zeros(4, 5, 3, 16, 16)
    video[..., 8, 8] = 1.0
    moved = degrade(video, shift=0.25)
    for clip in moved:
        assert all(torch.equal(frame, clip[0]) for frame in clip)
    assert not torch.allclose(moved, video)


def test_smear_leaks_into_neighbouring_frames_only():
    video = torch.zeros(6, 7, 3, 4, 4)
    video[:, 3] = 1.0
    smeared = degrade(video, smear=1.0).mean((2, 3, 4))
    assert (smeared[:, [0, 1, 5, 6]] == 0).all()
    torch.testing.assert_close(smeared[:, 2], smeared[:, 4])
    torch.testing.assert_close(smeared[:, 2:5].sum(1), torch.ones(6))


@pytest.mark.parametrize("kind", ["noise", "flicker"])
def test_noise_is_new_in_each_frame(kind):
    video = torch.full((6, 7, 3, 16, 16), 0.5)
    noisy = degrade(video, **{kind: 0.1})
    assert not torch.allclose(noisy[:, 0], noisy[:, 1])
    assert (noisy - video).std() < 0.1
