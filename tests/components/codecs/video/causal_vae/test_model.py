"""The causal video VAE and its codec on a tiny random network: causality, streams, tiles, scales, files, bad input."""

import json
import pickle

import pytest
import torch
from jsonargparse import ArgumentParser
from safetensors.torch import save_file

from components.codecs.posterior import DiagonalGaussian
from components.codecs.video.causal_vae.blocks import CausalStream
from components.codecs.video.causal_vae.checkpoint import load_vae, vae_from_config
from components.codecs.video.causal_vae.codec import CausalVideoCodec
from components.codecs.video.causal_vae.model import CausalVideoVAE
from components.codecs.video.causal_vae.normalisation import SD3_NORMALISATION, LatentNormalisation
from components.codecs.video.tiling import map_tiles
from components.contracts import VideoCodec, clip_generator
from components.errors import InputError
from components.weights.identity import Identity, identity_of, sha256_of

CONFIG = {
    "encoder_out_channels": 2,
    "encoder_layers_per_block": [1, 1, 1],
    "encoder_block_out_channels": [4, 4, 6],
    "encoder_spatial_down_sample": [True, True, False],
    "encoder_temporal_down_sample": [True, True, False],
    "encoder_norm_num_groups": 2,
    "decoder_in_channels": 2,
    "decoder_layers_per_block": [1, 1, 1],
    "decoder_block_out_channels": [4, 4, 6],
    "decoder_spatial_up_sample": [True, True, False],
    "decoder_temporal_up_sample": [True, True, False],
    "decoder_norm_num_groups": 2,
}
FACTOR = 4  # in height, width and time


def tiny_vae(seed: int = 0) -> CausalVideoVAE:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return vae_from_config(CONFIG)


@pytest.fixture
def vae():
    return tiny_vae().requires_grad_(False)


