"""The codec of principal components: no other linear map of its size loses less; what a latent holds; its decoder."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.codecs.video.principal import PrincipalCodec, PrincipalComponents
from components.errors import InputError
from components.weights.identity import identity_of
from tests.tiny_syncphony import generator


def smooth_videos(batch: int = 24, frames: int = 9, side: int = 8, seed: int = 0) -> Tensor:
    """Coloured gradients that drift: ``[B, T, 3, H, W]`` in [-1, 1], with energy in a few directions."""
    draws = torch.rand(5, batch, 1, 3, 1, 1, generator=generator(seed)) * 2 - 1
    t, y, x = torch.meshgrid(torch.linspace(0, 1, frames), *[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    planes = [axis[None, :, None] for axis in (t, y, x)]
    noise = torch.randn(batch, frames, 3, side, side, generator=generator(seed + 1))
    colour, *slopes = draws
    return (0.5 * colour + sum(0.4 * s * p for s, p in zip(slopes, planes, strict=False)) + 0.02 * noise).clamp(-1, 1)


def fitted(videos: Tensor, channels: int = 6) -> tuple[PrincipalCodec, float]:
    sums = PrincipalComponents(PrincipalCodec(channels, temporal_factor=4, spatial_factor=2))
    for video in videos.split(5):
        sums.add(video)
    return sums.codec, sums.settle()


def test_no_linear_map_of_as_many_channels_loses_less():
    """Eckart-Young: blocks come back as the best approximation of that rank, found here by singular values."""
    videos = smooth_videos()
    codec, kept = fitted(videos)
    blocks = codec.blocks(videos).double()
    mean = blocks.flatten(0, -2).mean(dim=0)
    left, values, right = torch.linalg.svd(blocks.flatten(0, -2) - mean, full_matrices=False)
    best = (left[:, :6] * values[:6] @ right[:6] + mean).view_as(blocks)
    back = codec.blocks(codec.decode(codec.encode(videos))).double()
    torch.testing.assert_close(back[:, 1:], best[:, 1:], atol=1e-4, rtol=0)
    # the image is one picture, the mean of its block's
    image = best[:, :1].unflatten(-1, (4, -1)).mean(dim=-2, keepdim=True).expand(-1, -1, -1, -1, 4, -1).flatten(-2)
    torch.testing.assert_close(back[:, :1], image, atol=1e-4, rtol=0)
    assert kept == pytest.approx(float(values[:6].square().sum() / values.square().sum()), rel=1e-5)


def test_channels_are_uncorrelated_ordered_and_of_unit_spread_together():
    videos = smooth_videos()
    codec, _ = fitted(videos)
    latents = codec.encode(videos).transpose(0, 1).flatten(1).double()
    covariance = latents.cov(correction=0)
    torch.testing.assert_close(covariance, covariance.diag().diag(), atol=1e-4, rtol=0)
    assert (covariance.diag().diff() <= 1e-6).all()
    assert covariance.diag().mean() == pytest.approx(1.0, rel=1e-4)
    assert covariance[0, 0] > 3 * covariance[5, 5]  # energies are kept as they are


def test_what_came_out_goes_in_again_unchanged():
    codec, _ = fitted(smooth_videos())
    latents = codec.encode(smooth_videos(seed=7))
    again = codec.encode(codec.decode(latents))
    torch.testing.assert_close(again[:, :, 1:], latents[:, :, 1:], atol=1e-5, rtol=0)


def test_the_same_videos_in_other_parts_give_the_same_codec():
    videos = smooth_videos()
    sums = PrincipalComponents(PrincipalCodec(6, temporal_factor=4, spatial_factor=2))
    for video in videos.flip(0).split(7):
        sums.add(video)
    sums.settle()
    torch.testing.assert_close(sums.codec.components, fitted(videos)[0].components, atol=1e-4, rtol=0)


def test_the_first_image_alone_is_latent_zero_and_later_latents_hold_their_own_frames():
    codec, _ = fitted(smooth_videos())
    video = smooth_videos(batch=1, frames=13, seed=3)
    latents = codec.encode(video)
    assert latents.shape == (1, 6, 4, 4, 4)
    torch.testing.assert_close(codec.encode(video[:, :1]), latents[:, :, :1])
    for frame in range(13):
        changed = video.clone()
        changed[:, frame] += 0.5
        moved = (codec.encode(changed) - latents).abs().amax(dim=(0, 1, 3, 4)) > 1e-4
        assert moved.tolist() == [latent == -(-frame // 4) for latent in range(4)]


def test_autocast_changes_nothing():
    codec, _ = fitted(smooth_videos())
    video = smooth_videos(seed=5)
    latents = codec.encode(video)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.encode(video), latents)
        decoded = codec.decode(latents)
    assert torch.equal(decoded, codec.decode(latents))


def test_a_written_codec_is_read_as_it_was(tmp_path: Path):
    codec, _ = fitted(smooth_videos())
    codec.save_pretrained(tmp_path)
    video = smooth_videos(seed=5)
    assert torch.equal(PrincipalCodec.from_pretrained(tmp_path).encode(video), codec.encode(video))


@pytest.fixture
def learnt(tmp_path: Path) -> PrincipalCodec:
    """A fitted codec with a decoder that corrects something."""
    fitted(smooth_videos())[0].save_pretrained(tmp_path)
    codec = PrincipalCodec.with_new_decoder(tmp_path, width=8, num_blocks=2)
    torch.nn.init.normal_(codec.decoder.out.weight, std=0.1, generator=generator(9))
    return codec


def test_a_new_decoder_changes_neither_latents_nor_pictures_nor_what_is_drawn(tmp_path: Path):
    linear, video = fitted(smooth_videos())[0], smooth_videos(seed=5)
    linear.save_pretrained(tmp_path)
    torch.manual_seed(3)
    codec = PrincipalCodec.with_new_decoder(tmp_path, width=8)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert torch.equal(codec.encode(video), linear.encode(video))
    assert torch.equal(codec.decode(codec.encode(video)), linear.decode(linear.encode(video)))


def test_a_decoder_sees_neighbours_and_the_past_and_no_later_latent(learnt: PrincipalCodec):
    latents = learnt.encode(smooth_videos(batch=1, frames=17, seed=3))
    decoded = learnt.decode(latents)
    changed = latents.clone()
    changed[:, :, 2, 1, 1] += 1
    moved = (learnt.decode(changed) - decoded).abs().amax(dim=(0, 2)) > 1e-5  # [T, H, W]
    assert moved.any(dim=2).any(dim=1).tolist() == [frame > 4 for frame in range(17)]
    assert moved[5:9].all()  # eight pixels are within the reach of five convolutions
    torch.testing.assert_close(learnt.decode(latents[:, :, :2]), decoded[:, :5])
    torch.testing.assert_close(learnt.decode(latents[:, :, :1]), decoded[:, :1])


def test_a_decoder_is_written_with_its_codec_and_can_begin_anew(learnt: PrincipalCodec, tmp_path: Path):
    folder = tmp_path / "learnt"
    folder.mkdir()
    learnt.save_pretrained(folder)
    latents = learnt.encode(smooth_videos(seed=5))
    assert torch.equal(PrincipalCodec.from_pretrained(folder).decode(latents), learnt.decode(latents))
    # what was trained or encoded with the codec that decodes linearly goes on with this one
    digests = {identity_of(PrincipalCodec.from_pretrained(place)).sha256 for place in (tmp_path, folder)}
    assert len(digests) == 1
    (folder / "decoder.safetensors").write_bytes(b"damaged")
    anew = PrincipalCodec.with_new_decoder(folder, width=16)
    linear = fitted(smooth_videos())[0]
    assert torch.equal(anew.decode(latents), linear.decode(latents)) and anew.decoder.out.in_features == 64


def test_a_decoder_that_is_missing_or_of_another_width_is_named(learnt: PrincipalCodec, tmp_path: Path):
    folder = tmp_path / "learnt"
    folder.mkdir()
    learnt.save_pretrained(folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"decoder_width": 8', '"decoder_width": 16'))
    with pytest.raises(InputError, match=r"decoder\.safetensors' does not fit this BlockDecoder"):
        PrincipalCodec.from_pretrained(folder)
    (folder / "decoder.safetensors").unlink()
    with pytest.raises(InputError, match=r"decoder\.safetensors' does not exist"):
        PrincipalCodec.from_pretrained(folder)


def test_autocast_changes_nothing_of_a_decoder(learnt: PrincipalCodec):
    latents = learnt.encode(smooth_videos(seed=5))
    with torch.autocast("cpu", torch.bfloat16):
        decoded = learnt.decode(latents)
    assert torch.equal(decoded, learnt.decode(latents))


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="width of the decoder is 12; give a multiple of 8"):
        PrincipalCodec(6, temporal_factor=4, spatial_factor=2, decoder_width=12)
    with pytest.raises(InputError, match="give a number from 1 to 48"):
        PrincipalCodec(49, temporal_factor=4, spatial_factor=2)
    sums = PrincipalComponents(PrincipalCodec(6, temporal_factor=4, spatial_factor=2))
    with pytest.raises(InputError, match="no video was seen"):
        sums.settle()
    sums.add(torch.zeros(2, 9, 3, 8, 8))
    with pytest.raises(InputError, match="one colour"):
        sums.settle()
    with pytest.raises(InputError, match=r"set clip\.num_frames to 5 or 9"):
        sums.add(torch.zeros(2, 8, 3, 8, 8))
    with pytest.raises(InputError, match="multiples of 2"):
        sums.codec.encode(torch.zeros(2, 9, 3, 7, 8))
