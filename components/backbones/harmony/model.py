"""Harmony's dual tower: Wan2.2 for the video, a tower of the same make for the audio, coupled at every depth.

Source: Harmony (arXiv 2511.21579), "Overall Architecture". One loop over pairs of blocks (`HarmonyLayer`) runs video
alone, audio alone or both. Every row of a batch has its own pair of timesteps, so joint, audio-driven (audio at 0) and
video-driven rows (video at 0) share one forward pass.

Legend: B rows, T_v video latents, T_a audio and T_r reference tokens, S tokens per video latent, C channels, D_v and
D_a widths of the towers, h x w latent pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from components.backbones.compilation import CompileConfig, compile_blocks
from components.backbones.context_parallel import ContextGroup, TokenSplit
from components.backbones.harmony.audio_tower import AudioTower
from components.backbones.harmony.drivers import DriverFeatures
from components.backbones.harmony.frame_band import TokenShape, frame_bands
from components.backbones.harmony.interaction import Coupling, DecoupledInteraction, InteractionConfig
from components.backbones.harmony.layer import HarmonyLayer
from components.backbones.recomputation import Recomputation, layer_policies
from components.backbones.sharding import DEFAULT_SHARDING, Sharding, gather_ahead, shard_units
from components.backbones.wan.model import Grid, StreamInputs, WanTower, video_rope
from components.contracts import MODALITIES, Modality, TextFeatures
from components.errors import InputError
from components.media.clock import LatentClock, TimeMap

PARTS = ("video", "audio", "interaction")
Tower = TypeVar("Tower", bound=WanTower)


@dataclass(frozen=True)
class _Stream:
    """One modality during a forward pass.

    Attributes:
        inputs: what every block needs.
        embedding: timestep embeddings ``[B, n, D]`` of what is generated.
        grid: latents in time, patch rows, patch columns.
        drives: bool ``[B]``, rows in which this modality is clean.
        num_reference: reference tokens in front (of this process, where they are shared).
        split: how the tokens of what is generated are shared among processes.
    """

    inputs: StreamInputs
    embedding: Tensor
    grid: Grid
    drives: Tensor
    num_reference: int = 0
    split: TokenSplit | None = None


class HarmonyTransformer(nn.Module):
    """Velocities of video and audio latents from both noisy latents, a reference sound, texts and two timesteps.

    With a fresh interaction the outputs are those of the two towers alone, bit for bit.

    Args:
        video: the video tower, or null to train the audio tower alone.
        audio: the audio tower, or null to run the video tower alone.
        interaction: size and manner of the exchange; null (or a missing tower) couples nothing.
        time_map: where audio tokens stand among the video latents, ``linear`` (the paper) or ``causal``, see
            `LatentClock`.
        checkpoint_activations: what the backward pass computes again instead of keeping it: ``none`` (false), ``full``
            (true: every layer), ``selective`` (every layer, but the results of attention are kept), or n: every n-th
            layer.
        attention_backend: diffusers' attention backend for the towers' own attention (``native``, ``flash``,
            ``_flash_3``, ``sage`` ...); null takes the library's default.
        compile: run layers through `torch.compile` (`CompileConfig`; ``{}`` takes its defaults); null does not.

    Attributes:
        layers: the pairs of blocks, units of sharding and compilation.

    Raises:
        InputError: if there is no tower, the towers differ in depth, the backend is unknown or not installed, or
            ``compile`` asks for one graph per layer where drivers are isolated.
    """

    def __init__(
        self,
        video: WanTower | None = None,
        audio: AudioTower | None = None,
        interaction: InteractionConfig | None = None,
        time_map: TimeMap = "linear",
        checkpoint_activations: Recomputation = False,
        attention_backend: str | None = None,
        compile: CompileConfig | None = None,
    ) -> None:
        super().__init__()
        depths = {name: len(tower.blocks) for name, tower in (("video", video), ("audio", audio)) if tower is not None}
        if not depths:
            raise InputError("HarmonyTransformer has neither a video nor an audio tower: give at least one of them.")
        if len(set(depths.values())) > 1:
            raise InputError(
                f"the video tower has {depths['video']} layers and the audio tower {depths['audio']}: they are coupled "
                "layer by layer, so give both the same num_layers."
            )
        self.time_map: TimeMap = time_map
        self.interaction_config = interaction if video is not None and audio is not None else None
        self.video, self.audio = video, audio
        depth = next(iter(depths.values()))
        video_blocks, audio_blocks = ([None] * depth if t is None else _take_blocks(t) for t in (video, audio))
        layers, policies = [], layer_policies(checkpoint_activations, depth)
        for i, (video_block, audio_block) in enumerate(zip(video_blocks, audio_blocks, strict=True)):
            exchange = None
            if video is not None and audio is not None and interaction is not None:
                exchange = DecoupledInteraction(video.dim, audio.dim, interaction, last=i == depth - 1)
            layers.append(HarmonyLayer(video_block, audio_block, exchange, policies[i]))
        self.layers = nn.ModuleList(layers)  # towers keep embedders and heads alone
        self._context: ContextGroup | None = None
        self._compiled = False
        if attention_backend is not None:
            self._set_attention_backend(attention_backend)
        if compile is not None:
            self.compile_layers(compile)

    def compile_layers(self, config: CompileConfig) -> None:
        """Compile every layer in place, see `compile_blocks`."""
        self._compiled = True
        kept = self.interaction_config is not None and self.interaction_config.driver_isolated
        reason = "with interaction.driver_isolated sampling keeps features between the graphs of a layer"
        compile_blocks(self.layers, config, reason if kept else None)

    def shard(self, mesh: DeviceMesh, device: torch.device, how: Sharding = DEFAULT_SHARDING) -> None:
        """Shard in place, see `shard_units`: every layer (both blocks, their interaction) is a unit, then the root."""
        # Timestep embedders compute in the precision their weights have: diffusers too keeps them in float32 beside
        # bfloat16 blocks, because sinusoids of timesteps up to 1000 say little in eight bits.
        towers = [tower for tower in (self.video, self.audio) if tower is not None]
        exact = replace(how, compute_dtype=None)
        shard_units([tower.condition_embedder.time_embedder for tower in towers], mesh, device, exact)
        shard_units((*self.layers, self), mesh, device, how)
        gather_ahead(list(self.layers), how.prefetch)

    def split_context(self, mesh: DeviceMesh) -> None:
        """Share the tokens of every clip among the processes of ``mesh``, see `components.backbones.context_parallel`.

        From then on they have to call ``forward`` with the same inputs, and get the same outputs.

        Raises:
            InputError: if they cannot share the heads of all attention layers evenly, there is dropout, or layers
                are compiled.
        """
        context = ContextGroup(mesh)
        dropout = max((part.p for part in self.modules() if isinstance(part, nn.Dropout)), default=0.0)
        if dropout and context.size > 1:
            raise InputError(
                f"context_parallel_size is {context.size}, but there is dropout of {dropout}, of which processes would "
                "draw the same for different tokens: set the dropout of the adapters to 0."
            )
        if self._compiled and context.size > 1:
            # an exchange splits a layer into graphs, and a layer that is computed again is compiled whole or not at all
            raise InputError(
                f"context_parallel_size is {context.size}, but layers in which processes exchange tokens cannot be "
                "compiled: leave compile of the transformer out."
            )
        for name, tower in (("the video tower", self.video), ("the audio tower", self.audio)):
            if tower is not None:
                context.check_heads(name, tower.dim // tower.head_dim)
        if self.interaction_config is not None:
            context.check_heads("the interaction", self.interaction_config.num_heads)
        self._context = context

    def _split(self, *lengths: int) -> TokenSplit | None:
        return None if self._context is None else self._context.split(lengths)

    def _set_attention_backend(self, name: str) -> None:
        from diffusers.models.attention import AttentionModuleMixin
        from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

        try:
            for module in self.layers.modules():
                if isinstance(module, AttentionModuleMixin):
                    module.set_attention_backend(name)
            with attention_backend(AttentionBackendName(name)):  # says whether its library is there
                pass
        except (ValueError, RuntimeError, ImportError, OSError) as error:
            raise InputError(f"attention_backend is '{name}': {error}") from None

    def forward(
        self,
        z_v: Tensor | None,
        z_a: Tensor | None,
        z_r: Tensor | None = None,
        *,
        t_v: Tensor | None = None,
        t_a: Tensor | None = None,
        first_frame: Tensor | None = None,
        text_v: TextFeatures | None = None,
        text_a: TextFeatures | None = None,
        transcript: TextFeatures | None = None,
        ref_len: Tensor | None = None,
        clock: LatentClock | None = None,
        active: Sequence[Modality] = MODALITIES,
        drivers: DriverFeatures | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Velocities ``(v_v [B, C_v, T_v, h, w], v_a [B, C_a, T_a])``; None for a modality that is not active.

        Args:
            z_v: noisy video latents ``[B, C_v, T_v, h, w]``; where ``first_frame``, latent 0 is the clean one.
            z_a: noisy audio latents ``[B, C_a, T_a]``.
            z_r: clean latents of the reference sound ``[B, C_a, T_r]``, padded at the end. Without ``z_r`` and
                ``ref_len`` there is no reference segment at all.
            t_v: timesteps of the video in 0 .. 1000, ``[B]`` or per latent ``[B, T_v]``; 0 for a row whose video
                drives.
            t_a: timesteps of the audio ``[B]``; 0 for a row whose audio drives.
            first_frame: bool ``[B]``, rows whose latent 0 is given: it gets timestep 0. Its velocity means nothing.
            text_v: encoded prompts of the video.
            text_a: encoded descriptions of the acoustic scene.
            transcript: encoded spoken words, or None.
            ref_len: real latents of each reference ``[B]``; 0 shows the learned null token. All of ``z_r`` if None.
            clock: rates of the latents; audio needs it.
            active: which towers run. The interaction takes place where both do.
            drivers: from `driver_features`. The first pass with them fills them; later ones must have the same rows
                that drive, with the same conditions, leave these out and give zeros for their velocities.

        Raises:
            ValueError: if an active modality lacks its tower, latents, timesteps, text or clock.
        """
        video, audio = None, None  # tokens: [B, T_v S, D_v], [B, T_r + T_a, D_a]
        video_stream, audio_stream = None, None

        def live(side: Modality, *given: Any) -> Any:
            return given if drivers is None else tuple(drivers.live(side, one) for one in given)

        if "video" in active and (drivers is None or drivers.is_live("video")):
            video, video_stream = self._video_stream(*live("video", z_v, t_v, first_frame, text_v))
        if "audio" in active and (drivers is None or drivers.is_live("audio")):
            shown = video_stream if drivers is None else drivers.stream("video", video_stream)
            num_video = None if shown is None else shown.grid[0]
            z_a, z_r, t_a, text_a, transcript, ref_len = live("audio", z_a, z_r, t_a, text_a, transcript, ref_len)
            audio, audio_stream = self._audio_stream(z_a, z_r, t_a, text_a, transcript, ref_len, clock, num_video)
        video_inputs, audio_inputs = (None if s is None else s.inputs for s in (video_stream, audio_stream))
        coupling = self._coupling(video_stream, audio_stream, clock, drivers)

        for layer in self.layers:
            video, audio = layer(video, audio, video_inputs, audio_inputs, coupling)

        v_v = v_a = None
        if video is not None and video_stream is not None and self.video is not None:
            v_v = self.video.read_out(video, video_stream.embedding, video_stream.grid, video_stream.split)
        if audio is not None and audio_stream is not None and self.audio is not None:
            target = audio[:, audio_stream.num_reference :]  # the reference is given: it has no velocity
            v_a = self.audio.read_out(target, audio_stream.embedding, audio_stream.grid, audio_stream.split).flatten(2)
        if drivers is not None:
            v_v, v_a = drivers.all_rows("video", v_v), drivers.all_rows("audio", v_a)
            drivers.filled = True
        return v_v, v_a

    def driver_features(self, num_rows: int, driving: Mapping[Modality, Sequence[int]]) -> DriverFeatures | None:
        """A place for the features of rows that drive in many forward passes; None where they do change.

        Args:
            num_rows: rows of the passes.
            driving: by modality, the rows in which it is clean at timestep 0, the same in all passes.
        """
        config = self.interaction_config
        if config is None or not config.driver_isolated or not any(driving.values()):
            return None
        return DriverFeatures(num_rows, driving)

    def _video_stream(
        self, latents: Tensor | None, timesteps: Tensor | None, first_frame: Tensor | None, text: TextFeatures | None
    ) -> tuple[Tensor, _Stream]:
        """Video tokens, and what the layers and the head need of the stream."""
        tower, latents, timesteps, text = _present("video", self.video, latents, timesteps, text)
        grid = tower.grid(latents)
        timesteps = _frame_timesteps(timesteps, first_frame, grid[0])  # [B, T_v]
        embedding, modulation, context = tower.condition(timesteps, text)  # [B, T_v, D], [B, T_v, 6, D], [B, M, D]
        rope = video_rope(grid, tower.head_dim, latents.device)
        # the last latent's timestep is that of the noisy part: latent 0 may be a first frame that is given
        tokens, split = tower.embed(latents), self._split(*[grid[1] * grid[2]] * grid[0])  # a share of every latent
        if split is not None:
            tokens, rope = split.share(tokens), rope.share(split)
        inputs = StreamInputs(context, modulation, embedding[:, -1], rope, tower.visible(text), split=split)
        return tokens, _Stream(inputs, embedding, grid, (timesteps == 0).all(dim=1), split=split)

    def _audio_stream(
        self,
        latents: Tensor | None,
        reference: Tensor | None,
        timesteps: Tensor | None,
        text: TextFeatures | None,
        transcript: TextFeatures | None,
        ref_len: Tensor | None,
        clock: LatentClock | None,
        num_video: int | None,
    ) -> tuple[Tensor, _Stream]:
        """Audio tokens ``[z_r; z_a]``, reference first, and what the layers and the head need of the stream."""
        tower, latents, timesteps, text = _present("audio", self.audio, latents, timesteps, text)
        tokens, token_mask, num_target = tower.embed_target(latents), None, latents.shape[2]  # [B, T_a, D]
        segments = timesteps[:, None]
        if reference is not None or ref_len is not None:
            spoken, shown = tower.embed_reference(reference, len(latents), ref_len)  # [B, T_r, D], [B, T_r]
            tokens = torch.cat([spoken, tokens], dim=1)
            segments = torch.cat([torch.zeros_like(segments), segments], dim=1)  # the reference is clean
            if ref_len is not None:
                token_mask = torch.cat([shown, shown.new_ones(tokens.shape[0], num_target)], dim=1)[:, None, None]
        num_reference = tokens.shape[1] - num_target
        embedding, modulation, context = tower.condition(segments, text)
        context_mask = tower.visible(text)
        if transcript is not None:
            context, context_mask = tower.add_transcript(context, context_mask, transcript)
        if clock is None:
            raise ValueError("audio is active but lacks a clock")
        # without a video, the video that the sound would have decides the scale T_v / T_a: all stages share positions
        num_video = num_video or clock.num_video_latents(num_target)
        rope = tower.rope(num_reference, num_target, num_video, latents.device)
        lengths: tuple[int, ...] | None = (num_reference, num_target) if num_reference else None
        split, of_target = self._split(*(lengths or (num_target,))), None
        if split is not None:
            tokens, rope, of_target = split.share(tokens), rope.share(split), split.last(1)
            lengths, num_reference = lengths and split.local_lengths, split.num_local - of_target.num_local
        inputs = StreamInputs(context, modulation, embedding[:, -1], rope, context_mask, token_mask, lengths, split)
        stream = _Stream(inputs, embedding[:, -1:], (num_target, 1, 1), timesteps == 0, num_reference, of_target)
        return tokens, stream

    def _coupling(
        self,
        video: _Stream | None,
        audio: _Stream | None,
        clock: LatentClock | None,
        drivers: DriverFeatures | None = None,
    ) -> Coupling | None:
        config = self.interaction_config
        shown, heard = video, audio  # also where all rows of one are kept
        if drivers is not None:
            shown, heard = drivers.stream("video", video), drivers.stream("audio", audio)
        if shown is None or heard is None or config is None or clock is None:
            return None
        shape = TokenShape(shown.grid, heard.grid[0])
        device = heard.embedding.device
        bands = frame_bands(clock, self.time_map, config.band, shape, config.head_dim, device)
        video_drives = audio_drives = None
        if config.driver_isolated or config.detach_driver:
            video_drives, audio_drives = (None if stream is None else stream.drives for stream in (video, audio))
        of_audio = heard.inputs.split  # reference and target
        splits = (shown.split, None if of_audio is None else of_audio.first(), heard.split)
        return Coupling(*bands, heard.num_reference, video_drives, audio_drives, drivers, splits)