def clips(batch: int = 1, frames: int = 9, height: int = 8, width: int = 12, seed: int = 1) -> torch.Tensor:
    return torch.rand(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def noise(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


# --- the network


@pytest.mark.parametrize("frame", range(9))
def test_frame_n_first_touches_latent_ceil_n_over_factor(vae, frame):
    pixels = clips().transpose(1, 2)
    changed = pixels.clone()
    changed[:, :, frame] += 0.5
    difference = (vae.encode(pixels) - vae.encode(changed)).abs().amax(dim=(0, 1, 3, 4))
    first = -(-frame // FACTOR)
    assert (difference[:first] == 0).all()
    assert difference[first] > 1e-4


@pytest.mark.parametrize("latent", range(3))
def test_latent_l_first_touches_the_first_frame_of_its_span(vae, latent):
    latents = noise(1, 2, 3, 2, 3)
    changed = latents.clone()
    changed[:, :, latent] += 0.5
    difference = (vae.decode(latents) - vae.decode(changed)).abs().amax(dim=(0, 1, 3, 4))
    first = 0 if latent == 0 else FACTOR * latent - FACTOR + 1
    assert (difference[:first] == 0).all()
    assert difference[first] > 1e-5


def test_one_network_serves_interleaved_streams(vae):
    videos = [clips(seed=seed, frames=13).transpose(1, 2) for seed in (1, 2)]
    latents = [noise(1, 2, 4, 2, 3, seed=seed) for seed in (3, 4)]
    encoding, decoding = ([CausalStream() for _ in range(2)] for _ in range(2))
    moments, pixels = [[], []], [[], []]
    # The first chunk is as short as can be: its convolutions remember less than they will read.
    for chunk, (frames, columns) in enumerate([((0, 1), (0, 1)), ((1, 5), (1, 2)), ((5, 13), (2, 4))]):
        for i in range(2):
            encoding[i].is_last = decoding[i].is_last = chunk == 2
            moments[i].append(vae.encode(videos[i][:, :, slice(*frames)], encoding[i]))
            pixels[i].append(vae.decode(latents[i][:, :, slice(*columns)], decoding[i]))
    for i in range(2):
        close(torch.cat(moments[i], dim=2), vae.encode(videos[i]))
        close(torch.cat(pixels[i], dim=2), vae.decode(latents[i]))


def test_past_frames_matter_and_are_dropped_at_the_end(vae):
    pixels = clips().transpose(1, 2)
    stream = CausalStream()
    vae.encode(pixels[:, :, :5], stream)
    assert stream.num_remembered > 0
    stream.is_last = True
    second = vae.encode(pixels[:, :, 5:], stream)
    assert stream.num_remembered == 0
    forgetful = vae.encode(pixels[:, :, 5:], CausalStream(starts_video=False, is_last=True))
    assert (second - forgetful).abs().max() > 1e-4


@pytest.mark.parametrize(("frames", "starts"), [(2, True), (4, True), (5, False)])
def test_chunks_that_do_not_fill_latents_are_refused(vae, frames, starts):
    with pytest.raises(ValueError, match=f"chunk of {frames} frames"):
        vae.encode(clips(frames=frames).transpose(1, 2), CausalStream(starts_video=starts))


def test_log_variance_is_clamped_and_sample_uses_the_deviation():
    moments = torch.tensor([[1.0, -50.0], [2.0, 50.0]]).view(2, 2, 1, 1, 1)
    posterior = DiagonalGaussian.from_moments(moments)
    assert posterior.logvar.flatten().tolist() == [-30.0, 20.0]
    sample = DiagonalGaussian(torch.tensor([1.0]), torch.tensor([4.0]).log()).sample(torch.tensor([3.0]))
    close(sample, torch.tensor([7.0]))


def test_gradients_flow_through_the_network():
    vae = tiny_vae()
    DiagonalGaussian.from_moments(vae.encode(clips().transpose(1, 2))).sample(
        noise(1, 2, 3, 2, 3)
    ).square().sum().backward()
    vae.decode(noise(1, 2, 3, 2, 3)).square().sum().backward()
    assert [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_encoder_and_decoder_must_mirror_each_other():
    with pytest.raises(InputError, match=r"the VAE config .* mirror each other"):
        vae_from_config({**CONFIG, "decoder_in_channels": 3})


# --- tiles


def test_tiles_of_a_pointwise_map_leave_no_trace():
    source = noise(2, 3, 5, 22, 17)
    canvas = torch.empty(2, 3, 5, 44, 34)
    up = lambda x: 3 * x.repeat_interleave(2, -1).repeat_interleave(2, -2)  # noqa: E731
    close(map_tiles(up, source, canvas, 8, 16), up(source))


def test_tiles_cross_fade_vertically_first():
    seen = []

    def constant(tile):
        seen.append(tuple(tile.shape))
        return torch.full_like(tile, float(len(seen)))

    canvas = map_tiles(constant, torch.zeros(14, 14), torch.empty(14, 14), 8, 8)
    assert seen == [(8, 8), (8, 8), (8, 2), (8, 8), (8, 8), (8, 2), (2, 8), (2, 8), (2, 2)]
    assert canvas[0, :10].tolist() == [1, 1, 1, 1, 1, 1, 1, 1.5, 2, 2]  # tiles 1, 2; fade over 2 pixels
    assert canvas[:10, 0].tolist() == [1, 1, 1, 1, 1, 1, 1, 2.5, 4, 4]  # tiles 1, 4
    # Corner of tiles 1, 2, 4, 5 halfway: upper = (1 + 2) / 2; tile 5 fades to (1.5 + 5) / 2; left = (1 + 4) / 2.
    assert canvas[7, 7] == ((1.5 + 5) / 2 + 2.5) / 2


def test_codec_tiles_only_what_exceeds_a_tile(vae):
    whole, tiled = CausalVideoCodec(vae), CausalVideoCodec(vae, tile_size=16)
    small, large = clips(height=16, width=12), clips(height=24, width=20)
    assert torch.equal(whole.encode(small), tiled.encode(small))
    latents = whole.encode(large)
    assert latents.shape == tiled.encode(large).shape
    assert (latents - tiled.encode(large)).abs().max() > 1e-3  # statistics of a tile are not those of the frame
    assert tiled.decode(latents).shape == large.shape
    windowed = CausalVideoCodec(vae, tile_size=16, encode_window=FACTOR, decode_window=1)
    close(windowed.encode(large), tiled.encode(large))
    close(windowed.decode(latents), tiled.decode(latents))


# --- normalisation


@pytest.mark.parametrize("constants", [LatentNormalisation(), SD3_NORMALISATION])
def test_normalisation_by_hand_and_back(constants):
    raw = noise(2, 3, 4, 2, 2)
    normal = constants.normalise(raw)
    close(normal[:, :, 0], (raw[:, :, 0] - constants.first_shift) / constants.first_std)
    close(normal[:, :, 1:], (raw[:, :, 1:] + 0.2343) / 3.0986)
    close(constants.denormalise(normal), raw)
    before = normal.clone()
    close(constants.uniform_scale(normal), (raw + 0.2343) / 3.0986)
    assert torch.equal(normal, before)


def test_presets():
    assert (LatentNormalisation().first_shift, LatentNormalisation().first_std) == (-0.04, 1.8726)
    assert (SD3_NORMALISATION.first_shift, SD3_NORMALISATION.first_std) == (0.1490, 1.8415)


# --- the codec


@pytest.mark.parametrize(("encode_window", "decode_window"), [(4, 1), (8, 2), (64, 64), (None, None)])
def test_windows_do_not_change_the_result(vae, encode_window, decode_window):
    codec = CausalVideoCodec(vae, encode_window=encode_window, decode_window=decode_window)
    video, latents = clips(batch=2, frames=17), noise(2, 2, 5, 2, 3)
    raw = DiagonalGaussian.from_moments(vae.encode(video.transpose(1, 2))).mean
    close(codec.encode(video), codec.normalisation.normalise(raw))
    pixels = vae.decode(codec.normalisation.denormalise(latents)).transpose(1, 2)
    close(codec.decode(latents), pixels.clamp(-1, 1))
    assert codec.encode(video).shape[2] == codec.num_latents(17) == 5
    assert codec.decode(latents).shape[1] == 17


@pytest.mark.parametrize("tile_size", [None, 16])
def test_clip_by_clip_equals_all_at_once_and_autocast_changes_nothing(vae, tile_size):
    codec = CausalVideoCodec(vae, tile_size=tile_size)
    one_by_one = CausalVideoCodec(vae, tile_size=tile_size, clips_at_once=1)
    video = clips(batch=3, height=32, width=16)
    latents = codec.encode(video)
    close(one_by_one.encode(video), latents)
    close(one_by_one.decode(latents), codec.decode(latents))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.encode(video), latents)
        assert torch.equal(codec.decode(latents), codec.decode(latents.clone()))


def test_posterior_noise_belongs_to_the_clip(vae):
    codec = CausalVideoCodec(vae)
    video = clips(batch=3)
    draw = lambda video, ids: codec.encode(video, [clip_generator(i, seed=7) for i in ids])  # noqa: E731
    together = draw(video, ["a", "b", "c"])
    close(draw(video[[2, 0]], ["c", "a"]), together[[2, 0]])
    mean = codec.encode(video)
    assert (together - mean).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3
    posterior = codec.posterior(video)
    expected = posterior.sample(torch.stack([noise(2, 3, 2, 3, seed=5)] * 3))
    same_noise = codec.encode(video, [torch.Generator().manual_seed(5) for _ in range(3)])
    close(same_noise, codec.normalisation.normalise(expected))


def test_decoded_video_is_clamped(vae):
    video = CausalVideoCodec(vae).decode(noise(1, 2, 2, 2, 2) * 1e4)
    assert video.min() >= -1 and video.max() <= 1
    assert vae.decode(noise(1, 2, 2, 2, 2) * 1e4).abs().max() != video.abs().max()


def test_bfloat16_network_gives_float32_near_the_float32_network():
    codec = CausalVideoCodec(tiny_vae())
    video = clips(batch=1, frames=9)
    latents = codec.encode(video)
    low = CausalVideoCodec(tiny_vae().bfloat16())
    assert low.encode(video).dtype == low.decode(latents.bfloat16()).dtype == torch.float32
    assert (low.encode(video) - latents).norm() < 5e-2 * latents.norm()


def test_codec_is_frozen():
    codec = CausalVideoCodec(tiny_vae())
    assert not any(p.requires_grad for p in codec.parameters())
    assert not codec.encode(clips()).requires_grad


def test_bad_videos_are_named(vae):
    codec = CausalVideoCodec(vae)
    with pytest.raises(InputError, match=r"10 x 12 pixels .* multiples of 4; .* 8 x 12"):
        codec.encode(clips(height=10))
    with pytest.raises(InputError, match=r"7 frames .*: set clip.num_frames to 5 or 9$"):
        codec.encode(clips(frames=7))
    with pytest.raises(InputError, match=r"torch.uint8"):
        codec.encode((clips() * 127 + 127).byte())
    with pytest.raises(InputError, match=r"\[1, 3, 9, 8, 12\]"):
        codec.encode(clips().transpose(1, 2))
    with pytest.raises(InputError, match=r"1 generators .* 2 clips"):
        codec.encode(clips(batch=2), [torch.Generator()])
    with pytest.raises(InputError, match=r"\[1, 3, 2, 2, 2\]"):
        codec.decode(noise(1, 3, 2, 2, 2))


@pytest.mark.parametrize("option", [{"encode_window": 6}, {"decode_window": 0}, {"tile_size": 24}, {"tile_size": -16}])
def test_bad_options_are_named(vae, option):
    with pytest.raises(InputError, match=next(iter(option))):
        CausalVideoCodec(vae, **option)


# --- files


@pytest.fixture
def folder(tmp_path):
    config = {"_class_name": "CausalVideoVAE", "scaling_factor": 0.13025, "sample_size": 256, **CONFIG}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_from_pretrained_reads_both_kinds(folder, kind):
    vae = tiny_vae(seed=3)
    file = folder / f"diffusion_pytorch_model.{kind}"
    save_file(vae.state_dict(), file) if kind == "safetensors" else torch.save(vae.state_dict(), file)
    codec = CausalVideoCodec.from_pretrained(folder, SD3_NORMALISATION, encode_window=8)
    loaded = codec.vae.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in vae.state_dict().items())
    assert (codec.normalisation, codec.encode_window, codec.spatial_factor) == (SD3_NORMALISATION, 8, FACTOR)
    assert CausalVideoCodec.from_pretrained(folder, dtype="bfloat16").vae.dtype == torch.bfloat16


def test_a_configuration_file_can_name_a_folder(folder):
    save_file(tiny_vae().state_dict(), folder / "diffusion_pytorch_model.safetensors")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--codec", type=VideoCodec)
    name = "components.codecs.video.causal_vae.codec.CausalVideoCodec.from_pretrained"
    options = {"folder": str(folder), "normalisation": {"first_shift": 0.149, "first_std": 1.8415}}
    parsed = parser.parse_object({"codec": {"class_path": name, "init_args": options}})
    codec = parser.instantiate(parsed).codec
    assert isinstance(codec, CausalVideoCodec)
    assert codec.normalisation == SD3_NORMALISATION


class _Malicious:
    def __reduce__(self):
        return print, ("code of a weights file ran",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_run_code_is_refused(folder, capsys):
    torch.save({"encoder.conv_in.conv.weight": _Malicious()}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="not a readable pickle of tensors"):
        load_vae(folder)
    (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(_Malicious()))
    with pytest.raises(InputError, match="not a readable pickle of tensors"):
        load_vae(folder)
    assert "code of a weights file ran" not in capsys.readouterr().out


def test_damaged_or_foreign_files_are_named(folder):
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.safetensors' does not exist"):
        load_vae(folder)
    file = folder / "diffusion_pytorch_model.bin"
    weights = tiny_vae().state_dict()
    torch.save(weights, file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a readable pickle"):
        load_vae(folder)
    weights["stranger"] = weights.pop("quant_conv.conv.bias")
    torch.save(weights, file)
    with pytest.raises(InputError, match=r"does not fit .*quant_conv\.conv\.bias.*stranger"):
        load_vae(folder)
    torch.save([1], file)
    with pytest.raises(InputError, match="does not fit"):
        load_vae(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a list"),
        ('{"encoder_act_fn": "gelu"}', "encoder_act_fn is 'gelu'"),
        ('{"encoder_down_block_types": ["DownEncoderBlockCausal3D", "Other"]}', "encoder_down_block_types"),
        ('{"encoder_layers_per_block": [1, 2]}', "does not describe a causal video VAE"),
        ('{"encoder_norm_num_groups": 3}', "does not describe a causal video VAE"),
    ],
)
def test_bad_configs_are_named(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_vae(folder)
    assert "config.json" in str(caught.value)


def test_missing_config_is_named(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        load_vae(tmp_path)


def same_weights(vae: CausalVideoVAE, other: CausalVideoVAE) -> bool:
    ours, theirs = vae.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_several_files_and_a_subfolder(folder):
    weights = tiny_vae().state_dict()
    places = {key: f"part-{i % 2}.bin" for i, key in enumerate(weights)}
    for part in ("part-0.bin", "part-1.bin"):
        torch.save({key: value for key, value in weights.items() if places[key] == part}, folder / part)
    (folder / "diffusion_pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert same_weights(load_vae(folder.parent, folder.name), tiny_vae())


def test_loaded_weights_are_known_by_name_and_digest(folder):
    file = folder / "diffusion_pytorch_model.bin"
    torch.save(tiny_vae().state_dict(), file)
    codec = CausalVideoCodec.from_pretrained(folder.parent, subfolder=folder.name)
    assert identity_of(codec) == identity_of(codec.vae) == Identity(str(folder), sha256_of(file))


@pytest.mark.parametrize("prefix", ["", "module.", "vae."])
def test_attention_as_older_diffusers_spelled_it(folder, prefix):
    spelling = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    found = {}
    for key, value in tiny_vae().state_dict().items():
        for ours, theirs in spelling.items():
            key = key.replace(f"attentions.0.{ours}.", f"attentions.0.{theirs}.")
        found[prefix + key] = value
    assert sum("proj_attn" in key for key in found) == 4
    save_file(found, folder / "diffusion_pytorch_model.safetensors")
    assert same_weights(load_vae(folder), tiny_vae())


def test_precision(folder):
    save_file(tiny_vae().bfloat16().state_dict(), folder / "diffusion_pytorch_model.safetensors")
    found = {dtype: load_vae(folder, dtype=dtype).dtype for dtype in ("float32", "bfloat16", "float16", None)}
    assert list(found.values()) == [torch.float32, torch.bfloat16, torch.float16, torch.bfloat16]
    with pytest.raises(InputError, match="dtype is 'int8'"):
        load_vae(folder, dtype="int8")


def test_the_folder_of_a_transformer_is_named(folder):
    (folder / "config.json").write_text(json.dumps({"_class_name": "PyramidFluxTransformer"}))
    with pytest.raises(InputError, match=r"names the class 'PyramidFluxTransformer'.* give the folder causal_"):
        load_vae(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_out_channels": 3, "decoder_in_channels": 3}, r"encoder_out_channels is 3 in config\.json but 2"),
        ({"encoder_layers_per_block": [1, 2, 1]}, r"encoder_layers_per_block is \[1, 2, 1\] .* but \[1, 1, 1\]"),
        ({"decoder_block_out_channels": [4, 6, 6]}, r"decoder_block_out_channels is .* but \[4, 4, 6\] in the weights"),
        ({"encoder_spatial_down_sample": [False, True, True]}, r"encoder_spatial_down_sample is .*True, True, False"),
        ({"decoder_temporal_up_sample": [False, True, True]}, r"decoder_temporal_up_sample is .*True, True, False"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_corrected(folder, changes, message):
    save_file(tiny_vae().state_dict(), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    with pytest.raises(InputError, match=message) as caught:
        load_vae(folder)
    assert all(f"{key} is" in str(caught.value) for key in changes)
    assert str(caught.value).count("in config.json but") == len(changes)


def test_shapes_need_neither_weights_nor_a_public_folder(folder):
    with torch.device("meta"):
        tiny = CausalVideoCodec.from_pretrained(folder)
        public = [
            CausalVideoCodec.from_pretrained(f"rain1011/pyramid-flow-{name}", subfolder="causal_video_vae")
            for name in ("miniflux", "sd3")
        ]
    shapes = {key: value.shape for key, value in tiny.vae.state_dict().items()}
    assert shapes == {key: value.shape for key, value in tiny_vae().state_dict().items()}
    for codec in (tiny, *public):
        assert all(p.is_meta for p in codec.parameters())
    assert [sum(p.numel() for p in codec.parameters()) for codec in public] == [335_402_067] * 2
    assert [(c.temporal_factor, c.spatial_factor, c.latent_channels) for c in public] == [(8, 8, 16)] * 2
