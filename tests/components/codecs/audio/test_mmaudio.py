"""The MMAudio codec: both rates, the layouts its parts are published in, lengths, normalisation, bad input."""

import math
import pickle
from pathlib import Path

import pytest
import torch
from diffusers import MMAudioVAE, MMAudioVocoder
from diffusers.models.autoencoders.autoencoder_mmaudio import normalize

from components.codecs.audio.mmaudio import MMAudioCodec
from components.codecs.audio.mmaudio_checkpoint import VARIANTS, load_vae, load_vocoder
from components.codecs.latent_statistics import LatentStatistics
from components.errors import InputError
from components.weights.identity import identity_of
from components.weights.unloaded import Unloaded, unloaded
from tests.public_folders.harmony_codecs import write_bigvgan_folder, write_diffusers_folder, write_pickle

VAE = {variant: dict(release.vae) | {"hidden_channels": 8} for variant, release in VARIANTS.items()}
TINY = {"upsample_initial_channel": 64, "resblock_kernel_sizes": (3,), "resblock_dilation_sizes": ((1,),)}
VOCODER = {variant: dict(release.vocoder) | TINY for variant, release in VARIANTS.items()}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both variants as diffusers folders: ``16k/vae``, ``16k/vocoder`` and so on."""
    root = tmp_path_factory.mktemp("mmaudio")
    torch.manual_seed(0)
    for variant in VARIANTS:
        vae, vocoder = MMAudioVAE(**VAE[variant]), MMAudioVocoder(**VOCODER[variant])
        vae.vae.data_std.mul_(2.0)
        write_diffusers_folder(root / variant / "vae", "MMAudioVAE", VAE[variant], vae.state_dict())
        weights = vocoder.state_dict() | ({"conv_post.bias": torch.tensor([0.25])} if variant == "16k" else {})
        write_diffusers_folder(root / variant / "vocoder", "MMAudioVocoder", VOCODER[variant], weights)
    return root


def codec_of(release: Path, variant: str, **options) -> MMAudioCodec:
    folder = release / variant
    return MMAudioCodec(folder, folder, variant, vae_subfolder="vae", vocoder_subfolder="vocoder", **options)


def noise(samples: int, clips: int = 2) -> torch.Tensor:
    return torch.rand(clips, samples, generator=torch.Generator().manual_seed(1)) - 0.5


@pytest.mark.parametrize(
    ("variant", "rate_hz", "frames", "num_latents"),
    [("16k", 31.25, 121, 157), ("16k", 31.25, 120, 156), ("44k", 44100 / 1024, 121, 217)],
)
def test_lengths_are_those_of_the_clip(release: Path, variant: str, rate_hz: float, frames: int, num_latents: int):
    codec = codec_of(release, variant)
    assert codec.latent_rate_hz == pytest.approx(rate_hz)
    assert codec.num_latents_for(frames / 24) == num_latents
    for samples in (9000, round(frames / 24 * codec.sample_rate)):
        waveform = codec.fit(noise(samples), num_latents, codec.sample_rate)
        latents = codec.encode(waveform)
        assert latents.shape == (2, codec.latent_channels, num_latents)
        kept = min(samples, waveform.shape[1])
        assert torch.equal(waveform[:, :kept], noise(samples)[:, :kept]) and not waveform[:, kept:].any()
    centers = codec.latent_centers_s(num_latents)
    assert centers[0].item() == pytest.approx(0.5 / rate_hz)
    assert centers[-1].item() == pytest.approx((num_latents - 0.5) * codec.latent_hop / codec.sample_rate)
    few = codec.decode(latents[:, :, :5])
    assert few.shape == (2, 5 * codec.latent_hop) and few.abs().max() <= 1


def test_a_click_lands_in_the_latent_of_its_time(release: Path):
    codec = codec_of(release, "16k")
    waveform = torch.zeros(1, codec.latent_hop * 40)
    time_s = 0.6
    waveform[:, round(time_s * codec.sample_rate)] = 1.0
    change = (codec.log_mel(waveform) - codec.log_mel(torch.zeros_like(waveform))).mean(dim=1)[0]
    pairs = change.unflatten(0, (-1, 2)).mean(dim=1)  # two mel frames are one latent
    nearest = codec.latent_centers_s(40)[pairs.argmax()].item()
    assert abs(nearest - time_s) <= 0.5 / codec.latent_rate_hz + 1e-6


def test_vocoders_end_as_their_version_does(release: Path):
    mel = torch.randn(1, 80, 6)
    network = load_vocoder(release / "16k", "vocoder", VARIANTS["16k"])
    plain = MMAudioVocoder(**VOCODER["16k"])
    plain.load_state_dict(network.state_dict() | {}, strict=False)
    raw = []
    plain.conv_post.register_forward_hook(lambda module, inputs, output: raw.append(output))
    plain(mel)
    torch.testing.assert_close(network(mel).sample, torch.tanh(raw[0] + 0.25))
    assert load_vocoder(release / "44k", "vocoder", VARIANTS["44k"]).conv_post.bias is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_mmaudio_pth(release: Path, tmp_path: Path, variant: str):
    """Weights are stored before their norm is forced; the front end is not stored at all."""
    torch.manual_seed(1)
    theirs = MMAudioVAE(**VAE[variant])
    raw = {key: torch.randn_like(value) * 3 for key, value in theirs.vae.state_dict().items()}
    raw["data_std"] = raw["data_std"].abs() + 0.1
    write_pickle(tmp_path / "v1.pth", raw)
    folded = {
        key: normalize(value) / math.sqrt(value[0].numel()) if key.endswith(".weight") else value
        for key, value in raw.items()
    }
    theirs.vae.load_state_dict(folded)
    mine = load_vae(tmp_path / "v1.pth", None, VARIANTS[variant])
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[key], value, atol=1e-6, rtol=1e-5)
    codec = MMAudioCodec(tmp_path / "v1.pth", variant=variant)
    assert codec.encode(noise(codec.latent_hop * 8)).isfinite().all()
    with pytest.raises(InputError, match="without a vocoder"):
        codec.decode(torch.zeros(1, codec.latent_channels, 3))


@pytest.mark.parametrize("spelling", ["old", "new"])
def test_bigvgan_v1_file(tmp_path: Path, spelling: str):
    """``best_netG.pt``: the file alone says how wide it is."""
    torch.manual_seed(2)
    config, mel = dict(VARIANTS["16k"].vocoder) | {"upsample_initial_channel": 64}, torch.randn(1, 80, 2)
    network = MMAudioVocoder(**config)
    file = write_bigvgan_folder(tmp_path, config, network, spelling, bias=True)
    loaded = load_vocoder(file, None, VARIANTS["16k"])
    torch.testing.assert_close(loaded(mel).sample, _with_tanh(network, mel), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("spelling", ["new", "folded"])
def test_bigvgan_v2_folder(tmp_path: Path, spelling: str):
    """NVIDIA's folders: the config says how wide it is and how it ends."""
    torch.manual_seed(2)
    network, mel = MMAudioVocoder(**VOCODER["44k"]), torch.randn(1, 128, 3)
    write_bigvgan_folder(tmp_path / "bigvgan", VOCODER["44k"], network, spelling, bias=False)
    loaded = load_vocoder(tmp_path, "bigvgan", VARIANTS["16k"])
    torch.testing.assert_close(loaded(mel).sample, network(mel).sample, atol=1e-5, rtol=1e-4)