def part_of(name: str) -> str:
    """Which of `PARTS` a parameter of a `HarmonyTransformer` belongs to."""
    if name.startswith("video.") or ".video_block." in name:
        return "video"
    return "audio" if name.startswith("audio.") or ".audio_block." in name else "interaction"


def _take_blocks(tower: WanTower) -> list[nn.Module]:
    """The blocks of a tower, which from now on belong to the layers."""
    blocks = list(tower.blocks)
    tower.blocks = nn.ModuleList()
    return blocks


def _frame_timesteps(timesteps: Tensor, first_frame: Tensor | None, num_frames: int) -> Tensor:
    """``[B, T_v]``: the row's timestep, 0 at a first frame that is given."""
    frames = timesteps if timesteps.ndim == 2 else timesteps[:, None].expand(-1, num_frames)
    if first_frame is None:
        return frames
    # made anew: ``frames`` may be one timestep expanded over all latents, which cannot be written to
    given = torch.zeros(frames.shape, dtype=torch.bool, device=frames.device)
    given[:, 0] = first_frame
    return frames.masked_fill(given, 0)


def _present(
    modality: Modality, tower: Tower | None, latents: Tensor | None, timesteps: Tensor | None, text: TextFeatures | None
) -> tuple[Tower, Tensor, Tensor, TextFeatures]:
    if tower is None or latents is None or timesteps is None or text is None:
        parts = {"its tower": tower, "latents": latents, "timesteps": timesteps, "text": text}
        missing = ", ".join(name for name, part in parts.items() if part is None)
        raise ValueError(f"{modality} is active but lacks {missing}")
    return tower, latents, timesteps, text
