"""The codecs of Harmony against diffusers and MMAudio: latents, pictures, mels, waveforms, public keys."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.codecs.wan_video_vae import PUBLIC_ARCHITECTURE, WanVideoCodec
from tests.public_folders.harmony_codecs import stored, write_diffusers_folder

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    root = metafunc.config.getoption("--golden-dir") / "harmony"
    for fixture, pattern in {"wan_vae": "wan*_vae*.safetensors", "vae_keys": "full_size_keys_vaes.json"}.items():
        if fixture in metafunc.fixturenames:
            files = sorted(root.glob(pattern))
            metafunc.parametrize(fixture, files, ids=[file.stem for file in files])


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def facts_of(file: Path) -> dict:
    return json.loads(file.with_suffix(".json").read_text())


def wan_codec(file: Path, folder: Path, **options) -> WanVideoCodec:
    case = load_file(file)
    write_diffusers_folder(folder / "vae", "AutoencoderKLWan", facts_of(file)["config"], stored(case, "w."))
    return WanVideoCodec(folder, **options)


def test_wan_latents(wan_vae: Path, tmp_path: Path):
    case, codec = load_file(wan_vae), wan_codec(wan_vae, tmp_path)
    video = case["in.video"].transpose(1, 2)
    posterior = codec.posterior(video)
    torch.testing.assert_close(posterior.mean, case["out.latent"], **CLOSE)
    latents = codec.encode(video)
    torch.testing.assert_close(latents, case["out.latent_normalized"], **CLOSE)

    first = (codec.encode(video[:, :1]) * codec.std) + codec.mean
    torch.testing.assert_close(first, case["out.latent_first_frame_alone"], **CLOSE)
    still = codec.still(video[:, 0], latents.shape[2]) * codec.std + codec.mean
    torch.testing.assert_close(still, case["out.latent_still_video"], **CLOSE)


def test_wan_pictures(wan_vae: Path, tmp_path: Path):
    case, codec = load_file(wan_vae), wan_codec(wan_vae, tmp_path)
    video = codec.decode(case["out.latent_normalized"])
    torch.testing.assert_close(video.transpose(1, 2), case["out.decoded"], **CLOSE)


def test_wan_public_keys(vae_keys: Path):
    public = json.loads(vae_keys.read_text())["wan22_vae"]
    with torch.device("meta"):
        codec = WanVideoCodec("a folder that is not there")
    assert {key: list(value.shape) for key, value in codec.vae.state_dict().items()} == public
    assert len(codec.mean) == codec.latent_channels == PUBLIC_ARCHITECTURE["z_dim"] == 48
