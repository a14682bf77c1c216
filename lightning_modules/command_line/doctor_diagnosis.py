"""What ``avsync doctor`` finds: every recording looked at, the counts, and what a training would fail at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from components.contracts import Modality
from components.errors import Fault
from components.media.clock import ClipShape
from datamodules.reading.clip_dataset import ClipDataset
from datamodules.reading.examination import Examination, ExaminedRecords, Verdict
from datamodules.reading.ordered_data_module import OrderedDataModule, Split
from datamodules.reading.overview import named, used_in_words
from datamodules.reading.records import ClipRecord
from datamodules.reading.unusable import counted, in_words
from lightning_modules.command_line.experiment_data import ExperimentData

SPLITS: tuple[Split, ...] = ("train", "val")
_PURPOSE: Mapping[str, str] = {"train": "train on", "val": "validate with"}
_CONTENT: Mapping[Modality, str] = {"video": "moves", "audio": "sounds"}
_MAX_PICTURES = 150
"""Thumbnails are kept of so many recordings that something is said of, and of so many others."""

# What is worth a look: these are ours.
_CLIPPED, _QUIET_LUFS, _SILENT, _STILL = 1e-3, -50.0, 0.8, 0.9
_LATE_S, _SURE = 0.1, 0.15


@dataclass(frozen=True)
class Finding:
    """One recording.

    Attributes:
        split: train or val.
        prefix: what its id begins with in a mixture, which says the set; empty otherwise.
        record: what the list says of it.
        seen: what is in it.
        verdict: what a training would do with it.
        remarks: what is worth a look although it is used.
    """

    split: Split
    prefix: str
    record: ClipRecord
    seen: Examination
    verdict: Verdict
    remarks: tuple[str, ...]

    @property
    def is_used(self) -> bool:
        """Whether a training would use it."""
        return self.verdict.fault is None


@dataclass(frozen=True)
class SplitCounts:
    """Counts of a split.

    Attributes:
        recordings: in the list.
        used: of them, by a training.
        usable_s: seconds that clips may be cut from, of those.
        mute: used without a sound track.
        dropped: the others, by what is wrong.
        captions: used recordings with a caption.
        transcripts: with a transcript.
        speakers: with a named speaker.
        remarks: how many used recordings something is said of.
    """

    recordings: int
    used: int
    usable_s: float
    mute: int
    dropped: Mapping[Fault, int]
    captions: int
    transcripts: int
    speakers: int
    remarks: int

    def line(self, split: str) -> str:
        """As the first lines of a training have it."""
        lost = f"; {self.recordings - self.used} dropped: {in_words(self.dropped)}" if self.dropped else ""
        return f"{split}: {used_in_words(self.used, self.usable_s, self.mute)}{lost}"


@dataclass(frozen=True)
class Diagnosis:
    """All that was found.

    Attributes:
        experiment: its name.
        data: class path of the data module.
        clip: what every clip looks like.
        findings: every recording, in the order of the lists.
        counts: by split.
        problems: why a training would fail, one sentence each; none where it would not.
    """

    experiment: str
    data: str
    clip: ClipShape
    findings: tuple[Finding, ...]
    counts: Mapping[Split, SplitCounts]
    problems: tuple[str, ...]


def diagnose(data: ExperimentData, workers: int) -> Diagnosis:
    """Looks at every recording that a training would read, in parallel.

    Args:
        data: what it would read.
        workers: processes; 0 takes this one alone.
    """
    findings = tuple(_findings(data.datamodule, workers))
    counts = {split: _counts([finding for finding in findings if finding.split == split]) for split in SPLITS}
    read = [split for split in SPLITS if split == "train" or data.validates]
    problems = [
        problem
        for split in read
        for problem in _problems(data, split, [finding for finding in findings if finding.split == split])
    ]
    return Diagnosis(data.name, data.class_path, data.clip, findings, counts, tuple(problems))


def _sets(datamodule: OrderedDataModule, split: Split) -> dict[str, list[ClipDataset]]:
    """The sets of a split, each in the shapes of its clips."""
    sets = datamodule.dataset(split).sets
    return {prefix: [part for part in parts if isinstance(part, ClipDataset)] for prefix, parts in sets.items()}


def _findings(datamodule: OrderedDataModule, workers: int) -> Iterator[Finding]:
    parts = [
        (split, prefix, part)
        for split in SPLITS
        for prefix, of_set in _sets(datamodule, split).items()
        for part in of_set
    ]
    pictures: Counter[bool] = Counter()
    with tqdm(total=sum(len(clips.records) for *_, clips in parts), desc="looking", unit="recording") as bar:
        for split, prefix, clips in parts:
            looked_at: Any = DataLoader(ExaminedRecords(clips), batch_size=None, num_workers=workers)
            for record, (seen, verdict) in zip(clips.records, looked_at, strict=True):
                remarks = tuple(_remarks(record, seen, clips.shape)) if verdict.fault is None else ()
                is_plain = verdict.fault is None and not remarks
                pictures[is_plain] += 1
                if pictures[is_plain] > _MAX_PICTURES:
                    seen = replace(seen, thumbnails=b"")
                yield Finding(split, prefix, replace(record, id=prefix + record.id), seen, verdict, remarks)
                bar.update()


def _remarks(record: ClipRecord, seen: Examination, clip: ClipShape) -> Iterator[str]:
    if seen.trouble is not None:
        yield seen.trouble
    if not record.caption:
        yield "no caption"
    if (seen.clipped_share or 0.0) > _CLIPPED:
        yield f"{100 * (seen.clipped_share or 0.0):.1f} % of the sound is clipped"
    if seen.silent_share is not None and seen.silent_share > _SILENT:
        yield "all of the sound is silent" if seen.silent_share == 1 else f"{100 * seen.silent_share:.0f} % is silent"
    elif seen.loudness_lufs is not None and seen.loudness_lufs < _QUIET_LUFS:
        yield f"quiet: {seen.loudness_lufs:.0f} LUFS"
    if seen.still_share is not None and seen.still_share > _STILL:
        yield f"{100 * seen.still_share:.0f} % of the frames are still"
    if seen.offset_s is not None and abs(seen.offset_s) > _LATE_S and (seen.offset_confidence or 0.0) > _SURE:
        yield f"the sound seems {abs(seen.offset_s):.2f} s {'late' if seen.offset_s > 0 else 'early'}"
    if seen.fps is not None and seen.fps < 0.9 * clip.fps:
        yield f"{seen.fps:.3g} frames a second for clips of {clip.fps:g}"
    # turned or not: a picture must cover the clip in one of the two ways
    sides = sorted((seen.height or clip.height, seen.width or clip.width))
    if any(held < wanted for held, wanted in zip(sides, sorted((clip.height, clip.width)), strict=True)):
        yield f"{seen.width}x{seen.height} pixels for clips of {clip.width}x{clip.height}"
    if seen.sample_rate is not None and seen.sample_rate < clip.sample_rate:
        yield f"sound at {seen.sample_rate} Hz for clips of {clip.sample_rate} Hz"


def _counts(findings: list[Finding]) -> SplitCounts:
    used = [finding for finding in findings if finding.is_used]
    return SplitCounts(
        recordings=len(findings),
        used=len(used),
        usable_s=sum(finding.verdict.usable_s for finding in used),
        mute=sum(finding.verdict.is_mute for finding in used),
        dropped=counted(finding.verdict.fault for finding in findings if finding.verdict.fault is not None),
        captions=sum(bool(finding.record.caption) for finding in used),
        transcripts=sum(finding.record.transcript is not None for finding in used),
        speakers=sum(finding.record.speaker is not None for finding in used),
        remarks=sum(bool(finding.remarks) for finding in used),
    )


def _problems(data: ExperimentData, split: Split, findings: list[Finding]) -> Iterator[str]:
    """Why a training would fail at a split, the worst first."""
    used = [finding for finding in findings if finding.is_used]
    sets = [
        (named(split, prefix), prefix, parts, [finding for finding in findings if finding.prefix == prefix])
        for prefix, parts in _sets(data.datamodule, split).items()
    ]
    for name, _, _, of_set in sets:
        if not any(finding.is_used for finding in of_set):
            yield f"there is nothing to {_PURPOSE[split]}: all {len(of_set)} recordings of {name} are dropped"
    for modality in data.needs if used else ():
        without = [name for name, _, parts, _ in sets if modality == "video" and parts[0].reader.audio_only]
        if split == "train" and data.takes_sounds_alone and len(without) < len(sets):
            without = []
        for name in without:
            yield f"the model needs moving pictures, but audio_only leaves them out of {name}; set it to false"
        if split == "train" and not without and not any(_has(finding.verdict, modality) for finding in used):
            yield f"the model needs {modality}, but nothing {_CONTENT[modality]} in what is used of {split}"
    for name, prefix, parts, of_set in sets:
        if any(finding.is_used for finding in of_set):
            yield from _losses(name, f"data.sets.{prefix[:-1]}." if prefix else "data.", parts[0], of_set)


def _losses(name: str, section: str, clips: ClipDataset, findings: list[Finding]) -> Iterator[str]:
    """What recordings that cannot be used would do to a training."""
    lost = sum(finding.verdict.fault not in {None, *clips.unusable.expected} for finding in findings)
    if lost and clips.on_corrupt == "error":
        yield (
            f"a training would end at the first of {lost} recordings of {name} that cannot be used; remove them, or "
            f"set {section}on_corrupt to skip"
        )
    elif lost > clips.unusable.max_fraction * len(findings):
        yield (
            f"a training would end once it has met them: {lost} of {len(findings)} recordings of {name} cannot be "
            f"used, more than {section}max_corrupt_fraction = {clips.unusable.max_fraction:g} allows"
        )


def _has(verdict: Verdict, modality: Modality) -> bool:
    return verdict.has_motion if modality == "video" else verdict.has_sound
