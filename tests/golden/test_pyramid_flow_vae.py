"""The causal video VAE against the reference: latents, pixels, chunks, prefixes, tiles, intermediates, public keys."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.codecs.posterior import DiagonalGaussian
from components.codecs.video.causal_vae.blocks import CausalStream
from components.codecs.video.causal_vae.checkpoint import vae_from_config
from components.codecs.video.causal_vae.codec import CausalVideoCodec
from components.codecs.video.causal_vae.model import CausalVideoVAE
from components.codecs.video.causal_vae.normalisation import LatentNormalisation

CLOSE = {"atol": 5e-5, "rtol": 1e-4}
CHUNKED = {"atol": 1e-5, "rtol": 1e-4}
RAW = LatentNormalisation(first_shift=0.0, first_std=1.0, later_shift=0.0, later_std=1.0)

# What the name of a stored tensor says about the call that made it.
PATTERNS = {
    "encoded": r"(?:.+\.)?out\.mean",
    "sampled": r"(?:.+\.)?out\.sample",
    "decoded": r"(?:.+\.)?out\.pixels",
    "decoded_later": r".+_not_init\.out\.pixels_first\d+",
    "tiled_encoded": r"tiled\.out\.encode_mean(?:_chunk\d+)?",
    "tiled_decoded": r"tiled\.out\.decode_pixels(?:_window\d+)?",
    "intermediate": r"mid\..+",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    root = metafunc.config.getoption("--golden-dir") / "pyramid_flow"
    if "keys_file" in metafunc.fixturenames:
        files = sorted(root.glob("full_size_keys_*vae*.json"))
        metafunc.parametrize("keys_file", files, ids=[f.name for f in files])
    for fixture, pattern in PATTERNS.items():
        if fixture in metafunc.fixturenames:
            found = [
                (file, key)
                for file in sorted((root / "vae").glob("*.safetensors"))
                if file.name != "weights.safetensors" and file.with_name("weights.safetensors").is_file()
                for key in sorted(load_file(file))
                if re.fullmatch(pattern, key)
            ]
            metafunc.parametrize(fixture, found, ids=[f"vae/{file.name}-{key}" for file, key in found])


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def config_of(file: Path) -> dict:
    return json.loads((file.parent / "config.json").read_text())


def load_vae_of(file: Path) -> CausalVideoVAE:
    vae = vae_from_config(config_of(file), str(file.parent / "config.json"))
    vae.load_state_dict(load_file(file.parent / "weights.safetensors"), strict=True)
    return vae.eval()


def tiling_codec(file: Path, **windows: int | None) -> CausalVideoCodec:
    return CausalVideoCodec(load_vae_of(file), RAW, tile_size=config_of(file)["sample_size"], **windows)


def number_in(key: str) -> int | None:
    digits = re.search(r"(?:chunk|window|first)(\d+)$", key)
    return int(digits[1]) if digits else None


def assert_same_as_whole(mine: torch.Tensor, whole: torch.Tensor) -> None:
    torch.testing.assert_close(mine, whole, **CHUNKED)


def test_encode(encoded):
    file, key = encoded
    case, vae = load_file(file), load_vae_of(file)
    prefix = key.removesuffix("out.mean")
    pixels = case[prefix + "in.pixels"]
    moments = vae.encode(pixels)
    posterior = DiagonalGaussian.from_moments(moments)
    torch.testing.assert_close(posterior.mean, case[key], **CLOSE)
    for name in ("logvar", "std"):
        if prefix + "out." + name in case:
            torch.testing.assert_close(getattr(posterior, name), case[f"{prefix}out.{name}"], **CLOSE)

    factor = vae.temporal_factor
    for window in (factor, 2 * factor):
        assert_same_as_whole(torch.cat(list(vae.encode_windows(pixels, window)), dim=2), moments)
    for latents in range(1, moments.shape[2]):  # a prefix of the video has a prefix of the latents
        assert_same_as_whole(vae.encode(pixels[:, :, : 1 + factor * (latents - 1)]), moments[:, :, :latents])


def test_posterior_sample(sampled):
    file, key = sampled
    case, vae = load_file(file), load_vae_of(file)
    prefix = key.removesuffix("out.sample")
    posterior = DiagonalGaussian.from_moments(vae.encode(case[prefix + "in.pixels"]))
    torch.testing.assert_close(posterior.sample(case[prefix + "in.noise"]), case[key], **CLOSE)


def test_decode(decoded):
    file, key = decoded
    case, vae = load_file(file), load_vae_of(file)
    latents = case[key.removesuffix("out.pixels") + "in.latents"]
    pixels = vae.decode(latents)
    torch.testing.assert_close(pixels, case[key], **CLOSE)

    for window in (1, 2):
        assert_same_as_whole(torch.cat(list(vae.decode_windows(latents, window)), dim=2), pixels)
    for length in range(1, latents.shape[2]):
        frames = 1 + vae.temporal_factor * (length - 1)
        assert_same_as_whole(vae.decode(latents[:, :, :length]), pixels[:, :, :frames])


def test_decode_a_later_chunk_without_its_past(decoded_later):
    file, key = decoded_later
    case, vae = load_file(file), load_vae_of(file)
    latents = case[key.split("_not_init")[0] + ".in.latents"]
    pixels = vae.decode(latents, CausalStream(starts_video=False, is_last=True))
    assert pixels.shape[2] == vae.temporal_factor * latents.shape[2]
    torch.testing.assert_close(pixels[:, :, : number_in(key)], case[key], **CLOSE)


def test_tiled_encode(tiled_encoded):
    file, key = tiled_encoded
    case = load_file(file)
    codec = tiling_codec(file, encode_window=number_in(key))
    video = case["video.in.pixels"][:, :, : codec.num_frames(case[key].shape[2])].transpose(1, 2)
    torch.testing.assert_close(codec.posterior(video).mean, case[key], **CLOSE)


def test_tiled_decode(tiled_decoded):
    file, key = tiled_decoded
    case = load_file(file)
    codec = tiling_codec(file, decode_window=number_in(key))
    latents = case["decode.in.latents"][:, :, : codec.num_latents(case[key].shape[2])]
    video = codec.decode(latents).transpose(1, 2)
    torch.testing.assert_close(video, case[key].clamp(-1, 1), **CLOSE)


def test_intermediate(intermediate):
    file, key = intermediate
    case, vae = load_file(file), load_vae_of(file)
    _, side, part, *index = key.split(".")
    network = {"enc": vae.encoder, "dec": vae.decoder}[side]
    layer = network.get_submodule(
        {"conv_in": "conv_in", "mid": "mid_block", "down": "down_blocks", "up": "up_blocks"}[part]
    )
    layer = layer[int(index[0])] if index else layer
    seen = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    vae.encode(case["in.pixels"]) if side == "enc" else vae.decode(case["in.latents"])
    torch.testing.assert_close(seen[0], case[key], **CLOSE)


def test_public_checkpoint_keys(keys_file):
    public = json.loads(keys_file.read_text())
    with torch.device("meta"):
        vae = vae_from_config(public["config"], str(keys_file))
    mine = {key: list(value.shape) for key, value in vae.state_dict().items()}
    assert mine == public["keys"]
    assert sum(p.numel() for p in vae.parameters()) == public["num_parameters"]
    assert [name for name, _ in vae.named_buffers()] == public["buffers"]
