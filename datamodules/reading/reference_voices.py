"""What a clip's sound is to be like: another utterance of the same voice, or another piece of the recording.

Source: Harmony (arXiv 2511.21579), supplement. Stages 2 and 3 take another utterance of the speaker or, for other
sounds, a piece of the same long recording that does not overlap the clip, of 1 to 3 s; stage 1 takes a piece of the
clip itself (`reference_pieces.own_segment`).
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
from datamodules.reading.reference_pieces import PieceDraw, Span, parts_outside

_log = logging.getLogger("avsync.data")


class ReferenceVoices:
    """Finds and reads the reference sound of a record; the first of these that there is:

    1. the file that the record names;
    2. the sound of another record of the same speaker: a random one where a generator is given, else the next one in
       the list's order. Records that are cut from the same seconds of one file are no other utterance;
    3. where no speaker is named, or nothing is said (no transcript): a piece of the same recording (the record's own
       part of its file, or that of others with its ``video_id``) outside the clip.

    A record for which nothing is found has no reference; this is counted and said, or an error.

    An utterance longer than the slot is cut: to a random part of it where a generator is given, else to its beginning.
    With ``shortest_s`` and a generator its length is drawn too. A piece of the recording is at least ``shortest_s``
    long, or fills the slot.

    Args:
        records: all records of the split.
        reference_s: length of the slot in seconds.
        sample_rate: samples per second of the references.
        long_references: "cut" or "error" for utterances longer than the slot.
        on_corrupt: "error" ends the run at an utterance that cannot be used, "skip" reports it and takes another one.
        cache: keep what was read in memory; utterances that fit the slot are then read once.
        shortest_s: shortest reference that is drawn; None always fills the slot as far as the utterance reaches.
        missing: "none" leaves a record without reference where there is none, "error" ends the run.
        skip_mute: pass over files without sound track, also where ``on_corrupt`` is "error".
        audio_track: track of the recordings' files that is read, as for their clips; a file that a record names as its
            reference has its own default.

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
        shortest_s: float | None = None,
        missing: Literal["none", "error"] = "none",
        skip_mute: bool = False,
        audio_track: int | None = None,
    ) -> None:
        if not 0 < reference_s < float("inf"):
            raise InputError(f"reference_s is {reference_s}; it must be positive, or null for no references")
        self.num_samples, self.sample_rate = round(reference_s * sample_rate), sample_rate
        self.shortest = None if shortest_s is None else round(shortest_s * sample_rate)
        self.long_references, self.on_corrupt, self.missing = long_references, on_corrupt, missing
        self._skips_mute, self._audio_track = skip_mute, audio_track
        self._voices: dict[str, list[ClipRecord]] = {}
        self._recordings: dict[str, list[ClipRecord]] = {}
        self._places: dict[str, int] = {}
        for record in records:
            if record.speaker is not None:
                voice = self._voices.setdefault(record.speaker, [])
                self._places[record.id] = len(voice)
                voice.append(record)
            self._recordings.setdefault(record.video_id, []).append(record)
        self._indices = {record.id: index for index, record in enumerate(records)}
        # shared memory: the worker processes of a loader count together
        self._without = torch.zeros(len(records), dtype=torch.uint8).share_memory_()
        self._unusable: set[str] = set()
        self._kept: dict[tuple[Path, Span | None, int | None], tuple[Tensor, int]] | None = {} if cache else None

    @property
    def without_count(self) -> int:
        """Records met so far for which there is no reference."""
        return int(self._without.sum())

    def draw(
        self,
        record: ClipRecord,
        generator: np.random.Generator | None,
        clip_s: Span | None = None,
        is_mute: bool = False,
    ) -> tuple[Tensor, int]:
        """The reference of a record: float32 ``[S_ref]`` in [-1, 1], zeros after its end, and its samples (0: none).

        Args:
            record: whose reference it is.
            generator: draws which one, its place and its length; None always takes the same one.
            clip_s: begin and end in seconds of the clip, on the recording's clock: no piece of the recording is taken
                from there. None where no such piece is wanted.
            is_mute: the recording has no sound track, so that there is no piece of it; where nothing else is found,
                nothing is missed, as the sound of such a clip is never learnt.

        Raises:
            InputError: the utterance cannot be read, is too long where that is an error, or there is none where that is
                one.
        """
        # drawn first, so that a skipped utterance does not change where the next one is cut
        draw = PieceDraw.drawn(generator, self.shortest)
        if record.reference is not None:
            with _blamed_on_the_reference():
                return self._read(record.reference, None, draw, None)
        for other in self._others(record, generator):
            try:
                return self._read(_file(other), other.span_s, draw, self._audio_track)
            except InputError as reason:
                self._skip(other, reason)
        if is_mute:
            return torch.zeros(self.num_samples), 0
        if clip_s is not None and (record.speaker is None or record.transcript is None):
            for other in self._same_recording(record, generator):
                try:
                    found = self._piece(other, clip_s if _file(other) == _file(record) else None, draw)
                except InputError as reason:
                    self._skip(other, reason)
                    continue
                if found is not None:
                    return found
        self._note_missing(record)
        return torch.zeros(self.num_samples), 0

    def _skip(self, other: ClipRecord, reason: InputError) -> None:
        is_passed_over = self._skips_mute and reason.fault == "without sound"
        if self.on_corrupt == "error" and not is_passed_over:
            with _blamed_on_the_reference():
                raise reason
        self._unusable.add(other.id)
        if not is_passed_over:
            _log.warning("skipped unusable reference: %s", reason)

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

    def _same_recording(self, record: ClipRecord, generator: np.random.Generator | None) -> Iterator[ClipRecord]:
        """Records of the same recording, the record itself among them, in the order in which to try them."""
        parts = self._recordings.get(record.video_id, [])
        if generator is None:
            ordered = [record, *(part for part in parts if part.id != record.id)]
        else:
            ordered = [parts[index] for index in generator.permutation(len(parts))]
        yield from (part for part in ordered if part.id not in self._unusable)

    def _piece(self, record: ClipRecord, clip_s: Span | None, draw: PieceDraw) -> tuple[Tensor, int] | None:
        """A piece of a record's sound outside the clip, None if there is no room for one."""
        with SoundReader(_file(record), self._audio_track) as sound:
            parts = parts_outside(_within(sound.span_s, record.span_s), clip_s)
            room_s = max((end_s - begin_s for begin_s, end_s in parts), default=0.0)
            longest = min(self.num_samples, int(room_s * self.sample_rate))
            if longest < (self.shortest or self.num_samples):
                return None
            length = draw.length(self.shortest, longest)
            start_s = draw.start_s(parts, length / self.sample_rate)
            samples = sound.read(start_s, length, self.sample_rate)
        return pad(samples, (0, self.num_samples - length)), length

    def _read(self, path: Path, span_s: Span | None, draw: PieceDraw, track: int | None) -> tuple[Tensor, int]:
        """An utterance that fits the slot whole, or what was drawn of it."""
        if self._kept is not None and (path, span_s, track) in self._kept:
            return self._shortened(*self._kept[path, span_s, track], draw)
        slot_s = self.num_samples / self.sample_rate
        with SoundReader(path, track) as sound:
            begin_s, end_s = _within(sound.span_s, span_s)
            # coded tracks end at a multiple of their block, so a length is known to some milliseconds
            if self.long_references == "error" and end_s - begin_s > slot_s + 0.05:
                raise InputError(
                    f"the reference {path} lasts {end_s - begin_s:.3f} s, longer than reference_s = {slot_s:.3f};"
                    " lengthen the slot or set long_references to cut"
                )
            length = min(self.num_samples, int((end_s - begin_s) * self.sample_rate))
            if length < 1:
                raise InputError(f"the reference {path} has no sound in its span; correct or remove its row")
            fits = end_s - begin_s <= slot_s
            if fits:
                start_s = begin_s
            else:
                length = draw.length(self.shortest, length)
                start_s = draw.start_s([(begin_s, end_s)], length / self.sample_rate)
            samples = sound.read(start_s, length, self.sample_rate)
        found = pad(samples, (0, self.num_samples - length)), length
        if not fits:
            return found
        if self._kept is not None:  # of longer ones every draw is another part
            self._kept[path, span_s, track] = found
        return self._shortened(*found, draw)

    def _shortened(self, samples: Tensor, held: int, draw: PieceDraw) -> tuple[Tensor, int]:
        """What was drawn of an utterance ``[S_ref]`` that fits the slot, of which ``held`` samples are sound."""
        length = draw.length(self.shortest, held)
        if length == held:
            return samples, held
        start = min(int(draw.place * (held - length + 1)), held - length)
        return pad(samples[start : start + length], (0, self.num_samples - length)), length

    def _note_missing(self, record: ClipRecord) -> None:
        if self.missing == "error":
            shortest_s = (self.shortest or self.num_samples) / self.sample_rate
            of_recording = f", and its recording has no {shortest_s:g} s outside the clip"
            raise InputError(
                f"{record.id} has no reference: "
                + ("no speaker is named" if record.speaker is None else f"nothing else is said by {record.speaker}")
                + (of_recording if record.speaker is None or record.transcript is None else "")
                + "; name a reference_audio, give it longer recordings, or set missing_references to none"
            )
        index = self._indices.get(record.id)
        if index is None or self._without[index]:
            return
        self._without[index] = 1
        count = self.without_count
        # at 1, 2, 4 ...: a set without speakers would fill the log
        if count & (count - 1) == 0:
            _log.warning(
                "no reference for %s; %d of %d recordings without one so far", record.id, count, len(self._without)
            )


def _file(record: ClipRecord) -> Path:
    return record.sound or record.path


@contextmanager
def _blamed_on_the_reference() -> Iterator[None]:
    """What a reference lacks is no fault of the recording: that is not short or mute for it."""
    try:
        yield
    except InputError as error:
        error.fault = "unreadable"
        raise


def _within(held_s: Span, span_s: Span | None) -> Span:
    """The part of a sound that a record may use."""
    begin_s, end_s = max(0.0, held_s[0]), held_s[1]
    return (begin_s, end_s) if span_s is None else (max(begin_s, span_s[0]), min(end_s, span_s[1]))


def _share_sound(one: ClipRecord, other: ClipRecord) -> bool:
    """True if two records (or the same one twice) hold the same seconds of one file."""
    if one.id == other.id:
        return True
    if _file(one) != _file(other):
        return False
    if one.span_s is None or other.span_s is None:
        return True
    return one.span_s[0] < other.span_s[1] and other.span_s[0] < one.span_s[1]
