import pytest
import torch

from components.metrics.imagebind.pictures import centre_square, clip_normalised, squashed, three_crops


def thirds(wide=True, side=30, long=90):
    """Red, green and blue side by side, or one below the other."""
    picture = torch.zeros(1, 3, side, long)
    for colour in range(3):
        picture[:, colour, :, colour * long // 3 : (colour + 1) * long // 3] = 1
    return picture if wide else picture.transpose(2, 3)


@pytest.mark.parametrize("wide", [True, False])
def test_three_crops_are_both_ends_and_the_middle(wide):
    for smooth in (False, True):
        crops = three_crops(thirds(wide), 10, smooth)
        assert crops.shape == (3, 1, 3, 10, 10)
        for colour in range(3):
            inside = crops[colour, 0, :, 2:-2, 2:-2]
            assert inside[colour].min() > 0.99 and inside.sum(dim=0).max() < 1.01


@pytest.mark.parametrize("wide", [True, False])
def test_a_square_is_the_middle(wide):
    found = centre_square(thirds(wide), 10)
    assert found.shape == (1, 3, 10, 10)
    assert found[0, 1, 2:-2, 2:-2].min() > 0.99
    assert found.min() >= 0 and found.max() <= 1


def test_squashed_pictures_show_everything():
    found = squashed(thirds(), 12)
    assert found.shape == (1, 3, 12, 12)
    assert found[0].mean(dim=(1, 2)).tolist() == pytest.approx([1 / 3] * 3, abs=0.01)


def test_a_picture_of_the_right_size_stays_itself():
    picture = torch.rand(2, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    for resize in (squashed, centre_square):
        assert torch.equal(resize(picture, 10), picture)
    assert all(torch.equal(crop, picture) for crop in three_crops(picture, 10))


def test_a_fine_pattern_is_averaged_and_not_sampled():
    stripes = torch.tensor([0.0, 0.0, 0.0, 1.0]).repeat(20).expand(1, 3, 80, 80)
    for resize in (squashed, centre_square):
        assert (resize(stripes, 10)[..., 2:-2] - 0.25).abs().max() < 0.02


def test_normalisation():
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    torch.testing.assert_close(clip_normalised(mean.expand(2, 5, 3, 4, 4)), torch.zeros(2, 5, 3, 4, 4))
    found = clip_normalised(torch.ones(1, 3, 1, 1)).flatten().tolist()
    assert found == pytest.approx([1.9303, 2.0749, 2.1459], abs=1e-4)
