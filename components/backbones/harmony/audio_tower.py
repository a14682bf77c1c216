"""The audio tower: Wan blocks on a line of audio latents, with a reference voice in front and a transcript beside.

Source: Harmony, "Overall Architecture": the audio branch mirrors the video branch and is conditioned on a reference
sound, a description of the scene and the words that are spoken, the last two through encoders of their own. Patch
1 x 1 x 1 on latents ``[B, C, T, 1, 1]`` gives the layout of Ovi's audio tower, whose weights fit.

Legend: B rows, C channels, T_r reference and T_a target tokens, D width, M text tokens.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.backbones.wan.model import WanTower, rotary_grid
from components.backbones.wan.normed_heads import RotaryTable
from components.contracts import TextFeatures

Stem = Literal["linear", "conv"]

OWN_PARTS = ("null_reference", "reference_segment", "transcript_type", "transcript_embedder.")
"""What this tower has and no Wan tower brings along: beginnings of parameters' names."""


class ConvStem(nn.ModuleList):
    """Convolution, SiLU, gated convolutional network: the input layers of Ovi's audio tower under their names.

    Args:
        channels: C.
        dim: D.
        kernel_size: odd number of latents every convolution sees.
    """

    def __init__(self, channels: int, dim: int, kernel_size: int = 7) -> None:
        super().__init__()
        same = kernel_size // 2
        hidden = -(-(8 * dim // 3) // 256) * 256  # two thirds of 4 D, rounded up to a multiple of 256
        gated = nn.Module()
        gated.w1 = nn.Conv1d(dim, hidden, kernel_size, padding=same, bias=False)
        gated.w2 = nn.Conv1d(hidden, dim, kernel_size, padding=same, bias=False)
        gated.w3 = nn.Conv1d(dim, hidden, kernel_size, padding=same, bias=False)
        self.extend([nn.Conv1d(channels, dim, kernel_size, padding=same), nn.SiLU(), gated])

    def forward(self, latents: Tensor, real: Tensor | None = None) -> Tensor:
        """``[B, C, T]`` to ``[B, D, T]``; outside ``real`` (bool ``[B, T]``) the sound counts as ended."""
        first, act, gated = cast(Any, self)

        def cut(x: Tensor) -> Tensor:
            return x if real is None else x * real.unsqueeze(1).to(x.dtype)

        # before every convolution: the bias of the one before has filled the padding, which the next would hear
        x = cut(act(first(cut(latents))))
        out: Tensor = gated.w2(cut(F.silu(gated.w1(x)) * gated.w3(x)))
        return out


class AudioTower(WanTower):
    """A Wan tower on audio latents. The defaults mirror the video tower, on 20-channel latents of 16 kHz sound.

    Args:
        channels: C of the audio latents.
        stem: ``linear`` projects every latent alone; ``conv`` is Ovi's convolutional stem (0.53 B parameters at D =
            3072).
        num_layers: blocks; as many as the video tower has.
        num_attention_heads: heads per block.
        attention_head_dim: channels per head; their product is the width D.
        ffn_dim: hidden width of the feed-forward networks.
        text_dim: width of the encoded scene description.
        transcript_dim: width of the encoded transcript; null builds a tower that is not told the words.
        freq_dim: channels of the sinusoidal timestep embedding.
        cross_attn_norm: normalise before the text attention.
        eps: epsilon of all norms.
        text_len: the scene text is padded with zeros to this many tokens, see `WanTower`.
        rope_scale: tokens stand at ``j * rope_scale`` in the tower's self-attention; null puts them on the clock of
            the video latents, ``T_v / T_a`` (Ovi ships 0.19676; 1 counts tokens).

    Attributes:
        channels: C.
        null_reference: what stands in for a reference that is missing or dropped, ``[D]``.
        reference_segment: added to all reference tokens, ``[D]``.
        transcript_type: added to all transcript tokens, ``[D]``.
    """

    def __init__(
        self,
        channels: int = 20,
        stem: Stem = "linear",
        num_layers: int = 30,
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        ffn_dim: int = 14336,
        text_dim: int = 4096,
        transcript_dim: int | None = 1472,
        freq_dim: int = 256,
        cross_attn_norm: bool = True,
        eps: float = 1e-6,
        text_len: int | None = 512,
        rope_scale: float | None = None,
    ) -> None:
        super().__init__(
            num_layers=num_layers,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            ffn_dim=ffn_dim,
            in_channels=channels,
            out_channels=channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            patch_size=(1, 1, 1),
            cross_attn_norm=cross_attn_norm,
            eps=eps,
            text_len=text_len,
        )
        # ``config`` holds what this class is built with; these follow from ``channels`` or never change
        for key in ("in_channels", "out_channels", "patch_size", "qk_norm"):
            del self.config[key]
        self.config.update(channels=channels, stem=stem, transcript_dim=transcript_dim, rope_scale=rope_scale)
        self.channels = channels
        self.rope_scale = rope_scale
        if stem == "conv":
            # in the place, and under the name, that Ovi's checkpoint has for it
            self.patch_embedding = ConvStem(channels, self.dim)
        self.null_reference = nn.Parameter(torch.empty(self.dim))
        self.reference_segment = nn.Parameter(torch.empty(self.dim))
        self.transcript_type = nn.Parameter(torch.empty(self.dim)) if transcript_dim is not None else None
        self.transcript_embedder: nn.Module | None = None
        if transcript_dim is not None:
            self.transcript_embedder = nn.Sequential(
                nn.Linear(transcript_dim, self.dim), nn.GELU(approximate="tanh"), nn.Linear(self.dim, self.dim)
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The tower's own vectors; the other layers reset themselves."""
        nn.init.normal_(self.null_reference, std=0.02)
        # zero: reference and words begin as tokens like any others, and are told apart as far as that helps
        nn.init.zeros_(self.reference_segment)
        if self.transcript_type is not None:
            nn.init.zeros_(self.transcript_type)

    def embed_target(self, latents: Tensor) -> Tensor:
        """Latents ``[B, C, T_a]`` to tokens ``[B, T_a, D]``."""
        return self._stem(latents, None)

    def embed_reference(self, latents: Tensor | None, num_rows: int, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Reference tokens ``[B, T_r, D]`` and which of them are real, bool ``[B, T_r]``.

        Every reference is moved to the end of its row, so that it sits right before the target whatever its length
        and whatever the batch is padded to. A row of length 0 shows the learned null token in the last place.

        Args:
            latents: ``[B, C, T_r]``, the real ones first; None if no row has any.
            num_rows: B.
            lengths: real latents per row ``[B]``; None if all are.
        """
        if latents is None:
            latents = self.null_reference.new_zeros(num_rows, self.channels, 1)
            lengths = torch.zeros(num_rows, dtype=torch.long, device=latents.device)
        longest = latents.shape[-1]
        if lengths is None:
            lengths = torch.full((num_rows,), longest, device=latents.device)
        at = torch.arange(longest, device=latents.device) - (longest - lengths[:, None])  # [B, T_r], below 0: padding
        real = at >= 0
        # [B, C, T_r], right-aligned; the padding in front repeats latent 0, which ``real`` hides
        moved = latents.gather(2, at.clamp(min=0)[:, None].expand(-1, self.channels, -1))
        null = (lengths == 0)[:, None] & (at == -1)  # the last place, next to the target
        tokens = torch.where(null[:, :, None], self.null_reference.to(self.dtype), self._stem(moved, real))
        return tokens + self.reference_segment.to(self.dtype), real | null

    def _stem(self, latents: Tensor, real: Tensor | None) -> Tensor:
        if isinstance(self.patch_embedding, ConvStem):
            stemmed: Tensor = self.patch_embedding(latents.to(self.dtype), real)
            return stemmed.transpose(1, 2)
        return self.embed(latents[..., None, None])

    def add_transcript(
        self, context: Tensor, visible: Tensor | None, transcript: TextFeatures
    ) -> tuple[Tensor, Tensor]:
        """Scene context ``[B, M, D]`` and the transcript behind it, with the mask ``[B, 1, 1, M']`` of what is seen.

        Padding of transcripts is hidden; that of scenes is what `visible` says.

        Raises:
            ValueError: if the tower was built without ``transcript_dim``.
        """
        if self.transcript_embedder is None or self.transcript_type is None:
            raise ValueError("this audio tower takes no transcript: build it with transcript_dim")
        # The embedder may train, in float32, in a tower that is frozen in bfloat16.
        given = transcript.tokens.to(next(self.transcript_embedder.parameters()).dtype)
        words = self.transcript_embedder(given).to(self.dtype) + self.transcript_type.to(self.dtype)
        words_mask = transcript.mask.bool()[:, None, None]  # [B, 1, 1, M_t]
        # a scene whose padding is attended to (``text_len``) comes without a mask: all of it is seen
        scene_mask = words_mask.new_ones(len(context), 1, 1, context.shape[1]) if visible is None else visible
        return torch.cat([context, words], dim=1), torch.cat([scene_mask, words_mask], dim=-1)

    def rope(self, num_reference: int, num_target: int, num_video: int, device: torch.device) -> RotaryTable:
        """Rotary table of ``num_reference + num_target`` tokens beside ``num_video`` video latents."""
        scale = self.rope_scale if self.rope_scale is not None else num_video / num_target
        return audio_rope(num_reference, num_target, scale, self.head_dim, device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def audio_rope(num_reference: int, num_target: int, scale: float, head_dim: int, device: torch.device) -> RotaryTable:
    """Target token j at time ``j * scale``, reference token k at ``(k - T_r) * scale``, before all of them."""
    # on the CPU even where a model is tried on the meta device: the cache would keep an empty table
    with torch.device("cpu"):
        # below 0 for the reference, so that it never meets the target on the clock
        time = torch.arange(-num_reference, num_target, dtype=torch.float64) * scale
        # on the video's axes of rows and columns: position 0 rotates nothing
        nowhere = torch.zeros(1, dtype=torch.float64)
        return rotary_grid([time, nowhere, nowhere], head_dim, device)
