"""Global-Local Decoupled Interaction: how a video block and an audio block of the same depth exchange what they know.

Source: Harmony (arXiv 2511.21579), "Global-Local Decoupled Interaction Module". The local pathway carries timing, the
global one everything else. All updates are computed from the streams as the two blocks left them.

- `FrameLevelAttention`, both ways ("RoPE-aligned Frame-level Attention"): queries and keys are rotated by their
  positions on one clock; every video latent attends to a window of the audio tokens around the same moment, and every
  audio token to the same window read backwards.
- `StyleAlignment` ("Global Style Alignment"): the whole video colours the reference sound.

The paper names residual updates and no gates, and projections of their own for either pathway; so are the defaults of
`InteractionConfig`. `NoiseGate`, shared keys and values, the norms and the outputs that start at zero are ours.

Legend: B rows, T steps in time, S tokens per step (video: one latent's patches; audio: 1), L = T S, D width of a
stream, W width of the attention, H heads, d = W / H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from components.backbones.context_parallel import TokenSplit, from_attention, to_attend
from components.backbones.harmony.drivers import DriverFeatures
from components.backbones.harmony.frame_band import BandConfig, FrameBand
from components.backbones.harmony.style_alignment import StyleAlignment
from components.backbones.rope import rotate
from components.backbones.wan.normed_heads import normed_heads, rotary_pairs, rotated_in_pairs

Gate = Literal["none", "source", "both"]


class NoiseGate(nn.Module):
    """A factor per head, ``1 + U emb(t)``, from how noisy the streams are; U starts at zero.

    Args:
        heads: H.
        source_dim: width of the source's timestep embedding.
        query_dim: width of the query stream's timestep embedding, or None to look at the source's alone.
    """

    def __init__(self, heads: int, source_dim: int, query_dim: int | None) -> None:
        super().__init__()
        self.from_source = nn.Linear(source_dim, heads, bias=False)
        self.from_query = None if query_dim is None else nn.Linear(query_dim, heads, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All gates open."""
        for layer in (self.from_source, self.from_query):
            if layer is not None:
                nn.init.zeros_(layer.weight)

    def forward(self, source: Tensor, query: Tensor) -> Tensor:
        """Timestep embeddings ``[B, D]`` of both streams to factors ``[B, H]``."""
        gate: Tensor = 1 + self.from_source(source.to(self.from_source.weight.dtype))
        if self.from_query is not None:
            gate = gate + self.from_query(query.to(self.from_query.weight.dtype))
        return gate


