"""WER and CER: how much of what a clip was to say is understood of its sound.

Metrics specification, section 10.
"""

from __future__ import annotations

from typing import ClassVar

from components.contracts import Generation
from components.errors import InputError
from components.metrics.scorers import ClipScores
from components.metrics.sound.clip_sound import generated_sound, level_dbfs
from components.metrics.sound.frozen import SoundScorer
from components.metrics.speech.edit_distance import edit_distance
from components.metrics.speech.recogniser import SpeechRecogniser
from components.metrics.speech.spoken_text import language_code, letters, words


class WordErrors(SoundScorer):
    """``wer`` and ``cer``: words and letters that are wrong, missing or too many, per one of the transcript.

    In languages without spaces between words (Chinese, Japanese, Thai ...) both count letters, as is usual. Each is 1
    at most, so that one clip that babbles does not outweigh the others. ``wer_errors`` and ``wer_words`` are the counts
    behind ``wer`` without that limit: the ratio of their means is the error rate of the whole text (``wer_corpus``),
    exactly so where every recording gives as many clips.

    A sound below ``silence_dbfs`` has said nothing and is not given to the recogniser, which would invent words: its
    rates are 1. A clip whose transcript has no words counts as ``no_transcript``.

    Args:
        recogniser: writes down what is said.
        language: of transcripts whose clip does not say it; None leaves it to the recogniser.
        silence_dbfs: root mean square, in decibels below full scale, under which nothing is said.

    Raises:
        InputError: if ``silence_dbfs`` is not negative.
    """

    higher_is_better: ClassVar = {"wer": False, "cer": False, "wer_errors": False, "wer_words": True}

    def __init__(self, recogniser: SpeechRecogniser, language: str | None = None, silence_dbfs: float = -50.0) -> None:
        super().__init__()
        if not silence_dbfs < 0:
            raise InputError(f"WordErrors.silence_dbfs is {silence_dbfs}; give a level below 0, full scale")
        self.recogniser, self.language, self.silence_dbfs = recogniser, language, silence_dbfs
        self.eval().requires_grad_(False)

    def score_clip(self, generation: Generation, row: int) -> ClipScores:
        """``wer``, ``cer`` and the counts of clip ``row``."""
        transcripts = generation.reference.transcripts
        language = self._language_of(generation, row)
        spelling = self.recogniser.english_spelling
        wanted = words(transcripts[row], language, spelling) if transcripts is not None else []
        if not wanted:
            return ClipScores(problem="no_transcript")
        sound = generated_sound(generation, row, self.recogniser.sample_rate)
        said = ""
        if level_dbfs(sound) >= self.silence_dbfs:
            try:
                said = self.recogniser.transcribe(sound, language)
            except InputError as error:
                raise InputError(f"clip '{generation.reference.ids[row]}': {error}") from None
        heard = words(said, language, spelling)
        wrong, wrong_letters = edit_distance(heard, wanted), edit_distance(letters(heard), letters(wanted))
        return ClipScores(
            {
                "wer": min(1.0, wrong / len(wanted)),
                "cer": min(1.0, wrong_letters / len(letters(wanted))),
                "wer_errors": float(wrong),
                "wer_words": float(len(wanted)),
            }
        )

    def _language_of(self, generation: Generation, row: int) -> str:
        languages = generation.reference.languages
        said = languages[row] if languages is not None else ""
        return language_code(said or self.language or "")

    def identity(self) -> dict[str, object]:
        """The recogniser and the settings."""
        return {**self.recogniser.identity(), "language": self.language, "silence_dbfs": self.silence_dbfs}
