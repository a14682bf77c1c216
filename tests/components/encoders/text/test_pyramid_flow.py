"""The text encoders of the public releases, against a plain use of transformers: one prompt, padded to full length."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.encoders.text.pyramid_flow import PyramidFlowText
from components.encoders.text.pyramid_flow_folder import PyramidFlowTextFolder, pyramid_flow_text
from components.errors import InputError
from components.weights.identity import identity_of
from components.weights.public_checkpoints import MINIFLUX, SD3
from tests.public_folders.text import write_clip, write_miniflux_text, write_sd3_text, write_t5_tokenizer

PROMPTS = ("the dog barks", "", "a hammer strikes wood slowly, 1 2 3.", "lion")
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
WRITERS = {"miniflux": write_miniflux_text, "sd3": write_sd3_text}


@pytest.fixture(scope="module", params=WRITERS)
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("releases") / request.param
    WRITERS[request.param](folder, dtype=torch.float32)
    return folder


@pytest.fixture(scope="module")
def encoder(release: Path) -> PyramidFlowText:
    return pyramid_flow_text(str(release), release.name, dtype="float32")


@pytest.fixture
def miniflux(tmp_path: Path) -> Iterator[Path]:
    write_miniflux_text(tmp_path / "release")
    return tmp_path / "release"


@torch.no_grad()
def reference(folder: Path, prompt: str) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens ``[128, D]``, mask ``[128]`` and pooled ``[P]`` as the release's own pipeline computes them."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

    pooled, is_sd3 = [], (folder / "text_encoder_3").is_dir()
    for suffix in ("", "_2") if is_sd3 else ("",):
        ids = CLIPTokenizer.from_pretrained(folder / f"tokenizer{suffix}")(
            prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        if is_sd3:
            clip = CLIPTextModelWithProjection.from_pretrained(folder / f"text_encoder{suffix}", dtype=torch.float32)
            pooled.append(clip.eval()(ids).text_embeds[0])
        else:
            pooled.append(CLIPTextModel.from_pretrained(folder / "text_encoder").eval()(ids).pooler_output[0])
    suffix = "_3" if is_sd3 else "_2"
    batch = T5Tokenizer.from_pretrained(folder / f"tokenizer{suffix}")(
        prompt, padding="max_length", max_length=128, truncation=True, return_tensors="pt"
    )
    t5 = T5EncoderModel.from_pretrained(folder / f"text_encoder{suffix}", dtype=torch.float32).eval()
    tokens = t5(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    return tokens[0], batch.attention_mask[0].bool(), torch.cat(pooled)


def test_same_as_transformers_padded_to_the_full_length(release: Path, encoder: PyramidFlowText):
    features = encoder(PROMPTS)
    assert features.tokens.shape[1] == int(features.mask.sum(1).max()) < 128
    for b, prompt in enumerate(PROMPTS):
        tokens, mask, pooled = reference(release, prompt)
        assert int(mask.sum()) == int(features.mask[b].sum())
        torch.testing.assert_close(features.tokens[b][features.mask[b]], tokens[mask], **TOLERANCE)
        torch.testing.assert_close(features.pooled[b], pooled, **TOLERANCE)
        assert not features.tokens[b][~features.mask[b]].any()


def test_the_oracle_can_tell(release: Path, encoder: PyramidFlowText):
    """Weights are large enough for another prompt, and another position, to show."""
    tokens, mask, pooled = reference(release, "dog the barks")
    features = encoder(["the dog barks"])
    assert (features.tokens[0] - tokens[mask]).abs().mean() > 0.05
    assert (features.pooled[0] - pooled).abs().mean() > 0.05


def test_widths(release: Path, encoder: PyramidFlowText):
    source = PyramidFlowTextFolder(str(release), release.name, dtype="float32")
    features = encoder(["lion"])
    assert (source.dim, source.pooled_dim) == (encoder.dim, encoder.pooled_dim)
    assert (features.tokens.shape[-1], features.pooled.shape[-1]) == (encoder.dim, encoder.pooled_dim)


def test_padding_on_request(release: Path, encoder: PyramidFlowText):
    padded = pyramid_flow_text(str(release), release.name, dtype="float32", pad_to=128)(PROMPTS)
    plain = encoder(PROMPTS)
    length = plain.tokens.shape[1]
    assert padded.tokens.shape[1] == padded.mask.shape[1] == 128
    assert torch.equal(padded.tokens[:, :length], plain.tokens)
    assert not padded.mask[:, length:].any()


@settings(deadline=None, max_examples=20)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_a_prompt_does_not_depend_on_its_batch(encoder: PyramidFlowText, prompts: list[str]):
    together = encoder(prompts)
    for b, prompt in enumerate(prompts):
        alone = encoder([prompt])
        torch.testing.assert_close(together.tokens[b][together.mask[b]], alone.tokens[0][alone.mask[0]], **TOLERANCE)
        torch.testing.assert_close(together.pooled[b], alone.pooled[0], **TOLERANCE)


def test_every_prompt_is_encoded_once_per_batch_and_the_null_text_once_and_for_all(release: Path):
    encoder = pyramid_flow_text(str(release), release.name)
    seen: list[int] = []
    encoder.t5.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    first = encoder(["", "lion", "", "lion"])
    second = encoder(["lion", "", "dog"])
    encoder([""])
    assert seen == [2, 2]
    assert torch.equal(first.tokens[0][first.mask[0]], second.tokens[1][second.mask[1]])
    encoder.float()  # other precision: the kept null text is void
    assert encoder([""]).tokens.dtype == torch.float32
    assert seen == [2, 2, 1]


def test_frozen_and_in_evaluation_mode_for_good(release: Path):
    encoder = pyramid_flow_text(str(release), release.name)
    torch.nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.bfloat16}
    features = encoder(["lion"])
    assert features.tokens.dtype == features.pooled.dtype == torch.bfloat16
    assert not features.tokens.requires_grad


def test_what_validation_leaves_behind_can_be_trained_on(release: Path):
    encoder = pyramid_flow_text(str(release), release.name, dtype="float32")
    with torch.inference_mode():
        encoder([""])
    layer = torch.nn.Linear(encoder.dim, 1)
    layer(encoder([""]).tokens).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_autocast_changes_nothing(encoder: PyramidFlowText):
    plain = encoder(["the dog barks"])
    with torch.autocast("cpu", torch.bfloat16):
        under = encoder(["the dog barks"])
    assert torch.equal(plain.tokens, under.tokens)
    assert torch.equal(plain.pooled, under.pooled)


def test_too_long_prompts_are_cut_as_in_the_reference_and_said_once(release: Path):
    encoder = pyramid_flow_text(str(release), release.name, dtype="float32")
    prompt = "the dog barks " * 50
    with pytest.warns(UserWarning) as said:
        features = encoder([prompt])
    texts = [str(warning.message) for warning in said]
    num_clips = len(encoder.clips)
    assert sum("T5 reads 128 tokens, so the prompt 'the dog" in text for text in texts) == 1
    assert sum("CLIP reads 77 tokens" in text for text in texts) == num_clips
    tokens, mask, pooled = reference(release, prompt)
    assert mask.all()
    torch.testing.assert_close(features.tokens[0], tokens, **TOLERANCE)
    torch.testing.assert_close(features.pooled[0], pooled, **TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder([prompt + "again"])


def test_spiece_model_alone_is_enough(release: Path, encoder: PyramidFlowText, tmp_path: Path):
    write_t5_tokenizer(tmp_path / "spiece", tokenizer_json=False)
    tokenizers = ["tokenizer", *(["tokenizer_2"] if release.name == "sd3" else []), str(tmp_path / "spiece")]
    other = pyramid_flow_text(str(release), release.name, tokenizers=tokenizers, dtype="float32")
    prompts = [*PROMPTS, " Ünïcode ﬁ  two   spaces", "a dog</s> <extra_id_0>"]
    assert torch.equal(other(prompts).tokens, encoder(prompts).tokens)


def test_identity_covers_every_folder(tmp_path: Path):
    write_sd3_text(tmp_path)
    encoder = pyramid_flow_text(str(tmp_path), "sd3")
    before = identity_of(encoder)
    assert before.name == str(tmp_path)
    for changed in ("text_encoder", "text_encoder_2"):  # both hold a model.safetensors
        write_clip(tmp_path / changed, 12 if changed == "text_encoder" else 20, 99, torch.bfloat16, projected=True)
        after = identity_of(pyramid_flow_text(str(tmp_path), "sd3"))
        assert after != before
        before = after


CLIP_L, CLIP_L_PROJECTED, CLIP_BIGG, T5_XXL = 123_060_480, 123_650_304, 694_659_840, 4_762_310_656
"""Parameters of the public models."""


@pytest.mark.parametrize(
    ("name", "variant", "widths", "parameters"),
    [
        (MINIFLUX, "miniflux", (4096, 768), CLIP_L + T5_XXL),
        (SD3, "sd3", (4096, 2048), CLIP_L_PROJECTED + CLIP_BIGG + T5_XXL),
    ],
)
def test_public_releases_are_known_without_files(name: str, variant: str, widths: tuple[int, int], parameters: int):
    with torch.device("meta"):
        encoder = pyramid_flow_text(name, variant)
    assert (encoder.dim, encoder.pooled_dim) == widths
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert all(parameter.is_meta and parameter.dtype == torch.bfloat16 for parameter in encoder.parameters())
    with pytest.raises(InputError, match="meta device"):
        encoder(["lion"])


def test_shapes_of_a_folder_need_its_configs_alone(release: Path, encoder: PyramidFlowText, tmp_path: Path):
    for file in release.glob("text_encoder*/config.json"):
        (tmp_path / file.parent.name).mkdir()
        (tmp_path / file.parent.name / file.name).write_bytes(file.read_bytes())
    with torch.device("meta"):
        shapes = pyramid_flow_text(str(tmp_path), release.name, dtype="float32")
    wanted = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
    assert {name: tensor.shape for name, tensor in shapes.state_dict().items()} == wanted


def one_sentence(error: pytest.ExceptionInfo[InputError]) -> bool:
    return "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2"])
def test_missing_folder(miniflux: Path, missing: str):
    (miniflux / missing).rename(miniflux / "elsewhere")
    with pytest.raises(InputError, match=rf"'{missing}'") as error:
        PyramidFlowTextFolder(str(miniflux))
    assert one_sentence(error)


def test_wrong_variant(miniflux: Path, tmp_path: Path):
    write_sd3_text(tmp_path / "sd3")
    with pytest.raises(InputError, match=r"text_encoder_2/config.json.*'clip_text_model'.*set variant to sd3"):
        PyramidFlowTextFolder(str(tmp_path / "sd3"), "miniflux")
    with pytest.raises(InputError, match=r"text_encoder_2/config.json.*'t5'.*set variant to miniflux"):
        PyramidFlowTextFolder(str(miniflux), "sd3")
    with torch.device("meta"), pytest.raises(InputError, match="set variant to sd3"):
        PyramidFlowTextFolder(SD3, "miniflux")
    with pytest.raises(InputError, match="encoders names 1 folders"):
        PyramidFlowTextFolder(str(miniflux), encoders=["text_encoder"])


@pytest.mark.parametrize("file", ["text_encoder/model.safetensors", "text_encoder_2/model-00002-of-00002.safetensors"])
def test_truncated_and_missing_weights(miniflux: Path, file: str):
    content = (miniflux / file).read_bytes()
    for damaged in (content[: len(content) // 2], b""):
        (miniflux / file).write_bytes(damaged)
        with pytest.raises(InputError, match=r"weights in '.*text_encoder.*cannot be loaded") as error:
            pyramid_flow_text(str(miniflux))
        assert one_sentence(error)
    (miniflux / file).unlink()
    with pytest.raises(InputError, match=rf"{file}.* is missing"):
        pyramid_flow_text(str(miniflux))


def test_weights_that_lack_a_tensor(miniflux: Path):
    from safetensors.torch import load_file, save_file

    file = miniflux / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    del weights["text_model.final_layer_norm.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"lack 1 tensors such as .*final_layer_norm.weight"):
        pyramid_flow_text(str(miniflux))


@pytest.mark.parametrize("file", ["text_encoder_2/model.safetensors.index.json", "text_encoder/config.json"])
def test_damaged_json(miniflux: Path, file: str):
    (miniflux / file).write_text("{")
    with pytest.raises(InputError, match=file) as error:
        pyramid_flow_text(str(miniflux))
    assert one_sentence(error)


def test_damaged_and_missing_tokenizer_files(miniflux: Path):
    (miniflux / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(InputError, match=r"tokenizer' lacks vocab.json or merges.txt"):
        pyramid_flow_text(str(miniflux))
    write_miniflux_text(miniflux)
    (miniflux / "tokenizer_2" / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer in '.*tokenizer_2' cannot be loaded") as error:
        pyramid_flow_text(str(miniflux))
    assert one_sentence(error)
    for name in ("tokenizer.json", "spiece.model"):
        (miniflux / "tokenizer_2" / name).unlink()
    with pytest.raises(InputError, match=r"lacks tokenizer.json and spiece.model"):
        pyramid_flow_text(str(miniflux))


def test_spiece_model_without_the_package_that_reads_it(miniflux: Path, monkeypatch: pytest.MonkeyPatch):
    (miniflux / "tokenizer_2" / "tokenizer.json").unlink()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"spiece.model' needs the package sentencepiece: pip install sentencepiece"):
        pyramid_flow_text(str(miniflux))


def test_tokenizer_and_encoder_of_different_vocabularies(miniflux: Path):
    file = miniflux / "tokenizer" / "vocab.json"
    vocabulary = json.loads(file.read_text())
    file.write_text(json.dumps(vocabulary | {"extra": len(vocabulary)}))
    with pytest.raises(InputError, match=r"knows 561 tokens, but its encoder 560"):
        pyramid_flow_text(str(miniflux))
