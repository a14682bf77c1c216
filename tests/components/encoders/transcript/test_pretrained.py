"""Transcript encoders: the same states as transformers gives, limits that name the clip, features without weights."""

from pathlib import Path

import pytest
import torch

from components.encoders.transcript.cached import CachedTranscript, TranscriptFolder
from components.encoders.transcript.characters import CharacterTranscript
from components.encoders.transcript.pretrained import ByT5Transcript, SpeechT5Transcript
from components.errors import InputError
from components.weights.identity import identity_of
from tests.public_folders.transcripts import write_byt5, write_speecht5

SAID = ["the quick fox", "", "it's here.", "the quick fox"]


@pytest.fixture(scope="module")
def byt5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("byt5")
    write_byt5(folder)
    return folder


@pytest.fixture(scope="module")
def speecht5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speecht5")
    write_speecht5(folder)
    return folder


def test_byt5_gives_what_transformers_gives(byt5: Path):
    from transformers import T5ForConditionalGeneration

    model = T5ForConditionalGeneration.from_pretrained(byt5).eval()
    encoder = ByT5Transcript(str(byt5), dtype="float32")
    found = encoder(["Grüß Gott"])
    ids = torch.tensor([[*(byte + 3 for byte in "Grüß Gott".encode()), 1]])
    with torch.no_grad():
        torch.testing.assert_close(found.tokens, model.encoder(ids).last_hidden_state)
    assert found.tokens.shape == (1, 12, encoder.dim) and found.pooled is None and encoder.pooled_dim == 0
    assert len(identity_of(encoder).sha256) == 64 and identity_of(encoder).name == str(byt5)


def test_speecht5_gives_what_transformers_gives(speecht5: Path):
    from transformers import SpeechT5ForTextToSpeech, SpeechT5Tokenizer

    model = SpeechT5ForTextToSpeech.from_pretrained(speecht5).eval()
    encoder = SpeechT5Transcript(str(speecht5), max_characters=40)
    ids = SpeechT5Tokenizer.from_pretrained(speecht5)("it's here.", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model.speecht5.encoder(ids).last_hidden_state
    torch.testing.assert_close(encoder(["it's here."]).tokens, expected)
    with pytest.raises(InputError, match="at most 58"):
        SpeechT5Transcript(str(speecht5), max_characters=100)


@pytest.mark.parametrize("kind", ["byt5", "speecht5"])
def test_frozen_encoders(kind: str, request: pytest.FixtureRequest):
    folder = str(request.getfixturevalue(kind))
    encoder = (
        ByT5Transcript(folder, dtype="float32") if kind == "byt5" else SpeechT5Transcript(folder, max_characters=40)
    )
    found = encoder(SAID)
    assert found.mask.sum(dim=1).tolist() == [len(encoder.ids_of(text)) for text in SAID]
    assert torch.equal(found.tokens[0], found.tokens[3]) and found.mask[1].any(), "the null transcript is its end token"
    assert not found.tokens[~found.mask].any()
    for row, text in enumerate(SAID):
        alone = encoder([text]).tokens[0]
        torch.testing.assert_close(found.tokens[row, : len(alone)], alone, atol=1e-5, rtol=1e-4)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(SAID).tokens, found.tokens)


def test_too_long_transcripts_name_their_clip(byt5: Path, speecht5: Path):
    text = "é" * 5
    refusing = ByT5Transcript(str(byt5), max_bytes=7, dtype="float32")
    with pytest.raises(InputError, match=r"clip 'b' has 10 bytes but at most 7") as raised:
        refusing(["ok", text], ["a", "b"])
    assert "truncate" in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(InputError, match="the transcript has 10 bytes"):
        refusing(["ok", text])
    cutting = ByT5Transcript(str(byt5), max_bytes=7, on_too_long="truncate", dtype="float32")
    assert torch.equal(cutting([text]).tokens, cutting(["é" * 3]).tokens)
    with pytest.raises(InputError, match="clip 'a' has 13 characters but at most 12"):
        SpeechT5Transcript(str(speecht5), max_characters=12)(SAID, "abcd")
    with pytest.raises(InputError, match="clip 'a' has 13 characters but at most 12"):
        CharacterTranscript(max_characters=12)(SAID, "abcd")
    assert CharacterTranscript(max_characters=12, on_too_long="truncate")(SAID).tokens.shape[1] == 12


