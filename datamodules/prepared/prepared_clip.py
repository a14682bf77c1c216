"""One encoded clip, and its form on disk: safetensors, which hold any dtype and no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

_METADATA = "clip"


@dataclass(frozen=True)
class PreparedClip:
    """What is kept of a clip; see ``Clip`` and ``ClipBatch`` for the fields that they have too.

    Attributes:
        fault: why the clip cannot be used, empty for one that can; nothing else is then known of it.
        num_frames: frames of its picture; 0 for a sound alone.
        num_samples: samples of its sound.
        sounding: whether it is not silent.
        moving: whether its picture moves.
        mute: whether its recording has no sound track.
        rate_hz: of the audio features, if there are any.
        first_center_s: likewise.
        narrowed: names of tensors that were float32 and are kept in fewer bits.
        pad_to: of an empty text alone: token positions of each kind of text that its encoder never goes below.
        tensors: ``video``, ``video_std``, ``audio``, ``audio_std``, ``reference`` (latents), ``features``,
            ``features_mask`` (of the audio encoder) and ``<text>.tokens``, ``<text>.pooled`` of the texts ``caption``,
            ``scene`` and ``transcript``, all without batch dimension.
    """

    id: str = ""
    video_id: str = ""
    caption: str = ""
    transcript: str | None = None
    scene: str | None = None
    onsets: tuple[float, ...] | None = None
    spoken_s: float = 0.0
    reference_length: int | None = None
    fault: str = ""
    num_frames: int = 0
    num_samples: int = 0
    sounding: bool = True
    moving: bool = True
    mute: bool = False
    rate_hz: float = 0.0
    first_center_s: float = 0.0
    narrowed: tuple[str, ...] = ()
    pad_to: dict[str, int] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def narrow(self, dtype: torch.dtype) -> PreparedClip:
        """The same with float32 tensors in ``dtype``."""
        wide = [name for name, tensor in self.tensors.items() if tensor.dtype == torch.float32]
        if dtype == torch.float32:
            return self
        return replace(
            self,
            narrowed=tuple(wide),
            tensors={**self.tensors, **{name: self.tensors[name].to(dtype) for name in wide}},
        )

    def to_bytes(self) -> bytes:
        """A safetensors file; the same clip gives the same bytes."""
        known = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "tensors"}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        # one entry: safetensors writes several in no fixed order
        return save(tensors, {_METADATA: json.dumps(known, sort_keys=True)})

    @classmethod
    def from_bytes(cls, content: bytes) -> PreparedClip:
        """What `to_bytes` wrote; tensors that were narrowed are float32 again."""
        size = int.from_bytes(content[:8], "little")
        known: dict[str, Any] = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][_METADATA])
        names = {item.name for item in fields(cls)}
        onsets, narrowed = known.pop("onsets"), tuple(known.pop("narrowed"))
        tensors = load(content)
        return cls(
            **{name: value for name, value in known.items() if name in names},
            onsets=None if onsets is None else tuple(onsets),
            narrowed=narrowed,
            tensors={**tensors, **{name: tensors[name].float() for name in narrowed}},
        )
