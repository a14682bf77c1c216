"""Training clips out of a cache: the same clips in the same order as from the recordings, encoded beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from components.contracts import AudioFeatures, ClipBatch, PreparedClips, TextFeatures
from components.encoders.text.rows import TextRow, stack_rows
from components.errors import InputError
from components.media.clock import ClipShape
from datamodules.prepared.identity import refuse_difference
from datamodules.prepared.prepared_clip import PreparedClip
from datamodules.prepared.streaming import Items
from datamodules.reading.order import SampleKey, drawn_offset, stand_ins


@dataclass(frozen=True)
class DeliveredClip:
    """A clip at its ``position`` in the training order; ``empty`` has the texts that a dropped one shows instead."""

    clip: PreparedClip
    position: int
    empty: PreparedClip


class CachedLatents(Dataset[DeliveredClip]):
    """Map-style set of encoded clips: an item is a recording, of which the sample's position takes one of K clips.

    Args:
        address: a folder that ``avsync prepare`` has filled, or its address in an object store.
        seed: decides, with the position, which of a recording's clips a sample is.
        facts: what the experiment says its clips depend on (`facts_of_clips`).
        offsets: clips per recording that are asked for; None takes what there is.

    Raises:
        InputError: if there is no whole cache, or it is of other clips.
    """

    def __init__(self, address: str, seed: int, facts: Mapping[str, Any], offsets: int | None = None) -> None:
        self.seed, self.items = seed, Items(address)
        index = self.items.index
        refuse_difference(address, index["clips"], facts, "data set")
        self.offsets, self.num_recordings = int(index["offsets"]), int(index["num_recordings"])
        if offsets not in (None, self.offsets):
            raise InputError(
                f"data.offsets is {offsets}, but {address} holds {self.offsets} clips of each recording; leave it out, "
                "or prepare others"
            )
        self._empty: PreparedClip | None = None

    def __len__(self) -> int:
        return self.num_recordings

    def __getitem__(self, key: SampleKey | int) -> DeliveredClip:
        key = key if isinstance(key, SampleKey) else SampleKey(key)
        offset = drawn_offset(self.seed, key, self.offsets)
        if self._empty is None:
            # behind all clips
            self._empty = PreparedClip.from_bytes(self.items[self.num_recordings * self.offsets])
        for index in stand_ins(self.seed, key, key.item, self.num_recordings):
            clip = PreparedClip.from_bytes(self.items[index * self.offsets + offset])
            if not clip.fault:
                return DeliveredClip(clip, key.position, self._empty)
        raise InputError(f"none of the {self.num_recordings} recordings in {self.items.address} can be used")


def collate_prepared(delivered: Sequence[DeliveredClip], shape: ClipShape) -> ClipBatch:
    """Stacks encoded clips into a batch, all cut to the length of the shortest one.

    A codec is causal, so that latents which are cut are those of the cut clip; features of a sound were taken of the
    whole clip.
    """
    clips, empty = [one.clip for one in delivered], delivered[0].empty
    shortest = min(clips, key=lambda clip: clip.num_samples)
    end_s = shape.frames_of(shortest.num_samples) / shape.fps
    transcripts = ["" if clip.transcript is None or end_s < clip.spoken_s else clip.transcript for clip in clips]
    scenes = [clip.caption if clip.scene is None else clip.scene for clip in clips]
    onsets = [tuple(at for at in clip.onsets if at < end_s) for clip in clips if clip.onsets is not None]
    references = [clip.reference_length for clip in clips if clip.reference_length is not None]
    video, audio = _latents(clips, "video"), _latents(clips, "audio")
    has_scenes = any(clip.scene is not None for clip in clips)
    position = delivered[0].position
    return ClipBatch(
        ids=[clip.id for clip in clips],
        video=torch.zeros(len(clips), 0, 3, shape.height, shape.width, dtype=torch.uint8),
        fps=shape.fps,
        audio=torch.zeros(len(clips), 0),
        sample_rate=shape.sample_rate,
        captions=[clip.caption for clip in clips],
        video_ids=[clip.video_id for clip in clips],
        transcripts=transcripts if any(clip.transcript is not None for clip in clips) else None,
        reference_lengths=torch.tensor(references) if references else None,
        onsets=onsets if len(onsets) == len(clips) else None,
        valid=torch.ones(len(clips), dtype=torch.bool),
        position=position if position >= 0 else None,
        scenes=scenes if has_scenes else None,
        video_latents=video,
        mute=torch.tensor([clip.mute for clip in clips]) if any(clip.mute for clip in clips) else None,
        audio_features=_features(clips, end_s),
        text_features=_texts(clips, "caption", empty),
        prepared=PreparedClips(
            num_frames=min(clip.num_frames for clip in clips),
            num_samples=shortest.num_samples,
            sounding=torch.tensor([clip.sounding for clip in clips]),
            moving=torch.tensor([clip.moving for clip in clips]),
            video_std=_latents(clips, "video_std"),
            audio_latents=audio,
            audio_std=_latents(clips, "audio_std"),
            reference_latents=_latents(clips, "reference"),
            scene_features=_texts(clips, "scene", empty) if has_scenes else None,
            transcript_features=_transcripts(clips, transcripts, empty),
            null_text=_texts([empty], "caption", empty),
            null_transcript=_texts([empty], "transcript", empty),
        ),
    )


def _latents(clips: Sequence[PreparedClip], name: str) -> Tensor | None:
    """``[B, C, N, ...]``, as many as the shortest clip has."""
    found = [clip.tensors[name] for clip in clips if name in clip.tensors]
    if not found:
        return None
    length = min(latents.shape[1] for latents in found)
    return torch.stack([latents[:, :length] for latents in found])


def _features(clips: Sequence[PreparedClip], end_s: float) -> AudioFeatures | None:
    """Audio features up to the end of the shortest clip."""
    if "features" not in clips[0].tensors:
        return None
    tokens = pad_sequence([clip.tensors["features"] for clip in clips], batch_first=True)
    mask = pad_sequence([clip.tensors["features_mask"] for clip in clips], batch_first=True)
    features = AudioFeatures(tokens, clips[0].rate_hz, mask, clips[0].first_center_s)
    # where all clips are alike nothing is cut, whatever an encoder has at their very end
    if len({clip.num_samples for clip in clips}) > 1:
        length = int((features.centers_s() <= end_s).sum())
        features = replace(features, tokens=tokens[:, :length], mask=mask[:, :length])
    return features


def _transcripts(clips: Sequence[PreparedClip], kept: Sequence[str], empty: PreparedClip) -> TextFeatures | None:
    """Transcripts; the empty one where a clip keeps none."""
    return _texts([clip if words else empty for clip, words in zip(clips, kept, strict=True)], "transcript", empty)


def _texts(clips: Sequence[PreparedClip], kind: str, empty: PreparedClip) -> TextFeatures | None:
    """Texts of one kind, padded as their encoder does."""
    if f"{kind}.tokens" not in empty.tensors:
        return None
    return stack_rows([_row(clip, kind, empty) for clip in clips], empty.pad_to.get(kind, 0))


def _row(clip: PreparedClip, kind: str, empty: PreparedClip) -> TextRow:
    # a scene that is not described is what the caption says; a clip without words has the empty text
    own = [name for name in ((kind, "caption") if kind == "scene" else (kind,)) if f"{name}.tokens" in clip.tensors]
    of, name = (clip, own[0]) if own else (empty, kind)
    return TextRow(of.tensors[f"{name}.tokens"], of.tensors.get(f"{name}.pooled"))