def _with_tanh(network: MMAudioVocoder, mel: torch.Tensor) -> torch.Tensor:
    """The stored bias is 0.5."""
    hidden = []
    handle = network.conv_post.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    network(mel)
    handle.remove()
    return torch.tanh(hidden[0] + 0.5)


def test_statistics_normalise_and_belong_to_their_vae(release: Path, tmp_path: Path):
    raw = codec_of(release, "16k")
    waveform = noise(raw.latent_hop * 20, clips=6)
    latents = raw.encode(waveform)
    assert raw.latent_identity == f"{identity_of(raw).sha256} on log10 mels"
    LatentStatistics.of(latents, raw.latent_identity).save(tmp_path / "stats.json")
    codec = codec_of(release, "16k", statistics=tmp_path / "stats.json")
    normalised = codec.encode(waveform)
    torch.testing.assert_close(normalised.mean(dim=(0, 2)), torch.zeros(20), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.std(dim=(0, 2), correction=0), torch.ones(20), atol=1e-4, rtol=0)
    torch.testing.assert_close(codec.decode(normalised), raw.decode(latents), atol=1e-4, rtol=1e-4)
    # without statistics: the scaling factor of the config
    network = load_vae(release / "44k", "vae", VARIANTS["44k"])
    scaled = codec_of(release, "44k").encode(noise(1024 * 8))
    torch.testing.assert_close(scaled, 0.417 * network.encode(noise(1024 * 8)).latent_dist.mean)
    with pytest.raises(InputError, match="20 channels, but this codec has 40"):
        codec_of(release, "44k", statistics=tmp_path / "stats.json")
    LatentStatistics.of(latents, "of another VAE").save(tmp_path / "other.json")
    with pytest.raises(InputError, match="of another VAE"):
        codec_of(release, "16k", statistics=tmp_path / "other.json")


