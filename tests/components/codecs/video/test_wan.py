"""The Wan 2.2 video codec: the same numbers as diffusers' own calls, whatever the chunks, slices or tiles."""

import threading
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from components.codecs.video.wan import WanVideoCodec
from components.errors import InputError
from components.weights.identity import identity_of
from components.weights.unloaded import Unloaded, unloaded
from tests.public_folders.harmony import WAN_VAE as CONFIG
from tests.public_folders.harmony_codecs import write_diffusers_folder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    torch.manual_seed(0)
    weights = AutoencoderKLWan(**CONFIG).state_dict()
    write_diffusers_folder(folder / "vae", "AutoencoderKLWan", CONFIG, weights)
    return folder


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def random_video(clips: int = 2, frames: int = 13, side: int = 32) -> torch.Tensor:
    return torch.rand(clips, frames, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_same_numbers_as_diffusers(release: Path):
    codec, video = WanVideoCodec(release), random_video()
    theirs = AutoencoderKLWan.from_pretrained(release / "vae")
    posterior = theirs.encode(video.transpose(1, 2)).latent_dist
    mean, std = torch.tensor(CONFIG["latents_mean"]), torch.tensor(CONFIG["latents_std"])
    normalised = (posterior.mean - mean.view(-1, 1, 1, 1)) / std.view(-1, 1, 1, 1)
    latents = codec.encode(video)
    assert torch.equal(latents, normalised)
    assert latents.shape == (2, 4, codec.num_latents(13), 2, 2)
    # normalising and back rounds once
    torch.testing.assert_close(codec.decode(latents).transpose(1, 2), theirs.decode(posterior.mean).sample)

    draws = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    sampled = codec.encode(video, draws)
    noise = torch.stack([torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(s)) for s in (3, 4)])
    expected = latents + posterior.std * noise / std.view(-1, 1, 1, 1)
    torch.testing.assert_close(sampled, expected)


@pytest.mark.parametrize("options", [{"encode_window": 8}, {"encode_window": 400}, {"slicing": True}])
def test_chunks_and_slices_do_not_change_the_result(release: Path, options: dict):
    video, whole, other = random_video(), WanVideoCodec(release), WanVideoCodec(release, **options)
    latents = whole.encode(video)
    torch.testing.assert_close(other.encode(video), latents, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(other.decode(latents), whole.decode(latents), atol=1e-5, rtol=1e-4)


def test_tiles_change_it_only_slightly_and_smaller_frames_not_at_all(release: Path):
    whole, tiled = WanVideoCodec(release), WanVideoCodec(release, tile_size=64)
    video = torch.nn.functional.interpolate(random_video(1, 5, 8).flatten(0, 1), scale_factor=16, mode="bicubic")
    video = video.unflatten(0, (1, 5)).clamp(-1, 1)
    latents = whole.encode(video)
    assert 0 < (tiled.encode(video) - latents).abs().mean() < 0.3 * latents.abs().mean()
    assert 0 < (tiled.decode(latents) - whole.decode(latents)).abs().mean() < 0.1
    assert torch.equal(tiled.encode(video[..., :64, :64]), whole.encode(video[..., :64, :64]))


def test_several_videos_at_a_time(release: Path):
    """diffusers keeps the memory between chunks in the module, where two threads would mix it up."""
    codec, video = WanVideoCodec(release), random_video(4, 9)
    alone = [codec.decode(codec.encode(clip[None])) for clip in video]
    together: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        with torch.no_grad():
            for _ in range(3):
                together[index] = codec.decode(codec.encode(video[index][None]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, clip in enumerate(alone):
        assert torch.equal(together[index], clip)


def test_half_precision_computes_in_it_and_answers_in_float32(release: Path):
    exact, half = WanVideoCodec(release), WanVideoCodec(release, dtype="bfloat16")
    assert half.vae.dtype == torch.bfloat16 and half.mean.dtype == torch.float32
    latents = half.encode(random_video())
    assert latents.dtype == half.decode(latents).dtype == torch.float32
    torch.testing.assert_close(latents, exact.encode(random_video()), atol=0.1, rtol=0.1)
    outside = exact.encode(random_video())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exact.encode(random_video()), outside)


def test_shapes_without_a_folder_have_the_precision_that_was_asked_for():
    """Memory is counted on them."""
    with torch.device("meta"):
        codec = WanVideoCodec("no/such", dtype="bfloat16")
    assert {parameter.dtype for parameter in codec.parameters()} == {torch.bfloat16}


def test_moments_are_the_posterior_normalised_and_a_codec_is_known_without_its_weights(release: Path):
    codec, video = WanVideoCodec(release), random_video()
    moments, posterior = codec.moments(video), codec.posterior(video)
    assert torch.equal(moments.mean, codec.encode(video))
    torch.testing.assert_close((posterior.mean + posterior.std - codec.mean) / codec.std, moments.mean + moments.std)
    part = unloaded(lambda: WanVideoCodec(release), "video_codec", identity_of(codec))
    assert part.num_latents(13) == 4 and not list(part.parameters()) and isinstance(part, Unloaded)
    assert torch.equal(part.encode(video), moments.mean)


def test_nothing_trains(release: Path):
    codec = WanVideoCodec(release)
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_bad_input_is_told_in_one_sentence(release: Path, tmp_path: Path):
    codec = WanVideoCodec(release)
    for message, call in {
        "32 x 40 pixels": lambda: codec.encode(torch.zeros(1, 5, 3, 32, 40)),
        "clips of 6 frames": lambda: codec.encode(torch.zeros(1, 6, 3, 32, 32)),
        "latents are of shape": lambda: codec.decode(torch.zeros(1, 3, 2, 2, 2)),
        "1 generators": lambda: codec.encode(random_video(), [torch.Generator()]),
        "encode_window is 6": lambda: WanVideoCodec(release, encode_window=6),
        "tile_size is 100": lambda: WanVideoCodec(release, tile_size=100),
        "was not found": lambda: WanVideoCodec(tmp_path / "absent"),
        "config.json": lambda: WanVideoCodec(tmp_path, None),
    }.items():
        with pytest.raises(InputError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)
    weights = AutoencoderKLWan(**CONFIG).state_dict()
    del weights["decoder.conv_in.bias"]
    write_diffusers_folder(tmp_path / "vae", "AutoencoderKLWan", CONFIG, weights)
    with pytest.raises(InputError, match=r"decoder\.conv_in\.bias"):
        WanVideoCodec(tmp_path)
    write_diffusers_folder(tmp_path / "vae", "MMAudioVAE", CONFIG, weights)
    with pytest.raises(InputError, match="holds a MMAudioVAE"):
        WanVideoCodec(tmp_path)
