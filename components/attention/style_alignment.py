"""Global style alignment: the whole video colours the reference sound, never the sound being generated.

Source: Harmony, "Global Style Alignment": ``z_r <- z_r + CrossAttn(Q_r, K_v, V_v)`` over all video tokens, without
window and without positions. The target reads the updated reference through the audio tower's own self-attention.
"""

from __future__ import annotations

from torch import Tensor, nn

from components.attention.kernel import attention


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

    def forward(self, reference: Tensor, video: Tensor, shared: tuple[Tensor, Tensor]) -> Tensor:
        """What the video adds to the reference.

        Args:
            reference: tokens ``[B, T_r, D]``.
            video: tokens ``[B, L, D_v]``; only read by layers with their own keys and values.
            shared: unrotated keys and values ``[B, H, L, d]`` of the frame-level attention over the same video.

        Returns:
            ``[B, T_r, D]``.
        """
        keys, values = shared
        if self.own is not None:
            video = self.own["norm_video"](video.to(self.to_q.weight.dtype))
            keys = self._heads(self.own["norm_k"](self.own["to_k"](video)))
            values = self._heads(self.own["to_v"](video))
        reference = self.norm_reference(reference.to(self.to_q.weight.dtype))
        q = self._heads(self.norm_q(self.to_q(reference)))
        out = attention(q, keys, values, None)
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
