"""Shows clips in TensorBoard: moving pictures as animated GIF, sound as wav."""

from __future__ import annotations

from io import BytesIO

from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

MAX_CLIPS = 4
"""A GIF costs about a second and a megabyte; more of them at every validation would be felt."""
_MAX_FPS = 12.5


def add_clip(writer: SummaryWriter, tag: str, video: Tensor, fps: float, step: int) -> None:
    """Adds a moving picture; ``SummaryWriter.add_video`` needs a package that is not among the dependencies.

    Args:
        writer: where to.
        tag: name of the picture.
        video: uint8 ``[T, 3, H, W]``.
        fps: frames per second; faster clips are thinned out.
        step: training step.
    """
    every = max(1, round(fps / _MAX_FPS))
    # the octree is several times quicker than the default choice of 256 colours
    frames = [
        Image.fromarray(frame).quantize(method=Image.Quantize.FASTOCTREE)
        for frame in video[::every].permute(0, 2, 3, 1).numpy()
    ]
    # TensorBoard takes an animated GIF as an image and plays it
    encoded = BytesIO()
    frames[0].save(encoded, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 * every / fps), loop=0)
    height, width = video.shape[-2:]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded.getvalue())
    summary = Summary(value=[Summary.Value(tag=tag, image=image)])
    writer._get_file_writer().add_summary(summary, step)


def add_sound(writer: SummaryWriter, tag: str, audio: Tensor, sample_rate: int, step: int) -> None:
    """Adds mono sound ``[S]`` in [-1, 1]."""
    writer.add_audio(tag, audio.float().cpu().clamp(-1, 1)[None], step, sample_rate)
