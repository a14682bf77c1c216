"""Whisper as a recogniser against the library's own generation."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from components.errors import InputError
from components.metrics.speech.whisper import Whisper
from tests.components.metrics.generations import noise, tone
from tests.public_folders.audio_models import write_speech_recogniser


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_speech_recogniser(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def whisper(folder: Path) -> Whisper:
    return Whisper(str(folder), max_tokens=12)


@pytest.mark.parametrize("language", ["en", "zh", ""])
def test_texts_are_the_librarys(folder: Path, whisper: Whisper, language: str):
    sound = noise(2.0, 16000)
    fed = WhisperFeatureExtractor.from_pretrained(folder)(sound.numpy(), sampling_rate=16000, return_tensors="pt")
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    asked = {"language": language or None, "task": "transcribe"}
    tokens = model.generate(fed.input_features, max_new_tokens=12, do_sample=False, **asked)
    wanted = AutoTokenizer.from_pretrained(folder).batch_decode(tokens, skip_special_tokens=True)[0].strip()
    assert whisper.transcribe(sound, language) == wanted
    assert wanted and set(wanted) <= set("abcdefghijklmnopqrstuvwxyz ")


def test_what_is_heard_and_asked_for_matters(whisper: Whisper):
    texts = {whisper.transcribe(sound, "en") for sound in (noise(2.0, 16000), tone(300, 2.0, 16000, 0.9))}
    assert len(texts) == 2
    assert len({whisper.transcribe(noise(9.0, 16000, 2), language) for language in ("en", "zh")}) == 2


def test_long_sounds_are_heard_in_pieces(whisper: Whisper):
    sound = torch.cat([noise(20.0, 16000), tone(300, 20.0, 16000)])
    halves = [whisper.transcribe(half, "en") for half in sound.split(20 * 16000)]
    assert whisper.transcribe(sound, "en") == " ".join(filter(None, halves))


def test_spellings_and_identity(whisper: Whisper, folder: Path):
    assert whisper.english_spelling == {"colour": "color"} and whisper.sample_rate == 16000
    assert whisper.identity()["max_tokens"] == 12 and len(str(whisper.identity()["weights_sha256"])) == 64
    assert Whisper(str(folder), max_tokens=13).identity() != whisper.identity()


def test_public_size():
    with torch.device("meta"):
        whisper = Whisper()
    assert sum(p.numel() for p in whisper.parameters()) / 1e6 == pytest.approx(1543.5, abs=1)


def test_refusals(whisper: Whisper, folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match="language 'xx' is none that this Whisper knows"):
        whisper.transcribe(noise(1.0, 16000), "xx")
    with pytest.raises(InputError, match=r"max_tokens is 29; .* can write 1 to 28"):
        Whisper(str(folder), max_tokens=29)
    bare = write_speech_recogniser(tmp_path)
    (bare / "normalizer.json").unlink()
    with pytest.raises(InputError, match=r"normalizer.json' is absent or damaged"):
        Whisper(str(bare), max_tokens=12)
    (bare / "normalizer.json").write_text(json.dumps({}))
    (bare / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has no tokenizer.json and no vocab.json"):
        Whisper(str(bare), max_tokens=12)
