"""ASVA's AVSync classifier: one number that says how well two seconds of picture and sound belong together.

Architecture and parameter names are those of the public checkpoint (Zhang et al., "Audio-Synchronized Visual
Animation", 2024, arXiv 2403.05659; metrics specification, section 5). The towers are those of AVID-CMA (Morgado et
al., 2021).

Legend for shapes: B clips, C widths, F mel bins, N mel frames, T video frames, W x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from components.errors import InputError
from components.weights.file import open_weights
from components.weights.fit import copy_weights
from components.weights.identity import record_identity
from components.weights.named_files import names_files, published
from components.weights.pretrained import Sha256, builds_shapes_only, check_release, find_folder, resolve_folder

PARTS = ("audio_encoder", "video_encoder", "head")
"""Folders of the public checkpoint's ``modules``, and attributes of the classifier."""

SOURCE = (
    "unpack checkpoint-40000 of Google Drive file 1Paqjad4a8mjujMJBEYqmnNEgGPi595lb (linked in "
    "github.com/lzhangbj/ASVA) and give its folder 'modules'"
)


class AVSyncClassifier(nn.Module):
    """A convolutional tower over log-mels, an R(2+1)D over frames, and three linear layers over both.

    The default is the public model of 20.8 million parameters; smaller widths make a small model of the same class.

    Args:
        widths: channels of the four stages of either tower; the last one is the width of an embedding.

    Raises:
        InputError: for another number of widths than four.
    """

    def __init__(self, widths: Sequence[int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        if len(widths) != 4:
            raise InputError(f"AVSyncClassifier.widths has {len(widths)} numbers; give four, one per stage")
        self.audio_encoder = AudioTower(widths)
        self.video_encoder = VideoTower(widths)
        self.head = Head(widths[-1])

    def forward(self, mel: Tensor, frames: Tensor) -> Tensor:
        """Log-mels ``[B, 1, F, N]`` and frames ``[B, 3, T, W, W]`` to scores ``[B]``; higher is more in step."""
        score: Tensor = self.head(self.audio_encoder(mel), self.video_encoder(frames))
        return score

    @classmethod
    @published(SOURCE)
    @names_files(source=None)
    def from_pretrained(cls, source: str | Path, sha256: Sha256 = None) -> AVSyncClassifier:
        """The public model with its weights, in evaluation mode.

        Args:
            source: the folder ``modules`` of the public checkpoint: ``audio_encoder``, ``video_encoder`` and ``head``
                as diffusers writes them. Pickles are read as tensors only; code in them is refused.
            sha256: digests of files by their names within ``source``
                (``video_encoder/diffusion_pytorch_model.bin``).

        Raises:
            InputError: if it is missing, damaged or does not fit.
        """
        classifier = cls()
        if builds_shapes_only():
            return classifier.eval()
        if find_folder(source) is not None:
            absent = [part for part in PARTS if find_folder(source, part) is None]
            if absent:
                raise InputError(f"'{source}' has no folder {' and no '.join(absent)}; {SOURCE}")
        check_release(source, PARTS, sha256)
        files: list[Path] = []
        for part in PARTS:
            weights = open_weights(resolve_folder(source, part))
            files += weights.files
            copy_weights(classifier.get_submodule(part), weights)
        record_identity(classifier, str(source), files)
        return classifier.eval()


class AudioTower(nn.Module):
    """Log-mels ``[B, 1, F, N]`` to ``[B, C]``: plain convolutions, a sixteenth of either side, then the mean."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(1, widths[0], 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        self.block1 = _MelBlock(widths[0], widths[0], stride=2)
        self.block2 = _MelBlock(widths[0], widths[1], stride=2)
        self.block3 = _MelBlock(widths[1], widths[2], stride=2)
        self.block4 = _MelBlock(widths[2], widths[3], stride=1)

    def forward(self, mel: Tensor) -> Tensor:
        """See class."""
        features = self.conv1(mel)
        for block in (self.block1, self.block2, self.block3, self.block4):
            features = block(features)
        result: Tensor = features.mean(dim=(2, 3))
        return result


class VideoTower(nn.Module):
    """Frames ``[B, 3, T, W, W]`` to ``[B, C]``: an R(2+1)D of eight blocks, then the mean over time and place."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv3d(3, widths[0], (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
            nn.BatchNorm3d(widths[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        )
        self.conv2x = _stage(widths[0], widths[0], stride=1)
        self.conv3x = _stage(widths[0], widths[1], stride=2)
        self.conv4x = _stage(widths[1], widths[2], stride=2)
        self.conv5x = _stage(widths[2], widths[3], stride=2)

    def forward(self, frames: Tensor) -> Tensor:
        """See class."""
        features = self.conv1(frames)
        for stage in (self.conv2x, self.conv3x, self.conv4x, self.conv5x):
            features = stage(features)
        result: Tensor = features.mean(dim=(2, 3, 4))
        return result


class Head(nn.Module):
    """Both embeddings ``[B, C]``, the sound's first, to a score ``[B]``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # the places of the public sequence, which has a dropout of nothing behind the first two layers
        self.fc = nn.Sequential(
            nn.Linear(2 * dim, dim),
            nn.Identity(),
            nn.ReLU(inplace=True),
            nn.Linear(dim, dim // 2),
            nn.Identity(),
            nn.ReLU(inplace=True),
            nn.Linear(dim // 2, 1),
        )

    def forward(self, sound: Tensor, video: Tensor) -> Tensor:
        """See class."""
        score: Tensor = self.fc(torch.cat([sound, video], dim=1))
        return score[:, 0]


class _MelBlock(nn.Module):
    """Two convolutions without a residual."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)

    def forward(self, features: Tensor) -> Tensor:
        features = self.bn1(self.conv1(features)).relu()
        result: Tensor = self.bn2(self.conv2(features)).relu()
        return result


class _R2Plus1DBlock(nn.Module):
    """Place and time convolved in turn, twice; the last batch norm comes after the residual sum."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.spt_conv1 = _over_place(inside, outside, stride)
        self.spt_bn1 = nn.BatchNorm3d(outside)
        self.tmp_conv1 = _over_time(outside, stride)
        self.tmp_bn1 = nn.BatchNorm3d(outside)
        self.spt_conv2 = _over_place(outside, outside, 1)
        self.spt_bn2 = nn.BatchNorm3d(outside)
        self.tmp_conv2 = _over_time(outside, 1)
        self.out_bn = nn.BatchNorm3d(outside)
        self.res_conv = None if inside == outside and stride == 1 else nn.Conv3d(inside, outside, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        moved = self.tmp_conv1(self.spt_bn1(self.spt_conv1(features)).relu())
        moved = self.tmp_conv2(self.spt_bn2(self.spt_conv2(self.tmp_bn1(moved).relu())).relu())
        kept = features if self.res_conv is None else self.res_conv(features)
        result: Tensor = self.out_bn(moved + kept).relu()
        return result


def _stage(inside: int, outside: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_R2Plus1DBlock(inside, outside, stride), _R2Plus1DBlock(outside, outside, 1))


def _over_place(inside: int, outside: int, stride: int) -> nn.Conv3d:
    return nn.Conv3d(inside, outside, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False)


def _over_time(width: int, stride: int) -> nn.Conv3d:
    return nn.Conv3d(width, width, (3, 1, 1), stride=(stride, 1, 1), padding=(1, 0, 0), bias=False)
