"""Clips of speech with their transcripts and reference voices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from components.errors import InputError
from datamodules.clip_dataset import Clip, ClipDataset, sample_generator
from datamodules.clip_format import ClipFormat
from datamodules.consumed_sampler import SampleKey
from datamodules.record_reader import Cut
from datamodules.records import ClipRecord
from datamodules.reference_voices import ReferenceVoices

# A row may be this much longer than a clip and its transcript still hold: the pauses at its ends.
MAX_UNHEARD_S = 0.5


class SpeechDataset(ClipDataset):
    """A ``ClipDataset`` whose clips carry references and whose transcripts fit the clips.

    Args:
        records: the recordings.
        form: what every clip looks like.
        clipping: see ``ClipDataset``.
        voices: where references come from, or None for none. In training the choice depends on the seed and the
            sample's position alone, in evaluation it is always the same.
        partial_transcripts: what becomes of the transcript of a recording more than ``MAX_UNHEARD_S`` longer than a
            clip, which says more than is heard: "error", "drop" or "keep".
        **options: see ``ClipDataset``.
    """

    def __init__(
        self,
        records: Sequence[ClipRecord],
        form: ClipFormat,
        clipping: Literal["random", "fixed"],
        voices: ReferenceVoices | None = None,
        partial_transcripts: Literal["error", "drop", "keep"] = "error",
        **options: Any,
    ) -> None:
        super().__init__(records, form, clipping, **options)
        self.voices, self.partial_transcripts = voices, partial_transcripts

    def _clip(self, index: int, part: int, key: SampleKey, valid: bool) -> Clip:
        clip = super()._clip(index, part, key, valid)
        if self.voices is None:
            return clip
        generator = sample_generator(self.seed, key, purpose=2) if self.clipping == "random" else None
        reference, length = self.voices.draw(self.records[index], generator)
        return replace(clip, reference=reference, reference_length=length)

    def _transcript(self, record: ClipRecord, cut: Cut) -> tuple[str | None, float]:
        if record.transcript is None or self.partial_transcripts == "keep":
            return record.transcript, 0.0
        duration_s = len(cut.audio) / self.form.sample_rate
        spoken_s = cut.usable_s - MAX_UNHEARD_S
        if spoken_s <= duration_s:
            return record.transcript, spoken_s
        if self.partial_transcripts == "drop":
            return None, 0.0
        raise InputError(
            f"{record.id} lasts {cut.usable_s:.3f} s, a clip {duration_s:.3f} s, so its transcript says more"
            " than is heard; cut the row, ask for more frames, or set partial_transcripts to drop or keep"
        )
