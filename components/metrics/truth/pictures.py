"""How far pictures are from those that should be there: PSNR, PSNR where something moves, SSIM.

Legend for shapes: T frames, H x W pixels.
"""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

MOVING = 0.1
"""A pixel moves where a channel of the real clip differs by more than this, of 1, from its first frame."""


_EQUAL_DB = 100.0


def picture_scores(video: Tensor, real: Tensor) -> dict[str, float | None]:
    """`psnr_scores` and ``ssim``, which is 1 for equal pictures, of one clip whose frame 0 is given and does not count.

    Args:
        video: ``[T, 3, H, W]`` in [0, 1].
        real: ``[T, 3, H, W]`` in [0, 1], what should be there.
    """
    still, video, real = real[0], video[1:].float(), real[1:].float()
    ssim = structural_similarity_index_measure(video, real, data_range=1.0)
    assert isinstance(ssim, Tensor)
    return {**psnr_scores(video, real, still), "ssim": ssim.item()}


def psnr_scores(video: Tensor, real: Tensor, still: Tensor) -> dict[str, float | None]:
    """``psnr`` and ``psnr_moving`` in dB of one clip.

    The error of ``psnr_moving`` is the mean over the moving pixels of all frames together; it is None for a clip in
    which none moves.

    Args:
        video: ``[T, 3, H, W]`` in [0, 1].
        real: ``[T, 3, H, W]`` in [0, 1], what should be there.
        still: ``[3, H, W]`` the real clip's first frame.
    """
    video, real = video.float(), real.float()
    moving = ((real - still.float()).abs().amax(1, keepdim=True) > MOVING).expand_as(real)
    return {
        "psnr": _psnr(video, real),
        "psnr_moving": _psnr(video[moving], real[moving]) if moving.any() else None,
    }


def psnr_by_unit(video: Tensor, real: Tensor, frames_per_unit: int) -> list[float]:
    """PSNR in dB of every latent frame's pictures after the first, in order: how errors add up over a clip.

    Args:
        video: ``[T, 3, H, W]`` in [0, 1], whose frame 0 is given and does not count.
        real: ``[T, 3, H, W]`` in [0, 1], what should be there.
        frames_per_unit: frames per latent frame; the last one may be cut short.
    """
    units = zip(video[1:].float().split(frames_per_unit), real[1:].float().split(frames_per_unit), strict=True)
    return [_psnr(made, wanted) for made, wanted in units]


def _psnr(video: Tensor, real: Tensor) -> float:
    # equal pictures have no finite value: no more than what 8 bits tell
    return min(peak_signal_noise_ratio(video, real, data_range=1.0).item(), _EQUAL_DB)