class FrameLevelAttention(nn.Module):
    """One direction. Its output projection starts at zero, so that a fresh layer changes nothing.

    Args:
        query_dim: width of the stream that is changed.
        source_dim: width of the stream that is attended to.
        width: W, width of queries, keys and values.
        heads: H.
        gate: factor per head from the noise level of the ``source``, of ``both`` streams, or ``none``.
        eps: epsilon of all norms.
    """

    def __init__(
        self, query_dim: int, source_dim: int, width: int, heads: int, gate: Gate = "none", eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query = nn.LayerNorm(query_dim, eps=eps)
        self.norm_source = nn.LayerNorm(source_dim, eps=eps)
        self.to_q = nn.Linear(query_dim, width)
        self.to_k = nn.Linear(source_dim, width)
        self.to_v = nn.Linear(source_dim, width)
        self.norm_q = nn.RMSNorm(width, eps=eps)
        self.norm_k = nn.RMSNorm(width, eps=eps)
        self.to_out = nn.Linear(width, query_dim)
        self.gate = None if gate == "none" else NoiseGate(heads, source_dim, query_dim if gate == "both" else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Closes the output; the other layers reset themselves."""
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def keys_values(self, source: Tensor, split: TokenSplit | None = None) -> tuple[Tensor, Tensor]:
        """Keys (normalised, not rotated) and values ``[B, H, L, d]`` of the source's tokens ``[B, L, D]``.

        Where they are shared among processes by ``split``, of this process's heads and all tokens.
        """
        source = self.norm_source(source.to(self.norm_source.weight.dtype))  # towers may differ in precision
        keys = to_attend(normed_heads(self.norm_k, self.to_k(source), self.heads), split)
        return keys, to_attend(torch.unflatten(self.to_v(source), -1, (self.heads, -1)), split)

    def forward(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        band: FrameBand,
        noise: tuple[Tensor, Tensor],
        split: TokenSplit | None = None,
    ) -> Tensor:
        """What the source adds to the query stream.

        Args:
            query: tokens ``[B, L_q, D]`` of the stream that is changed.
            keys: from `keys_values`.
            values: from `keys_values`.
            band: who attends to whom, and the rotary tables.
            noise: timestep embeddings ``[B, D]`` of the query stream and of the source.
            split: how the query stream is shared among processes.

        Returns:
            ``[B, L_q, D]``.
        """
        query = self.norm_query(query.to(self.norm_query.weight.dtype))
        q = to_attend(normed_heads(self.norm_q, self.to_q(query), self.heads), split)
        # rotation gives float32; queries, keys and values must be of one dtype
        q = _rotated(q, band.query_rope).to(values.dtype)
        # keys come unrotated, because `StyleAlignment` shares them and knows no positions
        out = band.attend(q, _rotated(keys, band.key_rope).to(values.dtype), values)
        if self.gate is not None:
            gate = self.gate(source=noise[1], query=noise[0])  # [B, H]
            gate = gate if split is None else split.own_heads(gate)
            out = out * gate.to(out.dtype)[:, :, None, None]
        update: Tensor = self.to_out(from_attention(out, split).flatten(2))  # [B, L_q, D]
        return update


def _rotated(x: Tensor, table: Tensor | None) -> Tensor:
    """Heads ``[B, H, T S, d]`` with their first ``2 n`` channels rotated by ``[2, T, 1 or S, n]``; the rest passes."""
    if table is None:
        return x
    num_steps, num_rotated = table.shape[1], 2 * table.shape[-1]
    if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling():
        return rotated_in_pairs(x.transpose(1, 2), rotary_pairs(table, *x.shape[1::2])).transpose(1, 2)
    # [B, H, T, S, d]: next to the table's [T, 1 or S, n]
    steps = torch.unflatten(x, 2, (num_steps, -1))
    if num_rotated == x.shape[-1]:
        return rotate(steps, table).flatten(2, 3)
    # split: the gradient of a slice is as many zeros, filled and added
    turning, passing = torch.split(steps, [num_rotated, x.shape[-1] - num_rotated], dim=-1)
    return torch.cat([rotate(turning, table).to(x.dtype), passing], dim=-1).flatten(2, 3)


@dataclass(frozen=True)
class InteractionConfig:
    """Size and manner of the interaction: as published, in sizes that the paper does not give.

    Attributes:
        width: width of queries, keys and values. 1024 adds 1.12 B parameters to two 5 B towers, 3072 3.37 B.
        num_heads: attention heads.
        band: windows, positions and kernel of the frame-level attention.
        gate: factor on the frame-level updates from the noise level of the ``source``, of ``both`` streams or
            ``none`` (the paper).
        style: let the video colour the reference sound.
        style_kv: project the video's ``own`` keys and values for it (the paper), or take those of the frame-level
            attention (``shared``: no second projection of all video tokens).
        driver_isolated: a stream that drives (its timestep is 0) receives nothing, so that its features do not depend
            on the noisy one and sampling computes them once (`JointSampler.keep_drivers`).
        detach_driver: no gradient flows into a stream that drives.
    """

    width: int = 1024
    num_heads: int = 8
    band: BandConfig = BandConfig()  # noqa: RUF009  # frozen
    gate: Gate = "none"
    style: bool = True
    style_kv: Literal["shared", "own"] = "own"
    driver_isolated: bool = False
    detach_driver: bool = False

    def __post_init__(self) -> None:
        # even: rotary positions turn pairs of channels
        if self.width % self.num_heads or (self.width // self.num_heads) % 2:
            raise ValueError(
                f"interaction width {self.width} over {self.num_heads} heads leaves no even number of channels per head"
            )

    @property
    def head_dim(self) -> int:
        """Channels per head."""
        return self.width // self.num_heads


class Coupling:
    """What one forward pass tells every interaction. A plain class for the reason given at `FrameBand`.

    Args:
        video_band: windows of the video over the audio.
        audio_band: windows of the audio over the video.
        num_reference: reference tokens in front of the audio stream (of this process, where they are shared).
        video_drives: bool ``[B]``, rows whose video is clean and given; None where it makes no difference.
        audio_drives: bool ``[B]``, rows whose audio is clean and given; None where it makes no difference.
        drivers: features of the rows that drive, where sampling keeps them.
        splits: how the tokens of video, reference and audio are shared among processes.
    """

    def __init__(
        self,
        video_band: FrameBand,
        audio_band: FrameBand,
        num_reference: int = 0,
        video_drives: Tensor | None = None,
        audio_drives: Tensor | None = None,
        drivers: DriverFeatures | None = None,
        splits: tuple[TokenSplit | None, TokenSplit | None, TokenSplit | None] = (None, None, None),
    ) -> None:
        self.video_band = video_band
        self.audio_band = audio_band
        self.num_reference = num_reference
        self.video_drives = video_drives
        self.audio_drives = audio_drives
        self.drivers = drivers
        self.splits = splits


class DecoupledInteraction(nn.Module):
    """The exchange after one pair of blocks. Fresh from the constructor it changes nothing.

    Args:
        video_dim: width of the video stream.
        audio_dim: width of the audio stream.
        config: size and manner.
        last: this is the last pair; its reference has no reader, so it gets no style alignment.
    """

    def __init__(self, video_dim: int, audio_dim: int, config: InteractionConfig, last: bool = False) -> None:
        super().__init__()
        width, heads = config.width, config.num_heads
        self.video_from_audio = FrameLevelAttention(video_dim, audio_dim, width, heads, config.gate)
        self.audio_from_video = FrameLevelAttention(audio_dim, video_dim, width, heads, config.gate)
        self.style: StyleAlignment | None = None
        if config.style and not last:
            own = video_dim if config.style_kv == "own" else None
            self.style = StyleAlignment(audio_dim, width, heads, own)
        self.driver_isolated = config.driver_isolated
        self.detach_driver = config.detach_driver

    def forward(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        noise: tuple[Tensor | None, Tensor | None],
        coupling: Coupling,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Both streams after the exchange.

        Args:
            video: tokens ``[B, T_v S, D_v]``; None where all of its rows drive and are kept.
            audio: tokens ``[B, T_r + T_a, D_a]``, reference first; None likewise.
            noise: timestep embeddings ``[B, D]`` of video and audio.
            coupling: windows, tables and who drives.
        """
        from_video, from_audio = self._told(video, audio, noise, coupling)
        of_video, of_reference, of_audio = coupling.splits
        if video is not None:
            keys, values, audio_noise = from_audio
            levels = (noise[0], audio_noise)
            to_video = self.video_from_audio(video, keys, values, coupling.video_band, levels, of_video)
            if self.driver_isolated:
                to_video = _zero_where(coupling.video_drives, to_video)
            video = video + to_video.to(video.dtype)
        if audio is not None:
            keys, values, video_noise, *style = from_video
            reference, target = _split(audio, coupling.num_reference)
            levels = (noise[1], video_noise)
            to_audio = self.audio_from_video(target, keys, values, coupling.audio_band, levels, of_audio)
            if coupling.num_reference:
                # the last pair has no style alignment, but its reference keeps its place in the sequence
                styled = torch.zeros_like(reference)
                if self.style is not None:
                    styled = self.style(reference, *(style or (keys, values)), split=of_reference)
                to_audio = torch.cat([styled, to_audio], dim=1)
            if self.driver_isolated:
                to_audio = _zero_where(coupling.audio_drives, to_audio)
            audio = audio + to_audio.to(audio.dtype)
        return video, audio

    def _told(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        noise: tuple[Tensor | None, Tensor | None],
        coupling: Coupling,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Keys, values and noise of the video (and what the style has of its own) and of the audio."""
        from_video: tuple[Tensor, ...] | None = None
        from_audio: tuple[Tensor, ...] | None = None
        if audio is not None and noise[1] is not None:
            source = _split(audio, coupling.num_reference)[1]
            source = _detached_where(coupling.audio_drives, source) if self.detach_driver else source
            from_audio = (*self.video_from_audio.keys_values(source, coupling.splits[2]), noise[1])
        if video is not None and noise[0] is not None:
            source = _detached_where(coupling.video_drives, video) if self.detach_driver else video
            # shared with the style: keys and values of its own would cost as much as this whole direction
            from_video = (*self.audio_from_video.keys_values(source, coupling.splits[0]), noise[0])
            if self.style is not None and coupling.num_reference:
                from_video = (*from_video, *self.style.keys_values(source, coupling.splits[0]))
        if coupling.drivers is not None:
            return (
                coupling.drivers.complete("video", self, from_video),
                coupling.drivers.complete("audio", self, from_audio),
            )
        assert from_video is not None and from_audio is not None
        return from_video, from_audio


def _split(audio: Tensor, num_reference: int) -> tuple[Tensor, Tensor]:
    """Reference and target tokens of the audio stream."""
    reference, target = torch.split(audio, [num_reference, audio.shape[1] - num_reference], dim=1)
    return reference, target


def _detached_where(rows: Tensor | None, tokens: Tensor) -> Tensor:
    # per row: rows of one batch are driven by different modalities
    return tokens if rows is None else torch.where(rows[:, None, None], tokens.detach(), tokens)


def _zero_where(rows: Tensor | None, update: Tensor) -> Tensor:
    return update if rows is None else update.masked_fill(rows[:, None, None], 0.0)