def test_moments_are_the_posterior_normalised_and_statistics_need_no_weights_to_be_read(release: Path, tmp_path: Path):
    raw, waveform = codec_of(release, "16k"), noise(512 * 20)
    LatentStatistics.of(raw.encode(waveform), raw.latent_identity).save(tmp_path / "stats.json")
    codec = codec_of(release, "16k", statistics=tmp_path / "stats.json")
    moments, posterior = codec.moments(waveform), codec.posterior(waveform)
    assert torch.equal(moments.mean, codec.encode(waveform))
    torch.testing.assert_close(codec.normalisation(posterior.mean + posterior.std), moments.mean + moments.std)
    part = unloaded(
        lambda: codec_of(release, "16k", statistics=tmp_path / "stats.json"), "audio_codec", identity_of(codec)
    )
    assert part.num_latents_for(1.0) == 31 and part.latent_channels == 20 and isinstance(part, Unloaded)
    assert torch.equal(part.encode(waveform), codec.encode(waveform))


def test_draws_are_the_clips_own(release: Path):
    codec, waveform = codec_of(release, "16k"), noise(512 * 10)
    both = codec.encode(waveform, [torch.Generator().manual_seed(s) for s in (5, 6)])
    alone = codec.encode(waveform[1:], [torch.Generator().manual_seed(6)])
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(both, codec.encode(waveform), atol=1e-3)


def test_silence_is_made_once_and_handed_out_as_copies(release: Path, monkeypatch: pytest.MonkeyPatch):
    codec = codec_of(release, "16k")
    with torch.inference_mode():
        first = codec.silence(9)
    torch.testing.assert_close(first, codec.encode(torch.zeros(1, 9 * 512))[0])
    monkeypatch.setattr(codec, "encode", lambda *_: pytest.fail("computed again"))
    second = codec.silence(9)
    assert not second.is_inference()
    second.zero_()
    assert torch.equal(codec.silence(9), first) and first.any()


def test_half_precision_keeps_the_front_end_exact(release: Path):
    exact, half = codec_of(release, "16k"), codec_of(release, "16k", dtype="bfloat16")
    waveform = noise(512 * 10)
    assert torch.equal(half.log_mel(waveform), exact.log_mel(waveform))
    latents = half.encode(waveform)
    assert latents.dtype == half.decode(latents).dtype == torch.float32
    torch.testing.assert_close(latents, exact.encode(waveform), atol=0.1, rtol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = exact.encode(waveform)
    assert torch.equal(inside, exact.encode(waveform))


def test_bad_input_is_told_in_one_sentence(release: Path, tmp_path: Path):
    codec = codec_of(release, "16k")
    (tmp_path / "broken.pth").write_bytes(b"no pickle")
    write_pickle(tmp_path / "other.pth", {"some.weight": torch.zeros(2, 2)})
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"a": Path("x")}, protocol=2))
    for message, call in {
        "too short": lambda: codec.encode(torch.zeros(1, 100)),
        "got audio at 44100 Hz": lambda: codec.fit(noise(512), 1, 44100),
        "variant is '8k'": lambda: codec_of(release, "8k"),
        "was not found": lambda: MMAudioCodec(tmp_path / "absent.pth"),
        "not a readable pickle": lambda: MMAudioCodec(tmp_path / "broken.pth"),
        r"code\.pth": lambda: MMAudioCodec(tmp_path / "code.pth"),
        r"some\.weight": lambda: MMAudioCodec(tmp_path / "other.pth"),
        "holds a MMAudioVocoder": lambda: MMAudioCodec(release / "16k", vae_subfolder="vocoder"),
        "80 mel bands but the vocoder 128": lambda: MMAudioCodec(
            release / "16k", release / "44k", "44k", "vae", "vocoder"
        ),
    }.items():
        with pytest.raises(InputError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_shapes_without_files():
    with torch.device("meta"):
        codec = MMAudioCodec("v1-44.pth", "nvidia/bigvgan_v2_44khz_128band_512x", "44k")
    assert codec.latent_channels == 40 and codec.latent_hop == 1024
    assert sum(p.numel() for p in codec.autoencoder.parameters()) == pytest.approx(305.5e6, rel=1e-3)
    assert sum(p.numel() for p in codec.vocoder.parameters()) == pytest.approx(122.2e6, rel=1e-3)
