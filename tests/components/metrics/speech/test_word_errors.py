"""Word and character error rates with values by hand, per language; silence; clips without transcript."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from components.errors import InputError
from components.metrics.speech.edit_distance import edit_distance
from components.metrics.speech.recogniser import SpeechRecogniser
from components.metrics.speech.spoken_text import language_code, letters, words
from components.metrics.speech.word_errors import WordErrors
from tests.components.metrics.generations import noise, sounding


class Says(SpeechRecogniser):
    """Hears one of these texts: the one whose number the sound's first sample gives in tenths."""

    sample_rate = 16000
    english_spelling: Mapping[str, str] = {"colour": "color"}

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.texts, self.asked = texts, list[str]()

    def transcribe(self, sound: Tensor, language: str) -> str:
        self.asked.append(language)
        if language == "xx":
            raise InputError("the language 'xx' is none that is known; correct it")
        return self.texts[round(float(sound[0]) * 10)]

    def identity(self) -> dict[str, object]:
        return {"recogniser": "says"}


def sounds(count: int) -> Tensor:
    """``[count, 1600]``: clip n begins with n tenths."""
    result = torch.full((count, 1600), 0.1)
    result[:, 0] = torch.arange(count) / 10
    return result


@pytest.mark.parametrize(
    ("given", "wanted", "distance"),
    [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_edit_distance(given: str, wanted: str, distance: int):
    assert edit_distance(given, wanted) == distance == edit_distance(wanted, given)


@pytest.mark.parametrize(
    ("text", "language", "counted"),
    [
        ("Well, um, I'm twenty-five!", "en", ["well", "i", "am", "25"]),
        ("My favourite colour [laughs]", "en", ["my", "favourite", "color"]),
        ("Guten Tag, Herr Müller!", "de", ["guten", "tag", "herr", "müller"]),
        ("你好，世界。", "zh", ["你", "好", "世", "界"]),
        ("そうです", "ja", ["そ", "う", "で", "す"]),
        ("Hello There", "", ["hello", "there"]),
        ("...", "en", []),
    ],
)
def test_what_is_counted(text: str, language: str, counted: list[str]):
    assert words(text, language, {"colour": "color"}) == counted


def test_letters_and_codes():
    assert letters(["ab", "c"]) == ["a", "b", "c"]
    assert [language_code(text) for text in ("en", "EN-us", " zh_Hans", "")] == ["en", "en", "zh", ""]


def test_rates_by_hand():
    said = ["the cat sat", "the bat sat down", "", "a b c d e f g h", "The Cat, sat!"]
    scorer = WordErrors(Says(*said))
    generation = sounding(sounds(5), 16000, transcripts=["the cat sat"] * 5, languages=["en"] * 5)
    values = [scores.values for scores in scorer.score(generation, range(5))]
    # nothing wrong; one replaced and one too many; all missing; more wrong than there are; case and commas
    assert [value["wer_errors"] for value in values] == [0, 2, 3, 8, 0]
    assert [value["wer"] for value in values] == pytest.approx([0, 2 / 3, 1, 1, 0])
    # thecatsat: 9 letters; one replaced and four added
    assert [value["cer"] for value in values][:3] == pytest.approx([0, 5 / 9, 1])
    assert all(value["wer_words"] == 3 for value in values)
    assert set(values[0]) == set(scorer.higher_is_better)


def test_chinese_counts_letters():
    scorer = WordErrors(Says("你好世界", "你好是界了"))
    generation = sounding(sounds(2), 16000, transcripts=["你好，世界"] * 2, languages=["zh"] * 2)
    values = [scores.values for scores in scorer.score(generation, [0, 1])]
    assert [(value["wer"], value["cer"]) for value in values] == [(0, 0), (0.5, 0.5)]


def test_a_silent_clip_has_said_nothing():
    recogniser = Says("thank you for watching")
    quiet = torch.zeros(2, 1600)
    quiet[1] = 10 ** (-49 / 20)  # -49 dBFS
    quiet[0] = 10 ** (-51 / 20)
    quiet[:, 0] = 0
    generation = sounding(quiet, 16000, transcripts=["thank you for watching"] * 2, languages=["en"] * 2)
    silent, heard = WordErrors(recogniser).score(generation, [0, 1])
    assert silent.values["wer"] == silent.values["cer"] == 1 and heard.values["wer"] == 0
    assert recogniser.asked == ["en"], "a recogniser is not asked about silence: it invents words"
    strict = WordErrors(recogniser, silence_dbfs=-40)
    assert (
        strict.score(generation, [1])[0].values["wer"] == 1 and strict.identity() != WordErrors(recogniser).identity()
    )


def test_the_clips_language_goes_before_the_argument():
    recogniser = Says("hallo", "hallo", "hallo")
    generation = sounding(sounds(3), 16000, transcripts=["hallo"] * 3, languages=["de-AT", "", "NL"])
    WordErrors(recogniser, language="en").score(generation, [0, 1, 2])
    assert recogniser.asked == ["de", "en", "nl"]
    unsaid = sounding(sounds(1), 16000, transcripts=["hallo"])
    WordErrors(recogniser).score(unsaid, [0])
    assert recogniser.asked[-1] == ""


def test_problems_and_refusals():
    scorer = WordErrors(Says("a", "b"))
    assert scorer.score(sounding(sounds(1), 16000), [0])[0].problem == "no_transcript"
    some = sounding(sounds(2), 16000, transcripts=["", "b"])
    assert [scores.problem for scores in scorer.score(some, [0, 1])] == ["no_transcript", None]
    wrong = sounding(sounds(1), 16000, transcripts=["a"], languages=["xx"])
    with pytest.raises(InputError, match="clip 'clip0': the language 'xx'"):
        scorer.score(wrong, [0])
    with pytest.raises(InputError, match="silence_dbfs is 3"):
        WordErrors(Says("a"), silence_dbfs=3)


def test_the_recogniser_gets_its_own_rate():
    class Rate(Says):
        def transcribe(self, sound: Tensor, language: str) -> str:
            assert len(sound) == 16000
            return "a"

    generation = sounding(noise(1.0, 44100)[None], 44100, transcripts=["a"])
    assert WordErrors(Rate()).score(generation, [0])[0].values["wer"] == 0
