"""The words that pictures and sounds of a clip are compared with."""

from __future__ import annotations

from components.contracts import ClipBatch
from components.errors import InputError


def caption_of(batch: ClipBatch, row: int, metric: str) -> str:
    """The caption of a clip.

    Raises:
        InputError: if it is empty.
    """
    if not batch.captions[row].strip():
        raise InputError(
            f"clip '{batch.ids[row]}' has no caption, which {metric} compares with: caption it, or leave {metric} out"
        )
    return batch.captions[row]


def sound_prompt_of(batch: ClipBatch, row: int, metric: str) -> str:
    """What a clip's sound was asked for by: its scene, or the caption where that says it.

    Raises:
        InputError: if both are empty.
    """
    scene = batch.scenes[row] if batch.scenes is not None else ""
    return scene if scene.strip() else caption_of(batch, row, metric)
