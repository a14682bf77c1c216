"""SyncNet: embeds five frames of a face and 0.2 s of sound so that what belongs together lies close.

Architecture and parameter names are those of the public ``syncnet_v2.model`` (Chung and Zisserman, "Out of time:
automated lip sync in the wild", 2016; metrics specification, section 3).

Legend for shapes: B clips, T frames, W x W pixels, M windows, D embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from components.errors import InputError
from components.weights.named_files import names_files, published
from components.weights.pretrained import CONFIG_FILE, Sha256, find_file, load_safetensors, read_config, resolve_folder
from components.weights.whole_folder import whole_folder

FPS = 25
"""Frames per second the network was made for; the sound runs at four cepstra per frame."""
WINDOW_FRAMES = 5
WINDOW_CEPSTRA = 20
CEPSTRA_PER_FRAME = 4
"""Cepstra are at 100 Hz, frames at 25 fps."""

WEIGHTS_FILE = "model.safetensors"

_NUM_CONVS = 6


class SyncNet(nn.Module):
    """Two convolutional towers, one for lips and one for sound, into one space. Embeddings are not normalised.

    The default is the public model of 13.6 million parameters. Smaller widths and pictures make a small model of the
    same class.

    Args:
        lip_channels: widths of the six convolutions over pictures.
        audio_channels: widths of the six convolutions over cepstra.
        hidden_dim: width between the towers and the embedding.
        embed_dim: width of the embeddings.
        image_size: rows and columns of the pictures, at least 64.

    Raises:
        InputError: for another number of convolutions than six or too small a picture.
    """

    def __init__(
        self,
        lip_channels: Sequence[int] = (96, 256, 256, 256, 256, 512),
        audio_channels: Sequence[int] = (64, 192, 384, 256, 256, 512),
        hidden_dim: int = 512,
        embed_dim: int = 1024,
        image_size: int = 224,
    ) -> None:
        super().__init__()
        for name, widths in (("lip_channels", lip_channels), ("audio_channels", audio_channels)):
            if len(widths) != _NUM_CONVS:
                raise InputError(f"SyncNet.{name} has {len(widths)} widths; give six, one per convolution")
        side = _last_side(image_size)
        if side < 1:
            raise InputError(f"SyncNet.image_size is {image_size}; pictures need at least 64 pixels a side")
        self.config: dict[str, Any] = {
            "lip_channels": list(lip_channels),
            "audio_channels": list(audio_channels),
            "hidden_dim": hidden_dim,
            "embed_dim": embed_dim,
            "image_size": image_size,
        }
        self.image_size, self.embed_dim = image_size, embed_dim
        self.netcnnaud = _audio_tower(audio_channels)
        self.netfcaud = _head(audio_channels[-1], hidden_dim, embed_dim)
        self.netcnnlip = _lip_tower(lip_channels, side)
        self.netfclip = _head(lip_channels[-1], hidden_dim, embed_dim)

    def lip_features(self, frames: Tensor) -> Tensor:
        """``[B, 3, T, W, W]`` (BGR, 0..255) to the lip tower's output ``[B, T - 4, C]``, one row per window.

        Only the first convolution sees time, so a whole clip goes through as one tensor: its windows overlap by four
        frames and everything behind that convolution is computed once.
        """
        features: Tensor = self.netcnnlip(frames)
        return features.flatten(2).transpose(1, 2)

    def embed_lips(self, frames: Tensor) -> Tensor:
        """``[B, 3, T, W, W]`` (BGR, 0..255, 25 fps) to embeddings ``[B, T - 4, D]`` of the windows from each frame."""
        features = self.lip_features(frames)
        embeddings: Tensor = self.netfclip(features.flatten(0, 1))
        result: Tensor = embeddings.unflatten(0, features.shape[:2])
        return result

    def embed_sound(self, windows: Tensor) -> Tensor:
        """Cepstra ``[M, 1, 13, 20]`` of M windows (see `cepstrum_windows`) to embeddings ``[M, D]``.

        This tower pools over time up to the borders of a window, so it has to see each window on its own.
        """
        embeddings: Tensor = self.netfcaud(self.netcnnaud(windows).flatten(1))
        return embeddings

    @classmethod
    @published("download syncnet_v2.model of www.robots.ox.ac.uk/~vgg/software/lipsync and give its path")
    @names_files(source=None)
    def from_pretrained(cls, source: str | Path, sha256: Sha256 = None) -> SyncNet:
        """A network with the weights of a folder or of the public file, in evaluation mode.

        Args:
            source: folder written by `save_pretrained` (found by `components.weights.pretrained.resolve_folder`), or
                a file of weights in the public layout at full size, such as ``syncnet_v2.model``. Pickles are read as
                tensors only; code in them is refused.
            sha256: digest of the file, or of files in the folder by their names (see `components.weights.digests`).

        Raises:
            InputError: if it is missing, damaged or does not fit.
        """
        file = find_file(source, sha256)
        if file is not None:
            net = cls()
        else:
            folder = resolve_folder(source, sha256=sha256)
            file = folder / WEIGHTS_FILE
            try:
                net = cls(**read_config(folder))
            except TypeError as error:
                raise InputError(
                    f"{folder / CONFIG_FILE} is not the config of a SyncNet ({error}); give a folder written by "
                    "SyncNet.save_pretrained"
                ) from None
        load_safetensors(net, file)
        # in evaluation mode: batch norms use the stored moments, so a clip's score does not depend on its batch
        return net.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``config.json`` and ``model.safetensors``; the folder appears, or changes, as a whole."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with whole_folder(Path(folder)) as partial:
            (partial / WEIGHTS_FILE).write_bytes(save(weights))
            (partial / CONFIG_FILE).write_text(json.dumps(self.config, indent=2) + "\n")


def cepstrum_windows(cepstra: Tensor, num_windows: int) -> Tensor:
    """The sound of the windows from frame 0, 1, 2 ...: cepstra ``[F, 13]`` to ``[M, 1, 13, 20]``, a view."""
    # 20 cepstra, four to a frame: window i begins at cepstrum 4 i
    windows = cepstra.unfold(0, WINDOW_CEPSTRA, CEPSTRA_PER_FRAME)[:num_windows]  # [M, 13, 20]
    return windows[:, None]


def _audio_tower(widths: Sequence[int]) -> nn.Sequential:
    """13 x 20 cepstra to 1 x 1; the places in the sequence are those of the public checkpoint."""
    return nn.Sequential(
        *_conv2d(1, widths[0]),
        # the public sequence has a pooling of size 1 here, which does nothing but count
        nn.Identity(),
        *_conv2d(widths[0], widths[1]),
        nn.MaxPool2d(3, stride=(1, 2)),
        *_conv2d(widths[1], widths[2]),
        *_conv2d(widths[2], widths[3]),
        *_conv2d(widths[3], widths[4]),
        nn.MaxPool2d(3, stride=2),
        *_conv2d(widths[4], widths[5], kernel=(5, 4), padding=0),
    )


def _lip_tower(widths: Sequence[int], side: int) -> nn.Sequential:
    """T pictures to (T - 4) x 1 x 1; ``side`` is what is left of a picture before the last convolution."""
    return nn.Sequential(
        *_conv3d(3, widths[0], (WINDOW_FRAMES, 7, 7), stride=2, padding=0),
        nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
        *_conv3d(widths[0], widths[1], (1, 5, 5), stride=2, padding=1),
        nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        *_conv3d(widths[1], widths[2], (1, 3, 3), stride=1, padding=1),
        *_conv3d(widths[2], widths[3], (1, 3, 3), stride=1, padding=1),
        *_conv3d(widths[3], widths[4], (1, 3, 3), stride=1, padding=1),
        nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
        *_conv3d(widths[4], widths[5], (1, side, side), stride=1, padding=0),
    )


def _last_side(image_size: int) -> int:
    """Pixels a side before the lip tower's last convolution: 6 of 224."""
    side = image_size
    for kernel, stride, padding in ((7, 2, 0), (3, 2, 0), (5, 2, 1), (3, 2, 1), (3, 2, 0)):
        side = (side + 2 * padding - kernel) // stride + 1
    return side


def _conv2d(inside: int, outside: int, kernel: int | tuple[int, int] = 3, padding: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, kernel, padding=padding), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]


def _conv3d(inside: int, outside: int, kernel: tuple[int, int, int], stride: int, padding: int) -> list[nn.Module]:
    conv = nn.Conv3d(inside, outside, kernel, stride=(1, stride, stride), padding=(0, padding, padding))
    return [conv, nn.BatchNorm3d(outside), nn.ReLU(inplace=True)]


def _head(inside: int, hidden: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inside, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outside)
    )
