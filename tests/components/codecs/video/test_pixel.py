"""The pixel codec: what it keeps, what it drops, which frames a latent holds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.codecs.video.pixel import PixelCodec
from components.errors import InputError
from tests.tiny_syncphony import generator


def random_video(frames: int = 17, height: int = 8, width: int = 12, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, frames, 3, height, width, generator=generator(seed)) * 2 - 1


def with_constant_chroma(video: Tensor) -> Tensor:
    """Every 2x2 block gets one colour difference and four brightnesses: what a 4:2:0 file can hold."""
    grey = video.mean(dim=2, keepdim=True) * 0.5
    colour = video[..., ::2, ::2] * 0.3
    return grey + colour.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)


def luma(video: Tensor) -> Tensor:
    return (video * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=2)


codecs = st.builds(
    PixelCodec,
    temporal_factor=st.integers(1, 8),
    spatial_factor=st.sampled_from([2, 4]),
    scale=st.floats(0.3, 3.0),
)


@settings(deadline=None, max_examples=30)
@given(codec=codecs, latents=st.integers(1, 4), seed=st.integers(0, 1000))
def test_what_an_h264_file_can_hold_comes_back_exactly(codec: PixelCodec, latents: int, seed: int):
    video = with_constant_chroma(random_video(codec.num_frames(latents), seed=seed))
    encoded = codec.encode(video)
    s = codec.spatial_factor
    assert encoded.shape == (2, codec.latent_channels, latents, 8 // s, 12 // s)
    torch.testing.assert_close(codec.decode(encoded), video, atol=1e-5, rtol=0)


def test_of_any_video_only_chroma_detail_is_lost():
    codec = PixelCodec()
    video = random_video()
    back = codec.decode(codec.encode(video))
    torch.testing.assert_close(luma(back), luma(video), atol=1e-5, rtol=0)
    means = [torch.nn.functional.avg_pool2d(x.flatten(0, 1), 2) for x in (back, video)]
    torch.testing.assert_close(*means, atol=1e-5, rtol=0)
    assert (back - video).abs().max() > 0.1  # it is a random video: chroma detail was there
    torch.testing.assert_close(codec.encode(back), codec.encode(video), atol=1e-5, rtol=0)


def test_grey_videos_come_back_exactly():
    video = random_video()[:, :, :1].expand(-1, -1, 3, -1, -1)
    codec = PixelCodec(spatial_factor=4)
    torch.testing.assert_close(codec.decode(codec.encode(video)), video, atol=1e-5, rtol=0)


def test_the_first_image_alone_is_latent_zero():
    codec, video = PixelCodec(), random_video()
    assert torch.equal(codec.encode(video[:, :1]), codec.encode(video)[:, :, :1])
    torch.testing.assert_close(
        codec.decode(codec.encode(video)[:, :, :1]), codec.decode(codec.encode(video))[:, :1], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("factor", [1, 3, 8])
def test_latent_l_holds_its_own_frames_only(factor: int):
    """Frames f (l - 1) + 1 .. f l, both ways."""
    codec = PixelCodec(temporal_factor=factor)
    frames = codec.num_frames(4)
    video = random_video(frames, batch=1)
    latents = codec.encode(video)
    for frame in range(frames):
        changed = video.clone()
        changed[:, frame] *= -1
        moved = (codec.encode(changed) - latents).abs().amax(dim=(0, 1, 3, 4)) > 0
        assert moved.tolist() == [latent == -(-frame // factor) for latent in range(4)]
    decoded = codec.decode(latents)
    for latent in range(4):
        other = latents.clone()
        other[:, :, latent] += 1.0
        moved = (codec.decode(other) - decoded).abs().amax(dim=(0, 2, 3, 4)) > 1e-6
        own = [0] if latent == 0 else range(factor * (latent - 1) + 1, factor * latent + 1)
        assert moved.nonzero().flatten().tolist() == list(own)


def test_a_latent_pixel_holds_its_own_square_only():
    codec = PixelCodec(temporal_factor=2, spatial_factor=4)
    video = random_video(3, 8, 16, batch=1)
    changed = video.clone()
    changed[..., 4:8, 8:12] *= -1
    moved = (codec.encode(changed) - codec.encode(video)).abs().amax(dim=(0, 1, 2)) > 0
    assert moved.nonzero().tolist() == [[1, 2]]


def test_the_image_frame_averages_its_copies():
    """A generated latent 0 need not hold equal copies; noise in them averages out."""
    codec = PixelCodec(temporal_factor=8)
    latents = codec.encode(random_video(1, batch=1))
    noisy = latents + 0.1 * torch.randn(latents.shape, generator=generator(1))
    error = (codec.decode(noisy) - codec.decode(latents)).std()
    one = PixelCodec(temporal_factor=1)
    single = one.encode(random_video(1, batch=1))
    alone = (one.decode(single + 0.1 * torch.randn(single.shape, generator=generator(1))) - one.decode(single)).std()
    assert float(error / alone) == pytest.approx(8**-0.5, rel=0.25)


def test_scale_is_a_factor_and_one_scale_serves_all_frames():
    video = random_video()
    torch.testing.assert_close(PixelCodec(scale=2.5).encode(video), 2.5 * PixelCodec().encode(video))
    latents = PixelCodec().encode(video)
    assert PixelCodec().uniform_scale(latents) is latents


def test_clips_do_not_influence_each_other_and_gradients_flow():
    codec, video = PixelCodec(), random_video()
    torch.testing.assert_close(codec.encode(video[1:]), codec.encode(video)[1:], atol=1e-6, rtol=0)
    latents = codec.encode(video).requires_grad_()
    codec.decode(latents).square().sum().backward()
    assert latents.grad is not None and latents.grad.isfinite().all()


@pytest.mark.parametrize("size", [(7, 12), (8, 11)])
def test_odd_sizes_are_named(size: tuple[int, int]):
    with pytest.raises(InputError, match=rf"{size[0]}x{size[1]} pixels .* must be multiples of 2"):
        PixelCodec().encode(torch.zeros(1, 1, 3, *size))


@pytest.mark.parametrize(("frames", "fix"), [(2, "1 or 9"), (8, "1 or 9"), (16, "9 or 17"), (0, "1 or 9")])
def test_a_length_that_is_no_whole_number_of_latents_is_named(frames: int, fix: str):
    with pytest.raises(InputError, match=rf"clips of {frames} frames .* multiple of 8: set clip.num_frames to {fix}"):
        PixelCodec().encode(torch.zeros(1, frames, 3, 8, 8))


def test_odd_spatial_factors_are_refused():
    with pytest.raises(ValueError, match=r"must be even .* got 3"):
        PixelCodec(spatial_factor=3)
