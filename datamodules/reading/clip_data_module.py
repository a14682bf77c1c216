"""Clips out of lists of recordings: what all data sets of recordings share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from components.errors import Fault, InputError
from components.media.clock import ClipShape
from components.media.sound_reader import MAX_MISSING_AUDIO_S
from datamodules.reading.cached_latents import CachedLatents
from datamodules.reading.clip_dataset import ClipDataset
from datamodules.reading.clip_facts import facts_of_clips
from datamodules.reading.clip_groups import ClipGroups
from datamodules.reading.ordered_data_module import OrderedDataModule, Split
from datamodules.reading.record_reader import RecordReader
from datamodules.reading.records import ClipRecord
from datamodules.reading.shape_groups import ShapeGroups
from datamodules.reading.unusable import UnusableClips

__all__ = ["ClipDataModule", "Split"]


class ClipDataModule(OrderedDataModule):
    """Random clips for training and fixed clips for evaluation out of lists of recordings.

    An epoch is one pass over the training list where the run counts epochs: with ``max_epochs``, or where validation
    comes at their end (Lightning's defaults). Bounded by ``max_steps`` and validated every so many batches (an integer
    ``val_check_interval`` and ``check_val_every_n_epoch: null``) a run is one endless epoch. Which sample comes when
    depends on the seed and on how many samples were consumed, which is all the state a checkpoint holds; a run resumes
    exactly, also with another number of ranks. ``overfit_batches`` repeats the same clips under ever new noise.

    Args:
        clip: what every clip looks like; an experiment says it once, in its section ``clip``. None takes the set's own
            default: 121 frames of 384x640 at 24 fps with sound at 16 kHz. Where clips differ in length
            (``clip.min_frames``), a training batch is cut to its shortest one unless ``bucket_lengths`` is set. In
            evaluation each batch has clips of one length, long ones first, and none is cut.
        batch_size: training clips per batch and rank.
        val_batch_size: evaluation clips per batch and rank.
        num_workers: loader processes per rank.
        clips_per_video: evaluation clips per recording, evenly spaced from its start to its end.
        single_clip: where the clip lies if ``clips_per_video`` is 1: "start" or "center".
        seed: decides order and place of the training clips.
        cache: keep recordings (at the clips' rate and size) in memory after their first use, in each loader process.
        max_val_clips: evaluate only this many clips, taken evenly over the split, or None for all.
        on_corrupt: "error" ends the run at a recording that cannot be used; "skip" reports it and goes on, and says at
            the end what was skipped.
        max_corrupt_fraction: share of the recordings that may be skipped.
        video_track: number of the track among each file's video tracks, from 0; None for the default, never a cover.
        audio_track: likewise among the audio tracks.
        max_missing_audio_s: so many seconds of a clip's sound may be missing; they are silent. More is a recording
            that cannot be used.
        bucket_lengths: fill each training batch with clips of one length where ``clip.min_frames`` lets them differ, so
            that none is cut to the shortest one. Every recording is opened at the first start.
        bucket_sizes: heights and widths in place of the clip's own, such as ``[[480, 832], [832, 480], [640, 640]]``: a
            recording is scaled to the one whose ratio of sides is nearest to its picture's, and each batch has one.
            None for one size.
        bucket_cache: folder where the lengths and sizes of recordings are kept from one start to the next; None looks
            at every recording each time.
        samples_in_a_row: where there are such groups, training samples that come from one in a row, a multiple of
            ``batch_size`` times the number of ranks; None takes just these.
        offsets: train on so many clips of each recording, drawn once by its name and always the same, in place of ever
            new ones; what ``avsync prepare`` encodes. None draws anew, or takes as many as ``latents`` hold.
        latents: folder or address (``s3://...``) that ``avsync prepare`` has filled: training clips come encoded from
            there, in the same order. Evaluation reads its recordings as ever.
    """

    def __init__(
        self,
        clip: ClipShape | None = None,
        batch_size: int = 4,
        val_batch_size: int = 4,
        num_workers: int = 4,
        clips_per_video: int = 1,
        single_clip: Literal["start", "center"] = "center",
        seed: int = 0,
        cache: bool = False,
        max_val_clips: int | None = None,
        on_corrupt: Literal["error", "skip"] = "error",
        max_corrupt_fraction: float = 0.01,
        video_track: int | None = None,
        audio_track: int | None = None,
        max_missing_audio_s: float = MAX_MISSING_AUDIO_S,
        bucket_lengths: bool = False,
        bucket_sizes: Sequence[tuple[int, int]] | None = None,
        bucket_cache: str | None = "~/.cache/avsync/shapes",
        samples_in_a_row: int | None = None,
        offsets: int | None = None,
        latents: str | None = None,
    ) -> None:
        super().__init__(clip or ClipShape(), batch_size, val_batch_size, num_workers, seed, samples_in_a_row)
        for name, value, least in (
            ("clips_per_video", clips_per_video, 1),
            ("max_val_clips", 1 if max_val_clips is None else max_val_clips, 1),
            ("video_track", video_track or 0, 0),
            ("audio_track", audio_track or 0, 0),
            ("max_missing_audio_s", max_missing_audio_s, 0),
            ("offsets", 1 if offsets is None else offsets, 1),
        ):
            if value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")
        self.clips_per_video, self.single_clip = clips_per_video, single_clip
        self.cache, self.max_val_clips = cache, max_val_clips
        self.on_corrupt, self.max_corrupt_fraction = on_corrupt, max_corrupt_fraction
        self.video_track, self.audio_track = video_track, audio_track
        self.max_missing_audio_s = max_missing_audio_s
        if bucket_lengths and self.clip.min_frames is None:
            raise InputError(
                f"bucket_lengths is true but all clips have {self.clip.num_frames} frames; set clip.min_frames, or"
                " leave it out"
            )
        sizes = tuple((int(height), int(width)) for height, width in bucket_sizes or ())
        folder = None if bucket_cache is None else Path(bucket_cache).expanduser()
        self.shape_groups = ShapeGroups(bucket_lengths, sizes, folder)
        if samples_in_a_row is not None and not (bucket_lengths or sizes):
            raise InputError(
                "samples_in_a_row is given, but all clips are of one group; leave it out, or set bucket_lengths or"
                " bucket_sizes"
            )
        if latents is not None and (bucket_lengths or sizes):
            raise InputError(
                f"latents is {latents}, but encoded clips are not grouped by shapes; leave bucket_lengths and"
                " bucket_sizes out, or train on the recordings"
            )
        self.offsets, self.latents = offsets, latents
        self.codec_step: int | None = None

    @abstractmethod
    def records(self, split: Split) -> Sequence[ClipRecord]:
        """The recordings of a split.

        Raises:
            InputError: a folder, list or file is missing or empty.
        """

    def clip_settings(self) -> dict[str, Any]:
        """What training clips depend on beside the recordings; latents of other settings are refused."""
        names = ("cache", "video_track", "audio_track", "max_missing_audio_s")
        return {"clip": asdict(self.clip)} | {name: getattr(self, name) for name in names}

    @property
    def passed_over(self) -> tuple[Fault, ...]:
        """What is wrong with recordings that were asked to be passed over."""
        return ()

    def training_clips(self) -> ClipDataset:
        """The training clips, to be encoded.

        Raises:
            InputError: they are of several shapes.
        """
        parts = self._read_clips("train").parts
        if len(parts) > 1:
            raise InputError(
                f"the training clips have {len(parts)} shapes, but clips of one shape are encoded; leave bucket_lengths"
                " and bucket_sizes out"
            )
        (clips,) = parts
        assert isinstance(clips, ClipDataset)
        return clips

    def groups(self, split: Split) -> ClipGroups:
        """The clips of a split: one group, or one of each shape; encoded ones are one group."""
        if split != "train" or self.latents is None:
            return self._read_clips(split)
        facts = facts_of_clips(self.clip_settings(), self.records(split), self.frame_step)
        return ClipGroups([CachedLatents(self.latents, self.seed, facts, self.offsets)])

    def _read_clips(self, split: Split) -> ClipGroups:
        writes = getattr(self.trainer, "global_rank", 0) == 0
        # clips of an evaluation are never cut, and ranks that sample clips of different lengths at a time would make
        # different numbers of forward passes, which sharded models cannot
        by = self.shape_groups if split == "train" else replace(self.shape_groups, by_length=True)
        groups = by.of(self._chosen(split), self._record_reader, writes)
        make = self._dataset_class(split)
        listed = [record for group in groups for record in group.records]
        book = UnusableClips(listed, self.max_corrupt_fraction, self.passed_over)
        parts: list[ClipDataset] = []
        for shape, num_frames, records in groups:
            parts.append(
                make(
                    records,
                    shape,
                    "random" if split == "train" else "fixed",
                    clips_per_video=self.clips_per_video,
                    single_clip=self.single_clip,
                    seed=self.seed,
                    cache=self.cache,
                    on_corrupt=self.on_corrupt,
                    max_corrupt_fraction=self.max_corrupt_fraction,
                    frame_step=self.frame_step,
                    video_track=self.video_track,
                    audio_track=self.audio_track,
                    max_missing_audio_s=self.max_missing_audio_s,
                    offsets=self.offsets,
                    num_frames=num_frames,
                    unusable=book.part(sum(len(part.records) for part in parts)),
                )
            )
        found = ClipGroups(parts)
        if split != "train" and self.max_val_clips is not None:
            found.show_at_most(self.max_val_clips)
        return found

    def _chosen(self, split: Split) -> Sequence[ClipRecord]:
        """The recordings of a split that are used."""
        records = self.records(split)
        if split != "train" and self.max_val_clips is not None:
            keep = -(-self.max_val_clips // self.clips_per_video)
            if keep < len(records):
                # evenly spread: lists are often sorted by class
                records = [records[i * len(records) // keep] for i in range(keep)]
        return records

    @property
    def _record_reader(self) -> RecordReader:
        """What looks at recordings before their clips are read."""
        return RecordReader(
            self.clip,
            frame_step=self.frame_step,
            video_track=self.video_track,
            audio_track=self.audio_track,
            max_missing_s=self.max_missing_audio_s,
        )

    def _dataset_class(self, split: Split) -> Callable[..., ClipDataset]:
        """What makes clips of a split's records; takes the arguments of ``ClipDataset``."""
        del split
        return ClipDataset

    @property
    def frame_step(self) -> int:
        """Frames by which clips may differ in length: the temporal factor of the video codec that will encode them.

        Where the model has no video codec, or there is none at all, Pyramid Flow's 8. ``codec_step`` says it where
        clips are encoded without a model.
        """
        model = None if self.trainer is None else self.trainer.lightning_module
        return self.codec_step or getattr(model, "frame_step", None) or 8
