"""Syncphony's transformer: a Pyramid Flow backbone whose late blocks attend to the sound.

Early blocks are frozen and run without autograd; late blocks train and have an audio cross-attention layer in front.
With the audio layers skipped (`off_sync`) the model is the paper's off-sync model: same weights, no sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import register_fsdp_forward_method

from components.backbones.attention_kernel import attention_dtypes
from components.backbones.compilation import CompileConfig, compile_blocks
from components.backbones.context_parallel import ContextGroup
from components.backbones.pyramid_flow.column import Column
from components.backbones.pyramid_flow.model import PyramidFlowTransformer
from components.backbones.pyramid_flow.state import ColumnState
from components.backbones.recomputation import LayerPolicy, Recomputation, layer_policies, recomputed
from components.backbones.sharding import DEFAULT_SHARDING, Sharding, gather_ahead, shard_units
from components.backbones.syncphony.audio_cross_attention import AudioContext, AudioCrossAttention
from components.backbones.syncphony.audio_windows import AudioTimeline, RotaryAxes
from components.backbones.syncphony.checkpoint import load_audio_layers
from components.backbones.syncphony.listening import Listening
from components.contracts import AudioFeatures
from components.errors import InputError
from components.weights.named_files import names_files


@names_files(audio_weights=None)
class SyncphonyDiT(nn.Module):
    """Late blocks that train and attend to the sound, on top of early blocks that do not change.

    Args:
        backbone: a Pyramid Flow transformer (either variant).
        first_late_block: index of the first trainable block, ``0 .. len(backbone.blocks)``.
        audio_dim: width of the audio features; None builds no audio layers (pre-training of a backbone).
        timeline: window and rotary settings of the audio layers.
        train_embedders: also train patch, text and timestep embedders (only sensible with ``first_late_block: 0``).
        train_head: also train the final norm and projection.
        frozen_dtype: precision in which the frozen embedders and early blocks are kept and run.
        checkpoint_activations: which late blocks, each with its audio layer, keep only what goes into them and compute
            their insides again in the backward pass: ``full`` (true) all, ``none`` (false) none, n every n-th, and
            ``selective`` all but the results of attention. Early blocks keep and compute nothing again.
        bfloat16_timesteps: round timesteps (0-1000) to bfloat16, that is to multiples of up to 4. Pyramid Flow's own
            training and inference do so by accident, so its public weights may expect it; measure on your weights
            before switching it on, for outputs move by 10-20 %.
        audio_weights: a folder that ``avsync export`` has written, to begin with its audio layers; null begins with
            layers that change nothing.
        compile: run blocks through `torch.compile` (`CompileConfig`; ``{}`` takes its defaults); null does not.
            Attention itself and the audio layers stay as they are.

    Raises:
        InputError: if ``first_late_block`` is out of range, ``compile`` asks for one graph per block, or
            ``audio_weights`` does not fit.
    """

    def __init__(
        self,
        backbone: PyramidFlowTransformer,
        first_late_block: int,
        audio_dim: int | None,
        timeline: AudioTimeline | None = None,
        train_embedders: bool = False,
        train_head: bool = False,
        frozen_dtype: str = "float32",
        checkpoint_activations: Recomputation = False,
        bfloat16_timesteps: bool = False,
        audio_weights: str | None = None,
        compile: CompileConfig | None = None,
    ) -> None:
        super().__init__()
        num_blocks = len(backbone.blocks)
        if not 0 <= first_late_block <= num_blocks:
            raise InputError(
                f"first_late_block is {first_late_block} but the backbone has {num_blocks} blocks: "
                f"give a number from 0 (all late) to {num_blocks} (none late)."
            )
        if frozen_dtype not in ("float32", "bfloat16"):
            raise InputError(f"frozen_dtype is {frozen_dtype!r}: give float32 or bfloat16.")
        layer_policies(checkpoint_activations, num_blocks - first_late_block)  # an unknown one is told now
        self.backbone = backbone
        self.first_late_block = first_late_block
        self.audio_dim = audio_dim
        self.timeline = timeline or AudioTimeline()
        self.prefix_is_frozen = not train_embedders
        self.checkpoint_activations = checkpoint_activations
        self.bfloat16_timesteps = bfloat16_timesteps
        self.compute_dtype: torch.dtype | None = None
        dim, heads = backbone.dim, backbone.num_heads
        if audio_dim is None:
            self.audio_embedder, self.audio_layers = None, None
        else:
            self.audio_embedder = nn.Sequential(
                nn.LayerNorm(audio_dim), nn.Linear(audio_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
            )
            # one in front of each late block, and nowhere else (Syncphony, "Audio Cross-Attention + Audio RoPE")
            self.audio_layers = nn.ModuleList(
                AudioCrossAttention(dim, heads) for _ in range(num_blocks - first_late_block)
            )
        if audio_weights is not None:
            load_audio_layers(self.audio_parts, audio_weights)
        self._freeze(train_embedders, train_head)
        # nothing in here trains, so that half the memory costs no optimizer step
        if self.prefix_is_frozen:
            for module in self._frozen_modules():
                module.to(getattr(torch, frozen_dtype))
        if compile is not None:
            compile_blocks(backbone.blocks, compile, "attention of a Pyramid Flow block stays outside of its graphs")

    @property
    def audio_parts(self) -> nn.ModuleDict:
        """Audio embedder and audio layers under their names; empty for a transformer without them."""
        parts = {"audio_embedder": self.audio_embedder, "audio_layers": self.audio_layers}
        return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

    @property
    def late_policies(self) -> list[LayerPolicy]:
        """What every late block and the audio layer in front of it compute again in the backward pass."""
        return layer_policies(self.checkpoint_activations, len(self.backbone.blocks) - self.first_late_block)

    def _audio_layers(self) -> list[AudioCrossAttention]:
        return [layer for layer in self.audio_layers or () if isinstance(layer, AudioCrossAttention)]

    def _head(self) -> list[nn.Module]:
        return [self.backbone.get_submodule(name) for name in ("norm_out", "proj_out")]

    def _freeze(self, train_embedders: bool, train_head: bool) -> None:
        # The whole backbone first: head and blocks are parts of it and have settings of their own.
        self.backbone.requires_grad_(train_embedders)
        for module in self._head():
            module.requires_grad_(train_head)
        for i, block in enumerate(self.backbone.blocks):
            block.requires_grad_(i >= self.first_late_block)

    def _frozen_modules(self) -> list[nn.Module]:
        """Embedders and early blocks."""
        head = self._head()
        parts = [m for m in self.backbone.children() if not isinstance(m, nn.ModuleList) and m not in head]
        return [*parts, *self.backbone.blocks[: self.first_late_block]]

    def shard(self, mesh: DeviceMesh, device: torch.device, how: Sharding = DEFAULT_SHARDING) -> None:
        """Shard in place, see `shard_units`: every block and every audio layer is a unit, the rest is the root's.

        A forward pass that skips the audio layers never gathers their weights.
        """
        layers, self.compute_dtype = self._audio_layers(), how.compute_dtype
        shard_units((*self.backbone.blocks, *layers, self), mesh, device, how)
        # without the audio layers, which a forward pass may skip
        gather_ahead(list(self.backbone.blocks), how.prefetch)
        # What gathers weights outside of forward has to be named: sharding hooks into nothing else.
        for name in ("encode_audio", "encode_prefixes"):
            register_fsdp_forward_method(self, name)
        for layer in layers:
            register_fsdp_forward_method(layer, "keys_values")

    def split_context(self, mesh: DeviceMesh) -> None:
        """Share the tokens of every column among the processes of ``mesh``, as `HarmonyTransformer.split_context`.

        The sound is not shared: every process's video tokens attend to all of it.

        Raises:
            InputError: if they cannot share the attention heads evenly.
        """
        context = ContextGroup(mesh)
        context.check_heads("the backbone", self.backbone.num_heads)
        self.backbone.context = context

    def memory_bytes_per_token(self, rows: int, twins: int, device: torch.device) -> int:
        """Bytes that keys and values of one token take in all blocks (`ColumnMemory`), of this process's heads.

        Args:
            rows: rows of the column.
            twins: off-sync twins among them, which late blocks run too.
            device: where they are computed.
        """
        total = 0
        for i, block in enumerate(self.backbone.blocks):
            dtype = self.compute_dtype or next(block.parameters()).dtype
            if _autocasts(device.type):
                dtype = torch.get_autocast_dtype(device.type)
            sizes = sum(kind.itemsize for kind in attention_dtypes(dtype, device))
            total += (rows + (twins if i >= self.first_late_block else 0)) * self.backbone.dim * sizes
        return total if self.backbone.context is None else total // self.backbone.context.size

    def encode_audio(
        self, audio: AudioFeatures, num_latents: int, fps: float, temporal_factor: int
    ) -> AudioContext | None:
        """Keys and values of all audio layers; None for a transformer without audio layers.

        They depend on the sound alone: compute once per clip, use in every denoising step.

        Args:
            audio: tokens of B clips, ``[B, N, audio_dim]``.
            num_latents: L, latent frames of the clips.
            fps: frames per second of the clips.
            temporal_factor: frames per latent frame after the first, the video codec's.
        """
        return None if self.audio_dim is None else self._encoded([(audio, num_latents)], fps, temporal_factor)[0]

    def encode_prefixes(
        self, prefixes: Sequence[tuple[AudioFeatures, int]], fps: float, temporal_factor: int
    ) -> list[AudioContext] | None:
        """`encode_audio` of groups of clips, of each group its first latent frames alone.

        A training column is a prefix of its clips: what is heard after it is not projected.

        Args:
            prefixes: tokens of a group's clips, and how many latent frames are wanted.
            fps: as in `encode_audio`.
            temporal_factor: as in `encode_audio`.
        """
        return None if self.audio_dim is None else self._encoded(prefixes, fps, temporal_factor)

    def _encoded(
        self, prefixes: Sequence[tuple[AudioFeatures, int]], fps: float, temporal_factor: int
    ) -> list[AudioContext]:
        backbone, embedder = self.backbone, self.audio_embedder
        assert embedder is not None
        head_dim, axes = backbone.dim // backbone.num_heads, RotaryAxes(backbone.axes_dims, backbone.rope_theta)
        windows = [
            self.timeline.windows(audio, latents, head_dim, fps, temporal_factor, axes) for audio, latents in prefixes
        ]
        # all groups in one product; encoders and caches may give another precision than the embedder computes in
        heard = [
            audio.tokens[:, : group.key_rope.shape[1]].flatten(0, 1)
            for (audio, _), group in zip(prefixes, windows, strict=True)
        ]
        embedded = embedder(torch.cat(heard).to(next(embedder.parameters()).dtype))
        layers = [layer.keys_values(embedded, windows) for layer in self._audio_layers()]
        return [AudioContext(group, tuple(layer[i] for layer in layers)) for i, group in enumerate(windows)]

    def forward(
        self,
        columns: Sequence[Column],
        audio: Sequence[AudioContext] | None = None,
        off_sync: bool = False,
        off_sync_twins: Tensor | None = None,
    ) -> list[Tensor]:
        """Velocity of every column's last clip.

        Args:
            columns: the input.
            audio: for each column the sound of its rows (`encode_audio`); needed unless ``off_sync``.
            off_sync: skip the audio layers, nothing else: the off-sync model of audio sync guidance.
            off_sync_twins: rows of which an off-sync twin is wanted too, ``[F]``. The early blocks run once for row
                and twin; the twins' velocities are appended behind the rows.

        Returns:
            ``[R (+ F), C, t, h, w]`` per column.

        Raises:
            ValueError: if a transformer with audio layers gets no ``audio`` and is not ``off_sync``.
        """
        if self.audio_layers is None or off_sync:
            audio = None
        elif audio is None:
            raise ValueError("columns without audio can only run off-sync")
        if self.bfloat16_timesteps:
            # through bfloat16 and back: the sinusoid itself stays float32
            columns = [replace(column, timesteps=column.timesteps.bfloat16().float()) for column in columns]
        frozen = torch.no_grad() if self.prefix_is_frozen else nullcontext()
        blocks = self.backbone.blocks
        early, late, last = blocks[: self.first_late_block], blocks[self.first_late_block :], blocks[-1]
        # 1. embed and run the early blocks: no graph, no activations kept
        with frozen:
            states = [self.backbone.embed(column) for column in columns]
            for block in early:
                states = block(states, current_only=block is last)
        # 2. hand over to the late blocks
        weight_dtype = next(self._head()[1].parameters()).dtype
        # Under autocast products are cast anyway; elsewhere frozen_dtype must not reach the late blocks.
        if not _autocasts(states[0].tokens.device.type):
            states = [
                replace(s, tokens=s.tokens.to(weight_dtype), condition=s.condition.to(weight_dtype)) for s in states
            ]
        # Rows and twins part only here: a guided step runs 2 n + k blocks instead of 3 n, where k of n blocks are late.
        if off_sync_twins is not None:
            states = [_with_twins(state, off_sync_twins) for state in states]
        # 3. late blocks, each with its audio layer in front
        heard = None
        if audio is not None:
            heard = [(s, Listening.of(at.layout, s.windows)) for at, s in zip(states, audio, strict=True)]
        # Nothing inside draws random numbers, so their state need not be kept.
        for i, (block, policy) in enumerate(zip(late, self.late_policies, strict=True)):
            if heard is not None:
                states = self._add_audio(i, states, columns, heard)  # before the block's joint self-attention
            states = recomputed(policy, block, states, block is last, draws=False)
        return [self.backbone.read_out(state) for state in states]

    def _add_audio(
        self,
        i: int,
        states: Sequence[ColumnState],
        columns: Sequence[Column],
        heard: Sequence[tuple[AudioContext, Listening]],
    ) -> list[ColumnState]:
        """Add audio layer ``i`` to the video tokens of the columns' own rows (not to off-sync twins behind them)."""
        parts = [_text_video_twins(state, column.num_rows) for state, column in zip(states, columns, strict=True)]
        inputs = [(video, sound.layers[i], there) for (_, video, _), (sound, there) in zip(parts, heard, strict=True)]
        changes = recomputed(self.late_policies[i], self._audio_layers()[i], inputs, draws=False)
        if not torch.is_grad_enabled():
            # in place, in what the block before has made: copies cost a guided step a tenth of its time
            for (_, video, _), change in zip(parts, changes, strict=True):
                video.add_(change.to(video.dtype))
            return list(states)
        # the tokens before the change are needed in the backward pass
        changed = [
            torch.cat([text, video + change.to(video.dtype)], dim=1)
            for (text, video, _), change in zip(parts, changes, strict=True)
        ]
        return [
            state.with_tokens(torch.cat([tokens, *twins]) if twins else tokens)
            for state, tokens, (_, _, twins) in zip(states, changed, parts, strict=True)
        ]


def _autocasts(device_type: str) -> bool:
    """Whether matrix products are cast by autocast (which does not know the meta device)."""
    return is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def _text_video_twins(state: ColumnState, rows: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Text ``[R, M, D]`` and video tokens ``[R, N, D]`` of the column's own rows, and what stands behind them."""
    tokens, twins = state.tokens, []
    if rows < tokens.shape[0]:
        tokens, *twins = tokens.split([rows, tokens.shape[0] - rows])
    m = state.layout.num_text
    text, video = tokens.split([m, tokens.shape[1] - m], dim=1)
    return text, video, twins


def _with_twins(state: ColumnState, twins: Tensor) -> ColumnState:
    return state.rows(torch.cat([torch.arange(state.tokens.shape[0], device=twins.device), twins]))
