"""What a clip's sound is to be like: another utterance of the same voice, or a piece of the clip itself.

Source: Harmony (arXiv 2511.21579), supplement. Stage 1 takes a random segment of 1 to 3 s of the target clip itself;
stages 2 and 3 another utterance of the speaker, or another piece of a long recording of other sounds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from components.errors import InputError
from components.media.sound_reader import SoundReader
from datamodules.reading.records import ClipRecord

_log = logging.getLogger("avsync.data")


class ReferenceVoices:
    """Finds and reads the reference sound of a record.

    A record that names a reference file gets that one. Otherwise the reference is the sound of another record of the
    same speaker: a random one where a generator is given, else the next one in the list's order. Records that are cut
    from the same part of the same file are not another utterance. A record without speaker, or whose speaker has no
    other utterance, has no reference.

    An utterance longer than the slot is cut: to a random part of it where a generator is given, else to its beginning.

    Args:
        records: all records of the split.
        reference_s: length of the slot in seconds.
        sample_rate: samples per second of the references.
        long_references: "cut" or "error" for utterances longer than the slot.
        on_corrupt: "error" ends the run at an utterance that cannot be used, "skip" reports it and takes another one.
        cache: keep what was read in memory; utterances that fit the slot are then read once.
        skip_mute: pass over files without sound track, also where ``on_corrupt`` is "error".

    Raises:
        InputError: the slot's length is not positive.
    """

    def __init__(
        self,
        records: Sequence[ClipRecord],
        reference_s: float,
        sample_rate: int,
        long_references: Literal["cut", "error"] = "cut",
        on_corrupt: Literal["error", "skip"] = "error",
        cache: bool = False,
        skip_mute: bool = False,
    ) -> None:
        if not 0 < reference_s < float("inf"):
            raise InputError(f"reference_s is {reference_s}; it must be positive, or null for no references")
        self.num_samples, self.sample_rate = round(reference_s * sample_rate), sample_rate
        self.long_references, self.on_corrupt, self._skips_mute = long_references, on_corrupt, skip_mute
        self._voices: dict[str, list[ClipRecord]] = {}
        self._places: dict[str, int] = {}
        for record in records:
            if record.speaker is not None:
                voice = self._voices.setdefault(record.speaker, [])
                self._places[record.id] = len(voice)
                voice.append(record)
        self._unusable: set[str] = set()
        self._kept: dict[tuple[Path, tuple[float, float] | None], tuple[Tensor, int]] | None = {} if cache else None

    def draw(self, record: ClipRecord, generator: np.random.Generator | None) -> tuple[Tensor, int]:
        """The reference of a record: float32 ``[S_ref]`` in [-1, 1], zeros after its end, and its samples (0: none).

        Raises:
            InputError: the utterance cannot be read, or is too long where that is an error.
        """
        # drawn first, so that a skipped utterance does not change where the next one is cut
        place = 0.0 if generator is None else float(generator.uniform())
        if record.reference is not None:
            with _blamed_on_the_reference():
                return self._read(record.reference, None, place)
        for other in self._others(record, generator):
            try:
                return self._read(other.sound or other.path, other.span_s, place)
            except InputError as reason:
                if self.on_corrupt == "error" and not (self._skips_mute and reason.fault == "without sound"):
                    with _blamed_on_the_reference():
                        raise
                self._unusable.add(other.id)
                _log.warning("skipped unusable reference: %s", reason)
        return torch.zeros(self.num_samples), 0

    def _others(self, record: ClipRecord, generator: np.random.Generator | None) -> Iterator[ClipRecord]:
        """The speaker's other utterances, in the order in which to try them."""
        if record.speaker is None:
            return
        voice = self._voices[record.speaker]
        following = self._places[record.id] + 1
        order = range(following, following + len(voice)) if generator is None else generator.permutation(len(voice))
        for index in order:
            other = voice[index % len(voice)]
            if other.id not in self._unusable and not _share_sound(record, other):
                yield other

    def _read(self, path: Path, span_s: tuple[float, float] | None, place: float) -> tuple[Tensor, int]:
        if self._kept is not None and (path, span_s) in self._kept:
            return self._kept[path, span_s]
        slot_s = self.num_samples / self.sample_rate
        with SoundReader(path) as sound:
            begin_s, end_s = max(0.0, sound.span_s[0]), sound.span_s[1]
            if span_s is not None:
                begin_s, end_s = max(begin_s, span_s[0]), min(end_s, span_s[1])
            # coded tracks end at a multiple of their block, so a length is known to some milliseconds
            if self.long_references == "error" and end_s - begin_s > slot_s + 0.05:
                raise InputError(
                    f"the reference {path} lasts {end_s - begin_s:.3f} s, longer than reference_s = {slot_s:.3f};"
                    " lengthen the slot or set long_references to cut"
                )
            length = min(self.num_samples, int((end_s - begin_s) * self.sample_rate))
            if length < 1:
                raise InputError(f"the reference {path} has no sound in its span; correct or remove its row")
            # the slot moves within the utterance; 0 where it does not fit
            start_s = begin_s + place * max(0.0, end_s - begin_s - slot_s)
            samples = sound.read(start_s, length, self.sample_rate)
        found = pad(samples, (0, self.num_samples - length)), length
        if self._kept is not None and end_s - begin_s <= slot_s:  # else every draw is another part of it
            self._kept[path, span_s] = found
        return found


@contextmanager
def _blamed_on_the_reference() -> Iterator[None]:
    """What a reference lacks is no fault of the recording: that is not short or mute for it."""
    try:
        yield
    except InputError as error:
        error.fault = "unreadable"
        raise


def own_segment(sound: Tensor, slot: int, shortest: int, generator: np.random.Generator | None) -> tuple[Tensor, int]:
    """A piece of a clip's own sound: ``[slot]``, zeros after its end, and its samples.

    Args:
        sound: the clip's sound ``[S]`` without padding.
        slot: samples of the longest piece.
        shortest: samples of the shortest piece; a clip that is shorter gives all of itself.
        generator: draws length and place, each evenly; None takes the first ``slot`` samples.
    """
    longest = min(slot, len(sound))
    length, start = longest, 0
    if generator is not None:
        length = int(generator.integers(min(shortest, longest), longest + 1))
        start = int(generator.integers(len(sound) - length + 1))
    return pad(sound[start : start + length], (0, slot - length)), length


def _share_sound(one: ClipRecord, other: ClipRecord) -> bool:
    """True if two records (or the same one twice) hold the same seconds of one file."""
    if one.id == other.id:
        return True
    if (one.sound or one.path) != (other.sound or other.path):
        return False
    if one.span_s is None or other.span_s is None:
        return True
    return one.span_s[0] < other.span_s[1] and other.span_s[0] < one.span_s[1]
