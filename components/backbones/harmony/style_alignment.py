"""The global pathway of Harmony's interaction: the whole video colours the reference sound.

Source: Harmony (arXiv 2511.21579), "Global Style Alignment": ``z_r <- z_r + CrossAttn(z_r W_Q, z_v W_K, z_v W_V)``,
without window and positions, and never the sound being generated. The target reads the updated reference through the
audio tower's own self-attention.

Legend: B rows, T_r reference tokens, L video tokens, W width of the attention, H heads, d = W / H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.backbones.attention_kernel import attention
from components.backbones.context_parallel import TokenSplit, from_attention, to_attend
from components.backbones.wan.normed_heads import normed_heads


class StyleAlignment(nn.Module):
    """Residual cross-attention of reference tokens over a video. Its output projection starts at zero.

    Args:
        reference_dim: width D of the audio stream.
        width: W, width of queries, keys and values.
        heads: H.
        video_dim: width of the video stream if this layer has its own keys and values (a second projection of all
            video tokens); None if it is handed the ones of the frame-level attention.
        eps: epsilon of all norms.
    """

    def __init__(
        self, reference_dim: int, width: int, heads: int, video_dim: int | None = None, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm_reference = nn.LayerNorm(reference_dim, eps=eps)
        self.to_q = nn.Linear(reference_dim, width)
        self.norm_q = nn.RMSNorm(width, eps=eps)
        self.to_out = nn.Linear(width, reference_dim)
        self.own: nn.ModuleDict | None = None
        if video_dim is not None:
            self.own = nn.ModuleDict(
                {
                    "norm_video": nn.LayerNorm(video_dim, eps=eps),
                    "to_k": nn.Linear(video_dim, width),
                    "to_v": nn.Linear(video_dim, width),
                    "norm_k": nn.RMSNorm(width, eps=eps),
                }
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Closes the output; the other layers reset themselves."""
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def keys_values(self, video: Tensor, split: TokenSplit | None = None) -> tuple[Tensor, ...]:
        """Keys and values ``[B, H, L, d]`` of its own of video tokens ``[B, L, D_v]``; none if it shares others'."""
        if self.own is None:
            return ()
        video = self.own["norm_video"](video.to(self.to_q.weight.dtype))
        keys = to_attend(normed_heads(self.own["norm_k"], self.own["to_k"](video), self.heads), split)
        return keys, to_attend(torch.unflatten(self.own["to_v"](video), -1, (self.heads, -1)), split)

    def forward(self, reference: Tensor, keys: Tensor, values: Tensor, split: TokenSplit | None = None) -> Tensor:
        """What the video adds to the reference.

        Args:
            reference: tokens ``[B, T_r, D]``.
            keys: of the video, not rotated, ``[B, H, L, d]``: from `keys_values`, or those of the frame-level attention
                over the same video.
            values: the same.
            split: how the reference is shared among processes.

        Returns:
            ``[B, T_r, D]``.
        """
        reference = self.norm_reference(reference.to(self.to_q.weight.dtype))
        q = to_attend(normed_heads(self.norm_q, self.to_q(reference), self.heads), split)
        # no mask and no rotation: style has no moment in time
        out = attention(q, keys, values, None)  # [B, H, T_r, d]
        update: Tensor = self.to_out(from_attention(out, split).flatten(2))
        return update
