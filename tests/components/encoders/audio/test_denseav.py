"""DenseAV: what of a checkpoint is loaded, in which spellings, when its tokens are, and what is refused."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from components.contracts import AudioEncoder
from components.encoders.audio.denseav import DenseAVEncoder
from components.encoders.audio.denseav_aligner import ALIGNERS, Aligner
from components.errors import InputError
from components.weights.identity import identity_of, sha256_of
from tests.public_folders.denseav import (
    ARGUMENTS,
    TINY_HUBERT,
    new_spelling,
    tiny_denseav,
    with_lora,
    write_hub_folder,
    write_lightning_checkpoint,
)

RATE = 16000


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return tiny_denseav()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights) -> str:
    return str(write_hub_folder(tmp_path_factory.mktemp("denseav"), weights))


def noise(seconds: float = 1.0, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(batch, round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def same_features(first: str, second: str, tolerance: float = 1e-5) -> None:
    a, b = (DenseAVEncoder(name, "aligned")(noise(), RATE).tokens for name in (first, second))
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize("features", ["backbone", "aligned"])
@pytest.mark.parametrize("seconds", [2.0, 5.0])
def test_rates_and_centres(folder: str, features: str, seconds: float):
    encoder = DenseAVEncoder(folder, features)
    heard = encoder(noise(seconds), RATE)
    backbone = int((seconds * RATE - 400) // 320 + 1)
    expected = {
        "backbone": (backbone, 36, 50.0, 200 / RATE),
        "aligned": (backbone // 9, 24, 50 / 9, (4 * 320 + 200) / RATE),
    }
    tokens, dim, rate, first = expected[features]
    assert heard.tokens.shape == (1, tokens, dim) and encoder.dim == dim and heard.mask.all()
    assert (heard.rate_hz, heard.first_center_s) == pytest.approx((rate, first))
    assert isinstance(encoder, AudioEncoder) and heard.tokens.dtype == torch.float32


@pytest.mark.parametrize("features", ["backbone", "aligned"])
@pytest.mark.parametrize("time_s", [0.31, 0.744, 1.2])
def test_a_click_changes_the_token_around_it_most(folder: str, features: str, time_s: float):
    encoder = DenseAVEncoder(folder, features, normalize=False)
    quiet = noise(1.6) * 0.1
    loud = quiet.clone()
    loud[0, round(time_s * RATE)] += 3.0
    before, after = encoder(quiet, RATE), encoder(loud, RATE)
    change = (after.tokens - before.tokens)[0].norm(dim=-1)
    nearest = (before.centers_s() - time_s).abs()
    assert float(nearest[change.argmax()]) <= float(nearest.min()) + 0.021  # windows of 25 ms overlap by 5 ms


def test_normalising_makes_loudness_and_offset_irrelevant(folder: str):
    sound = noise()
    normalised, raw = DenseAVEncoder(folder), DenseAVEncoder(folder, normalize=False)
    torch.testing.assert_close(
        normalised(sound, RATE).tokens, normalised(3 * sound + 0.2, RATE).tokens, atol=1e-4, rtol=0
    )
    assert (raw(sound, RATE).tokens - raw(3 * sound, RATE).tokens).abs().max() > 0.01


def test_clips_do_not_see_each_other(folder: str):
    encoder = DenseAVEncoder(folder, "aligned")
    pair = torch.cat([noise(seed=1), 5 * noise(seed=2)])
    alone = torch.cat([encoder(clip[None], RATE).tokens for clip in pair])
    torch.testing.assert_close(encoder(pair, RATE).tokens, alone, atol=1e-5, rtol=0)


def test_it_stays_in_evaluation_mode_and_frozen(folder: str):
    encoder = DenseAVEncoder(folder, "aligned")
    outer = torch.nn.ModuleList([encoder]).train()
    assert outer.training and not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    first, second = (encoder(noise(), RATE) for _ in range(2))
    assert torch.equal(first.tokens, second.tokens) and not first.tokens.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder(noise(), RATE).tokens, first.tokens)


def test_both_layouts_and_spellings_give_the_same_features(folder: str, weights, tmp_path):
    lightning = write_lightning_checkpoint(tmp_path / "a" / "denseav_sound.ckpt", weights)
    spelled = write_hub_folder(tmp_path / "b", {new_spelling(k): v for k, v in weights.items()})
    for other in (lightning, lightning.parent, spelled, spelled / "model.safetensors"):
        same_features(folder, str(other))


@pytest.mark.parametrize("new_names", [False, True])
def test_lora_is_merged_exactly(weights, tmp_path, new_names: bool):
    adapted = with_lora(weights, rank=4, new_names=new_names)
    merged = dict(weights)
    for key in [key for key in adapted if ".lora_A." in key]:
        name = key.split(".lora_A.")[0].replace("audio_model.base_model.model.", "audio_model.") + ".weight"
        update = adapted[key.replace("lora_A", "lora_B")].double() @ adapted[key].double()
        merged[name] = (weights[name].double() + 32 / 4 * update).float()
    assert sum(not torch.equal(merged[k], weights[k]) for k in weights) == 6  # q, k, v of two layers
    same_features(str(write_hub_folder(tmp_path / "a", adapted)), str(write_hub_folder(tmp_path / "b", merged)))


def test_the_identity_is_that_of_the_weights_file(folder: str):
    identity = identity_of(DenseAVEncoder(folder))
    assert (identity.name, identity.sha256) == (folder, sha256_of(f"{folder}/model.safetensors"))


def test_half_precision_stays_close(folder: str):
    full, half = DenseAVEncoder(folder, "aligned"), DenseAVEncoder(folder, "aligned", dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    a, b = full(noise(), RATE).tokens, half(noise(), RATE).tokens
    assert b.dtype == torch.float32 and torch.nn.functional.cosine_similarity(a, b, dim=-1).min() > 0.99


def test_unit_length_where_the_checkpoint_says_so(weights, folder: str, tmp_path):
    write_hub_folder(tmp_path, weights, {**ARGUMENTS, "norm_vectors": True})
    tokens = DenseAVEncoder(str(tmp_path), "aligned")(noise(), RATE).tokens
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(tokens.shape[:2]))
    plain = DenseAVEncoder(folder, "aligned")(noise(), RATE).tokens
    torch.testing.assert_close(tokens, plain / plain.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("kind", ALIGNERS)
@pytest.mark.parametrize("dim", [24, 20])
def test_aligners_pool_by_their_rate_and_are_local_but_for_attention(kind: str, dim: int):
    torch.manual_seed(0)
    aligner = Aligner(kind, 16, dim).double()
    tokens = torch.randn(2, 31, 16, dtype=torch.float64)
    aligned, none = aligner(tokens, None)
    assert aligned.shape == (2, 31 // aligner.pool, dim) and none is None
    with_cls, cls = aligner(tokens, torch.randn(2, 16, dtype=torch.float64))
    assert cls.shape == (2, dim) and with_cls.shape == aligned.shape
    assert torch.allclose(with_cls, aligned) != any("block" in name for name, _ in aligner.named_parameters())
    changed = tokens.clone()
    changed[:, 13] = -changed[:, 13]
    difference = (aligner(changed, None)[0] - aligned).norm(dim=-1)
    assert (difference.argmax(dim=1) == 13 // aligner.pool).all()


@pytest.mark.parametrize(("group_norm", "bias"), [(True, False), (False, True), (False, False)])
def test_sizes_are_read_off_the_weights(tmp_path, group_norm: bool, bias: bool):
    hubert = {
        **TINY_HUBERT,
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "conv_dim": [8, 12, 12, 12, 12, 12, 16],
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_bias": bias,
        "feat_extract_norm": "group" if group_norm else "layer",
        "do_stable_layer_norm": not group_norm,
        "num_conv_pos_embeddings": 32,
        "num_conv_pos_embedding_groups": 8,
    }
    write_hub_folder(tmp_path, tiny_denseav(hubert), hubert=hubert)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["hubert"]  # heads of 64 channels need not be told
    (tmp_path / "config.json").write_text(json.dumps(stored))
    read = DenseAVEncoder(str(tmp_path)).hubert.config
    assert {key: getattr(read, key) for key in hubert} == {
        **hubert,
        "conv_dim": tuple(hubert["conv_dim"]),
        "conv_kernel": tuple(hubert["conv_kernel"]),
    }


def test_the_public_model_is_known_without_its_files():
    with torch.device("meta"):
        backbone = DenseAVEncoder("mhamilton723/DenseAV-sound")
        aligned = DenseAVEncoder("mhamilton723/DenseAV-sound", "aligned", dtype="bfloat16")
    assert (backbone.dim, aligned.dim, backbone.rate_hz) == (1024, 384, 50.0)
    count = sum(p.numel() for p in backbone.parameters())
    assert count == 315_438_720 - 1024  # HuBERT-large without the embedding of masked training
    head = sum(p.numel() for p in aligned.parameters()) - count
    pools = 2 * 1024 + (3 * 1024 * 384 + 384) + (1024 * 384 + 384) + (3 * 384 * 384 + 384)
    assert head == pools + 12 * 384**2 + 13 * 384 + 1024
    assert all(p.is_meta for p in aligned.parameters()) and aligned.hubert.dtype == torch.bfloat16


def test_on_the_meta_device_files_are_checked_but_not_loaded(folder: str, tmp_path, weights):
    lightning = write_lightning_checkpoint(tmp_path / "x.ckpt", with_lora(weights))
    for name in (folder, str(lightning)):
        with torch.device("meta"):
            encoder = DenseAVEncoder(name, "aligned")
        assert encoder.dim == 24 and all(p.is_meta for p in encoder.parameters())


def refusal(*arguments, **settings) -> str:
    with pytest.raises(InputError) as caught:
        DenseAVEncoder(*arguments, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_bad_arguments_and_sounds(folder: str):
    assert "features is 'both'" in refusal(folder, "both")
    assert "dtype is 'int8'" in refusal(folder, dtype="int8")
    encoder = DenseAVEncoder(folder, "aligned")
    with pytest.raises(InputError, match="takes 16000 Hz but got audio at 44100 Hz"):
        encoder(noise(), 44100)
    assert encoder(torch.zeros(1, 2960), RATE).tokens.shape[1] == 1
    with pytest.raises(InputError, match=r"at least 0\.185 s"):
        encoder(torch.zeros(1, 2959), RATE)


def test_missing_files(tmp_path, weights):
    assert "was not found" in refusal(str(tmp_path / "nowhere"))
    assert "no DenseAV checkpoints" in refusal(str(tmp_path))
    write_lightning_checkpoint(tmp_path / "a.ckpt", weights)
    write_lightning_checkpoint(tmp_path / "b.ckpt", weights)
    assert "2 DenseAV checkpoints" in refusal(str(tmp_path))
    (tmp_path / "a.ckpt").write_bytes(b"")
    assert "a.ckpt' cannot be read (it is empty)" in refusal(str(tmp_path / "a.ckpt"))
    write_hub_folder(tmp_path, weights)
    (tmp_path / "config.json").unlink()
    assert "config.json does not exist" in refusal(str(tmp_path))


def test_weights_that_do_not_fit(tmp_path, weights):
    wrong = {k.replace("norm1", "norm9"): v for k, v in weights.items() if "audio_cls" not in k}
    message = refusal(str(write_hub_folder(tmp_path / "keys", wrong)), "aligned")
    assert "3 missing: " in message and "audio_cls" in message and "2 unexpected: " in message
    message = refusal(str(write_hub_folder(tmp_path / "width", weights, {**ARGUMENTS, "code_dim": 30})), "aligned")
    assert "of another shape" in message
    images = {k: v for k, v in weights.items() if not k.startswith("audio_")}
    assert "no audio_model weights" in refusal(str(write_hub_folder(tmp_path / "images", images)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_model_type": "imagebind"}, "audio model 'imagebind'"),
        ({"audio_aligner_type": "audio_sa_sa"}, "aligner is 'audio_sa_sa'"),
        ({"code_dim": "x"}, "stores the code_dim 'x', which is no width"),
    ],
)
def test_another_kind_of_model(tmp_path, weights, change: dict, message: str):
    assert message in refusal(str(write_hub_folder(tmp_path, weights, {**ARGUMENTS, **change})), "aligned")


def test_settings_that_describe_no_model(tmp_path, weights):
    write_hub_folder(tmp_path, weights, hubert={**TINY_HUBERT, "num_attention_heads": 7})
    assert "model.safetensors' describes no HuBERT (" in refusal(str(tmp_path))


def test_arguments_that_are_not_stored(tmp_path, weights):
    arguments = {key: value for key, value in ARGUMENTS.items() if key != "code_dim"}
    assert "does not store code_dim" in refusal(str(write_hub_folder(tmp_path, weights, arguments)))
    write_hub_folder(tmp_path, weights)
    (tmp_path / "config.json").write_text(json.dumps(ARGUMENTS))
    assert re.search(r"width 36, whose number of heads .* hubert: \{num_attention_heads: N\}", refusal(str(tmp_path)))


class Surprise:
    """Something a pickle could build."""


def test_a_checkpoint_with_objects_is_refused_and_says_what_to_do(tmp_path, weights):
    file = write_lightning_checkpoint(tmp_path / "x.ckpt", weights, {**ARGUMENTS, "callback": Surprise()})
    message = refusal(str(file))
    assert "Surprise" in message and "save it anew with nothing but state_dict and hyper_parameters" in message
    (tmp_path / "cut.ckpt").write_bytes(file.read_bytes()[:5000])
    assert "cut.ckpt' " in refusal(str(tmp_path / "cut.ckpt"))
    torch.save({"state_dict": weights}, tmp_path / "half.ckpt")
    assert "holds no hyper_parameters" in refusal(str(tmp_path / "half.ckpt"))


def test_the_fixture_is_a_whole_model(folder: str):
    stored = load_file(f"{folder}/model.safetensors")
    assert {"image_model.model.cls_token", "sim_cal.w", "audio_model.model.masked_spec_embed"} <= stored.keys()
