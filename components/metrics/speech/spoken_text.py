"""Transcripts made comparable: only what can be heard of them counts, and of languages without word spaces letters do.

Whisper's own rules (Radford et al., arXiv 2212.04356, appendix C), through transformers: English loses fillers and
contractions and gets one spelling, and numbers become digits; other languages lose case, punctuation and brackets.
"""

from __future__ import annotations

from collections.abc import Mapping

UNSPACED = frozenset({"ja", "km", "lo", "my", "th", "yue", "zh"})
"""Languages that are written without spaces between words: their word error rate counts letters."""


def language_code(language: str) -> str:
    """``en`` of ``en``, ``EN`` or ``en-US``; the empty string of an unknown language."""
    return language.strip().lower().replace("_", "-").partition("-")[0]


def words(text: str, language: str, english_spelling: Mapping[str, str]) -> list[str]:
    """What is counted of a text: words, or letters in a language without word spaces.

    Args:
        text: as written or as recognised.
        language: its code (see `language_code`), or the empty string.
        english_spelling: American spellings of British ones (a Whisper's ``normalizer.json``).
    """
    # imported here because transformers is slow to import
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    if language == "en":
        plain = EnglishTextNormalizer(dict(english_spelling))(text)
    else:
        plain = BasicTextNormalizer(split_letters=language in UNSPACED)(text)
    # the rule for English leaves full stops in case a number follows
    return [word for word in str(plain).split() if any(map(str.isalnum, word))]


def letters(counted: list[str]) -> list[str]:
    """The letters of what `words` gives, without spaces."""
    return list("".join(counted))
