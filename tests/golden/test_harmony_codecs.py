"""The codecs of Harmony against diffusers and MMAudio: latents, pictures, mels, waveforms, public keys."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.codecs.audio.mmaudio import MMAudioCodec
from components.codecs.audio.mmaudio_checkpoint import VARIANTS, load_vae, load_vocoder
from components.codecs.video.wan import PUBLIC_ARCHITECTURE, WanVideoCodec
from tests.public_folders.harmony_codecs import stored, write_diffusers_folder

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
WAVE = {"atol": 1e-4, "rtol": 1e-4}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    root = metafunc.config.getoption("--golden-dir") / "harmony"
    for fixture, pattern in {
        "wan_vae": "wan*_vae*.safetensors",
        "vocoder": "mmaudio_vocoder*.safetensors",
        "vae_keys": "full_size_keys_vaes.json",
    }.items():
        if fixture in metafunc.fixturenames:
            files = sorted(root.glob(pattern))
            metafunc.parametrize(fixture, files, ids=[file.stem for file in files])
    if "audio_vae" in metafunc.fixturenames:
        found = [
            (file, variant)
            for file in sorted(root.glob("mmaudio_vae*.safetensors"))
            for variant in facts_of(file)["cases"]
        ]
        metafunc.parametrize("audio_vae", found, ids=[f"{file.stem}-{variant}" for file, variant in found])


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
    assert shapes_of(codec.vae) == public
    assert len(codec.mean) == codec.latent_channels == PUBLIC_ARCHITECTURE["z_dim"] == 48


def audio_case(file: Path, variant: str) -> dict[str, torch.Tensor]:
    return stored(load_file(file), f"{variant}.")


def audio_config(file: Path, variant: str) -> dict:
    return facts_of(file)["cases"][variant]["config"]


def audio_codec(file: Path, variant: str, folder: Path, **options) -> MMAudioCodec:
    """Without normalisation, on the pack's natural log-mels."""
    case, config = audio_case(file, variant), audio_config(file, variant) | {"scaling_factor": 1.0}
    weights = stored(case, "w.") | {
        "mel_converter.mel_basis": case["mel_basis"],
        "mel_converter.hann_window": torch.hann_window(config["n_fft"]),
    }
    write_diffusers_folder(folder, "MMAudioVAE", config, weights)
    return MMAudioCodec(folder, variant=variant, **({"mel_log": "ln"} | options))


def test_mmaudio_mels(audio_vae: tuple[Path, str], tmp_path: Path):
    file, variant = audio_vae
    case, facts = audio_case(file, variant), facts_of(file)["cases"][variant]
    codec = audio_codec(file, variant, tmp_path)
    torch.testing.assert_close(codec.log_mel(case["waveform"]), case["mel_ln"], **CLOSE)
    native = audio_codec(file, variant, tmp_path, mel_log=None)
    mel = native.log_mel(case["waveform"])
    assert native.log10 == (facts["mel_reference_log"] == "log10")
    torch.testing.assert_close(mel, case["mel_reference"], atol=2e-5, rtol=1e-4)
    assert mel.shape[-1] == facts["mel_frames"] and mel.shape[-1] // 2 == facts["latent_frames"]


def test_mmaudio_latents(audio_vae: tuple[Path, str], tmp_path: Path):
    file, variant = audio_vae
    case, codec = audio_case(file, variant), audio_codec(file, variant, tmp_path)
    posterior = codec.posterior(case["waveform"])
    torch.testing.assert_close(posterior.mean, case["latent_mean"], **CLOSE)
    torch.testing.assert_close(posterior.std, case["latent_std"], **CLOSE)
    torch.testing.assert_close(codec.encode(case["waveform"]), case["latent_mean"], **CLOSE)
    torch.testing.assert_close(codec.decode_mel(case["latent_mean"]), case["decoded_mel"], **CLOSE)
    silence = case["silence_latent"][0]
    torch.testing.assert_close(codec.silence(silence.shape[-1]), silence, **CLOSE)


def test_mmaudio_vocoder(vocoder: Path, tmp_path: Path):
    case, config = load_file(vocoder), facts_of(vocoder)["config"]
    bias_key = "w.conv_post.bias(v1 only)"
    weights = {key: value for key, value in stored(case, "w.").items() if "(" not in key}
    release = VARIANTS["16k"]
    write_diffusers_folder(tmp_path / "v2", "MMAudioVocoder", config, weights)
    v2 = load_vocoder(tmp_path / "v2", None, VARIANTS["44k"])
    torch.testing.assert_close(v2(case["in.mel"]).sample, case["out.v2_clamp"], **WAVE)
    write_diffusers_folder(tmp_path / "v1", "MMAudioVocoder", config, weights | {"conv_post.bias": case[bias_key]})
    v1 = load_vocoder(tmp_path / "v1", None, release)
    torch.testing.assert_close(v1(case["in.mel"]).sample, case["out.v1_bias_tanh"], **WAVE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_mmaudio_public_keys(vae_keys: Path, variant: str):
    public = json.loads(vae_keys.read_text())
    with torch.device("meta"):
        vae = load_vae("v1.pth", None, VARIANTS[variant])
        vocoder = load_vocoder("best_netG.pt", None, VARIANTS[variant])
    assert shapes_of(vae) == public[f"mmaudio_vae_{variant}"]
    if variant == "16k":
        expected = public["mmaudio_vocoder_16k_without_conv_post_bias"] | {"conv_post.bias": [1]}
        assert {key: shape for key, shape in shapes_of(vocoder).items() if not key.endswith("filter")} == expected


def shapes_of(module: torch.nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in module.state_dict().items()}