def test_characters_without_weights():
    encoder = CharacterTranscript(dim=64)
    found = encoder(["Hello", "", "oh"])
    assert found.tokens.shape == (3, 5, 64) and found.mask.sum(dim=1).tolist() == [5, 1, 2]
    assert not found.tokens[1].any() and not found.tokens[2, 2:].any()
    assert torch.equal(CharacterTranscript(dim=64)(["hello"]).tokens[0], found.tokens[0]), "case does not matter"
    assert not torch.allclose(encoder(["hlelo"]).tokens, found.tokens[:1]), "order does"
    same = found.tokens[0, 2] - found.tokens[0, 3]  # l and l differ by their places alone
    torch.testing.assert_close(same, (encoder.positions[2] - encoder.positions[3]) / 2**0.5)
    long = encoder(["the quick brown fox jumps over the lazy dog"]).tokens
    assert long.square().mean().item() == pytest.approx(1.0, abs=0.15)
    assert encoder(SAID, ["a", "b", "c", "d"]).tokens.shape[:2] == (4, 13)
    with pytest.raises(InputError, match="dim is 7"):
        CharacterTranscript(dim=7)


def test_characters_can_be_read_back():
    """A linear map from tokens to characters exists: nothing of the spelling is lost."""
    encoder = CharacterTranscript(dim=64)
    text = "abcdefghijklmnopqrstuvwxyz" * 3
    tokens = encoder([text]).tokens[0]
    classes = torch.nn.functional.one_hot(torch.tensor([ord(c) - ord("a") for c in text])).float()
    solution = torch.linalg.lstsq(tokens, classes).solution
    assert ((tokens @ solution).argmax(dim=1) == classes.argmax(dim=1)).float().mean() > 0.95


def test_public_sizes():
    with torch.device("meta"):
        small, base = ByT5Transcript(), ByT5Transcript("google/byt5-base")
        speech = SpeechT5Transcript()
    sizes = [sum(parameter.numel() for parameter in encoder.parameters()) for encoder in (small, base, speech)]
    assert [round(size / 1e6) for size in sizes] == [218, 415, 85]
    assert (small.dim, base.dim, speech.dim) == (1472, 1536, 768)
    with pytest.raises(InputError, match="on the meta device"):
        small(["hello"])


@pytest.mark.parametrize("kind", ["byt5", "speecht5"])
def test_cached_transcripts(kind: str, request: pytest.FixtureRequest, tmp_path: Path):
    folder = str(request.getfixturevalue(kind))
    source = TranscriptFolder(folder, kind, limit=20, dtype="float32")
    first = CachedTranscript(source, str(tmp_path))
    expected = source.load()(SAID)
    found = first(SAID)
    assert first.dim == source.dim == expected.tokens.shape[-1]
    torch.testing.assert_close(found.tokens, expected.tokens, atol=1e-5, rtol=1e-4)
    assert torch.equal(found.mask, expected.mask)
    again = CachedTranscript(TranscriptFolder(folder, kind, limit=20, dtype="float32"), str(tmp_path))
    assert torch.equal(again(SAID).tokens, found.tokens) and not again.cached.is_loaded
    with pytest.raises(InputError, match="clip 'b' has 21"):
        again(["a", "b" * 21], ["a", "b"])
    cutting = TranscriptFolder(folder, kind, limit=20, on_too_long="truncate", dtype="float32")
    cut = CachedTranscript(cutting, str(tmp_path))
    assert torch.equal(cut(["b" * 21]).tokens, again(["b" * 20]).tokens)
    with torch.device("meta"):
        assert TranscriptFolder("google/byt5-small").dim == 1472
        assert TranscriptFolder("microsoft/speecht5_tts", "speecht5").dim == 768
