"""Parts that are known but not loaded: their shapes are there, and they become whole where these do not do."""

import pytest
import torch

from components.codecs.audio.log_mel import LogMelCodec
from components.codecs.video.causal_vae.codec import CausalVideoCodec
from components.contracts import VideoCodec
from components.errors import InputError
from components.weights.identity import Identity, identity_of
from components.weights.unloaded import Unloaded, load, unloaded
from tests.components.codecs.video.causal_vae.test_model import tiny_vae


def vae_codec(seed: int = 0) -> CausalVideoCodec:
    return CausalVideoCodec(tiny_vae(seed), encode_window=None).eval()


def test_shapes_and_normalisation_are_known_without_a_tensor():
    real, part = vae_codec(), unloaded(vae_codec, "codec", identity_of(vae_codec()))
    assert (
        isinstance(part, VideoCodec)
        and isinstance(part, CausalVideoCodec)
        and type(part).__name__ == type(real).__name__
    )
    assert not list(part.parameters()) and not list(part.buffers()) and not list(part.children())
    assert part.num_latents(9) == real.num_latents(9) == 3
    latents = torch.randn(1, 2, 3, 4, 4)
    assert torch.equal(part.uniform_scale(latents), real.uniform_scale(latents))
    part.requires_grad_(False).eval().to("cpu")
    assert isinstance(part, Unloaded) and identity_of(part) == identity_of(real)
    assert not hasattr(part, "nothing_of_that_name") and isinstance(part, Unloaded)


def test_it_is_whole_when_it_is_asked_or_needed_also_in_inference_mode():
    real, clip = vae_codec(), torch.rand(1, 9, 3, 8, 8) * 2 - 1
    for ask in (lambda part: load(part, torch.device("cpu")), lambda part: None):
        part = unloaded(lambda: (torch.rand(3), vae_codec())[1], "codec", identity_of(real))
        before = torch.get_rng_state()
        with torch.inference_mode():
            ask(part)
            assert torch.equal(part.encode(clip), real.encode(clip))
        assert not isinstance(part, Unloaded) and type(part) is CausalVideoCodec
        assert torch.equal(torch.get_rng_state(), before)
        assert not any(parameter.is_inference() or parameter.requires_grad for parameter in part.parameters())


def test_a_codec_of_a_sound_knows_its_rates():
    part = unloaded(LogMelCodec, "audio_codec", identity_of(LogMelCodec()))
    assert part.num_latents_for(2.0) == 62 and isinstance(part, Unloaded)
    assert torch.equal(part.silence(4), LogMelCodec().silence(4)) and not isinstance(part, Unloaded)


def test_other_weights_than_those_that_encoded_are_refused():
    part = unloaded(lambda: vae_codec(1), "codec", Identity("mine", "0" * 64))
    with pytest.raises(InputError, match=r"codec is CausalVideoCodec \(sha256 \w{12}\), but the clips in data.latents"):
        load(part, torch.device("cpu"))


def test_it_goes_where_it_was_sent_before_it_was_loaded():
    part = torch.nn.ModuleList([unloaded(LogMelCodec, "audio_codec", identity_of(LogMelCodec()))]).to("meta")[0]
    assert part.hann.device.type == "meta" and not isinstance(part, Unloaded)
