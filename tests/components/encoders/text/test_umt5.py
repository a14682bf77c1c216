"""Wan's scene text: the same features as diffusers' pipeline, stored without padding and padded again."""

import json
from pathlib import Path

import pytest
import torch

from components.encoders.text.cached import CachedText
from components.encoders.text.rows import split_rows, stack_rows
from components.encoders.text.umt5 import WAN22, WanTextFolder, clean, umt5_text
from components.errors import InputError
from components.weights.identity import identity_of
from tests.public_folders.transcripts import write_wan_text

PROMPTS = ["the dog barks", "", "a lion  roars &amp;amp; the hammer strikes wood slowly\n", "the dog barks"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    write_wan_text(folder)
    return folder


def test_the_same_as_the_pipeline(release: Path):
    from diffusers import WanPipeline
    from transformers import T5Tokenizer, UMT5EncoderModel

    model = UMT5EncoderModel.from_pretrained(release / "text_encoder", dtype=torch.float32)
    tokenizer = T5Tokenizer.from_pretrained(release / "tokenizer")
    pipeline = WanPipeline.__new__(WanPipeline)
    pipeline.tokenizer, pipeline.text_encoder = tokenizer, model
    with torch.no_grad():
        theirs = WanPipeline._get_t5_prompt_embeds(
            pipeline, [clean(p) for p in PROMPTS], max_sequence_length=512, device=torch.device("cpu")
        )
    encoder = umt5_text(str(release), dtype="float32")
    mine = encoder(PROMPTS)
    assert mine.tokens.shape == (4, 512, 32) and mine.pooled is None and encoder.pooled_dim == 0
    torch.testing.assert_close(mine.tokens, theirs, atol=1e-5, rtol=1e-4)
    assert not mine.tokens[~mine.mask].any()
    assert mine.mask.sum(dim=1).tolist() == [len(ids) for ids in tokenizer([clean(p) for p in PROMPTS]).input_ids]
    # trimmed for storage, padded again
    assert torch.equal(stack_rows(split_rows(mine), 512).tokens, mine.tokens)


def test_prompts_do_not_see_each_other(release: Path):
    encoder = umt5_text(str(release), dtype="float32")
    together = encoder(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(encoder([prompt]).tokens[0], together.tokens[row], atol=1e-5, rtol=1e-4)
    encoder.train()
    assert not encoder.training and not encoder.t5.model.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(PROMPTS).tokens, together.tokens)


def test_cached_without_the_zeros(release: Path, tmp_path: Path):
    source = WanTextFolder(str(release), dtype="float32")
    cached = CachedText(source, str(tmp_path), pad_to=512)
    first = cached(PROMPTS)
    again = CachedText(WanTextFolder(str(release), dtype="float32"), str(tmp_path), pad_to=512)
    assert torch.equal(again(PROMPTS).tokens, first.tokens) and not again.is_loaded
    torch.testing.assert_close(first.tokens, source.load()(PROMPTS).tokens, atol=1e-5, rtol=1e-4)
    assert max(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) < 10_000
    assert identity_of(source.load()).sha256 == identity_of(cached).sha256


def test_long_prompts_are_cut_as_wan_cuts_them(release: Path):
    encoder = umt5_text(str(release), dtype="float32", max_length=6)
    with pytest.warns(UserWarning, match="reads 6 tokens"):
        features = encoder(["a lion roars and the dog barks slowly"])
    assert features.mask.sum() == 6


def test_public_size():
    with torch.device("meta"):
        encoder = WanTextFolder(WAN22).load()
    assert encoder.dim == 4096
    assert sum(parameter.numel() for parameter in encoder.parameters()) == pytest.approx(5.681e9, rel=1e-3)
    with pytest.raises(InputError, match="meta device"):
        encoder(["the dog barks"])


def test_bad_folders_are_told(release: Path, tmp_path: Path):
    with pytest.raises(InputError, match="was not found"):
        WanTextFolder(str(tmp_path / "absent"))
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 8}))
    with pytest.raises(InputError, match="type 't5'"):
        WanTextFolder(str(tmp_path))
    write_wan_text(tmp_path)
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="tokenizer in"):
        umt5_text(str(tmp_path))
