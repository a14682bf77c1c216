"""One depth of Harmony's dual tower.

Legend: B rows, T_v video latents, T_a audio and T_r reference tokens, S tokens per video latent, D_v and D_a widths.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from components.backbones.harmony.interaction import Coupling, DecoupledInteraction
from components.backbones.recomputation import LayerPolicy, recomputed
from components.backbones.wan.model import StreamInputs, run_block


class HarmonyLayer(nn.Module):
    """One depth of the dual tower: a video block, an audio block, and their exchange; either block may be missing.

    The unit of sharding, compilation and activation checkpointing: whatever a layer's weights do, they do inside its
    ``forward``, and the hidden states enter and leave as plain tensors.

    Args:
        video_block: a Wan block.
        audio_block: a Wan block.
        interaction: the exchange after both blocks.
        checkpoint_activations: keep only the inputs for the backward pass and compute the rest again; ``selective``
            also keeps the results of attention.
    """

    def __init__(
        self,
        video_block: nn.Module | None,
        audio_block: nn.Module | None,
        interaction: DecoupledInteraction | None,
        checkpoint_activations: LayerPolicy = False,
    ) -> None:
        super().__init__()
        self.video_block = video_block
        self.audio_block = audio_block
        self.interaction = interaction
        self.checkpoint_activations = checkpoint_activations

    def forward(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        video_inputs: StreamInputs | None,
        audio_inputs: StreamInputs | None,
        coupling: Coupling | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Tokens of both streams after this depth; a stream that is None stays None.

        Args:
            video: ``[B, T_v S, D_v]``.
            audio: ``[B, T_r + T_a, D_a]``.
            video_inputs: text, modulation and positions of the video tokens.
            audio_inputs: the same for the audio tokens.
            coupling: windows of the interaction; None runs the towers side by side.
        """
        # Inside the layer, so that sharding's casts and gathers stand outside of what is computed again.
        return recomputed(self.checkpoint_activations, self._run, video, audio, video_inputs, audio_inputs, coupling)

    def _run(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        video_inputs: StreamInputs | None,
        audio_inputs: StreamInputs | None,
        coupling: Coupling | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        if video is not None and video_inputs is not None and self.video_block is not None:
            video = run_block(self.video_block, video, video_inputs)
        if audio is not None and audio_inputs is not None and self.audio_block is not None:
            audio = run_block(self.audio_block, audio, audio_inputs)
        if coupling is None or self.interaction is None:
            return video, audio
        noise = tuple(None if inputs is None else inputs.noise for inputs in (video_inputs, audio_inputs))
        return cast(tuple[Tensor | None, Tensor | None], self.interaction(video, audio, noise, coupling))
