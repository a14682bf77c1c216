"""The interface both Pyramid Flow transformers share: one ordered list of blocks between `embed` and `read_out`."""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from components.backbones.context_parallel import ContextGroup
from components.backbones.pyramid_flow.blocks import Modulation, modulate
from components.backbones.pyramid_flow.column import Column, TokenLayout, layout_rope, shared_layout, token_layout
from components.backbones.pyramid_flow.state import ColumnState, last_tokens
from components.weights.file import STEMS, save_weights
from components.weights.identity import renew_sum
from components.weights.whole_file import whole_file


@dataclass(frozen=True)
class LaidOut:
    """What of a column has to be embedded.

    Attributes:
        text: tokens ``[R, M, D_text]`` as far as they are real in any row; none where memory holds them.
        text_mask: bool ``[R, M]``, or None if no text token is padding; of all text tokens in any case.
        pooled: ``[R, P]``.
        clips: those clips, or what is left of them, that memory does not hold.
        layout: where text and clips sit.
    """

    text: Tensor
    text_mask: Tensor | None
    pooled: Tensor
    clips: list[Tensor]
    layout: TokenLayout


class PyramidFlowTransformer(nn.Module, ABC):
    """A diffusion transformer over columns of clips (`pretrained_backbone` loads one from a folder).

    Attributes:
        dim: width D.
        num_heads: attention heads.
        latent_channels: channels C of the latents.
        patch: side of the square of latent pixels one token covers.
        axes_dims: channels of a head that rotate with time, row and column.
        rope_theta: base of the rotary frequencies.
        temporal_causal: tokens attend only to their own and earlier latent frames.
        stretch_history: rows and columns of history count in the grid of the current clip.
        config: the constructor's arguments in the spelling of the public ``config.json``.
        context: the processes that share the tokens of every column; None where each has all.
    """

    class_name: str
    config: dict[str, Any]
    dim: int
    num_heads: int
    latent_channels: int
    patch: int = 2
    axes_dims: tuple[int, ...]
    rope_theta: float = 10000.0
    temporal_causal: bool
    stretch_history: bool
    norm_out: Modulation
    proj_out: nn.Linear
    context: ContextGroup | None = None

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """All blocks in the order they run; each maps the states of all columns to new ones."""

    @abstractmethod
    def embed(self, column: Column) -> ColumnState:
        """Tokens, condition vector and positions of a column, without those that its memory holds."""

    def laid_out(self, column: Column, dtype: torch.dtype) -> LaidOut:
        """What of a column has to be embedded, and where it sits.

        Raises:
            ValueError: if the text has no pooled vector.
        """
        if column.text.pooled is None:
            raise ValueError("this backbone needs pooled text features; the text encoder gives none")
        text, text_mask = column.text.trimmed()
        text = text.to(dtype)
        clips, known = list(column.clips), 0
        if column.memory is not None and column.memory.frames:
            known = column.memory.frames
            text, clips = text[:, :0], without_first_frames(clips, known)
        shapes = tuple(patch_grid(clip, self.patch) for clip in clips)
        layout = token_layout(shapes, text.shape[1], text.device, self.stretch_history, known)
        if column.memory is not None:
            column.memory.plan(layout.num_text, layout.frame_sizes())
        return LaidOut(text, text_mask, column.text.pooled.to(dtype), clips, layout)

    def state(self, column: Column, parts: LaidOut, tokens: Tensor, condition: Tensor) -> ColumnState:
        """The embedded column, ready for the blocks: this process's tokens of it."""
        layout = parts.layout
        if self.context is not None:
            layout = shared_layout(layout, self.context)
            assert layout.split is not None
            tokens = layout.split.share(tokens)
        return ColumnState(
            tokens=tokens,
            condition=condition,
            layout=layout,
            rope=layout_rope(layout, self.axes_dims, self.rope_theta),
            text_mask=parts.text_mask,
            temporal_causal=self.temporal_causal,
            memory=column.memory,
        )

    def read_out(self, state: ColumnState) -> Tensor:
        """Velocity ``[R, C, t, h, w]`` of the column's last clip.

        The final norm takes scale before shift; the projection gives (row, column, channel) of each patch.
        """
        layout = state.layout
        t, h, w = (layout.everything or layout).shapes[-1]
        scale, shift = self.norm_out(state.condition)
        # The clip being denoised comes last; outputs of text and history are never used.
        x = self.proj_out(modulate(last_tokens(state.tokens, layout.num_current), shift, scale))
        x = x if layout.split is None else layout.split.last(t).gather(x)
        sides = {"t": t, "h": h, "w": w, "p": self.patch, "q": self.patch}
        velocity: Tensor = rearrange(x, "r (t h w) (p q c) -> r c t (h p) (w q)", **sides)
        return velocity

    def forward(self, columns: Sequence[Column]) -> list[Tensor]:
        """Velocity of every column's last clip. Columns do not influence each other."""
        states = [self.embed(column) for column in columns]
        *blocks, last = self.blocks
        for block in blocks:
            states = block(states)
        states = last(states, current_only=True)
        return [self.read_out(state) for state in states]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build from the content of a public ``config.json``; entries that only concern its own code are ignored."""
        known = inspect.signature(cls).parameters
        return cls(**{key: value for key, value in config.items() if key in known})

    def save_pretrained(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write ``config.json`` and ``diffusion_pytorch_model.safetensors``, in ``dtype`` if given, into ``folder``."""
        text = json.dumps({"_class_name": self.class_name, **self.config}, indent=2) + "\n"
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(folder / f"{STEMS[0]}.safetensors", self.state_dict(), dtype)
        with whole_file(folder / "config.json") as stream:
            stream.write(text.encode())
        renew_sum(folder / "config.json")


def without_first_frames(clips: Sequence[Tensor], frames: int) -> list[Tensor]:
    """Clips ``[R, C, t, h, w]`` without the first latent frames of them all."""
    left = []
    for clip in clips:
        cut = min(frames, clip.shape[2])
        frames -= cut
        if cut < clip.shape[2]:
            left.append(clip[:, :, cut:])
    return left


def patch_grid(clip: Tensor, patch: int) -> tuple[int, int, int]:
    """Latent frames, patch rows and patch columns of a clip ``[R, C, t, h, w]``.

    Raises:
        ValueError: if the clip's sides are not multiples of the patch.
    """
    _, _, t, h, w = clip.shape
    if h % patch or w % patch:
        raise ValueError(f"latents of {h}x{w} cannot be cut into {patch}x{patch} patches")
    return t, h // patch, w // patch
