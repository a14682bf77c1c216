"""One depth of the dual tower: a video block, an audio block, and what they tell each other.

The unit of sharding, compilation and activation checkpointing: whatever a layer's weights do, they do inside its
``forward``, and the hidden states enter and leave as plain tensors.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.attention.decoupled_interaction import Coupling, DecoupledInteraction
from components.backbones.wan_branch import StreamInputs, run_block


class HarmonyLayer(nn.Module):
    """A pair of blocks; either may be missing, and with it the interaction.

    Args:
        video_block: a Wan block.
        audio_block: a Wan block.
        interaction: the exchange after both blocks.
        checkpoint_activations: keep only the inputs for the backward pass and compute the rest again.
    """

    def __init__(
        self,
        video_block: nn.Module | None,
        audio_block: nn.Module | None,
        interaction: DecoupledInteraction | None,
        checkpoint_activations: bool = False,
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
        if self.checkpoint_activations and torch.is_grad_enabled():
            return cast(
                tuple[Tensor | None, Tensor | None],
                checkpoint(self._run, video, audio, video_inputs, audio_inputs, coupling, use_reentrant=False),
            )
        return self._run(video, audio, video_inputs, audio_inputs, coupling)

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
        if video is None or audio is None or coupling is None or self.interaction is None:
            return video, audio
        assert video_inputs is not None
        assert audio_inputs is not None
        return self.interaction(video, audio, (video_inputs.noise, audio_inputs.noise), coupling)
