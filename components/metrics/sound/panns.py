"""PANNs' Cnn14, which tags sounds: FD-PANNs, KL and the Inception Score of video-to-audio papers are taken from it.

Kong et al., PANNs (arXiv 1912.10211); state-dict keys are those of the public files. The transform and the mel filters
are tensors of those files, so that the spectrogram is theirs to the last bit.

Legend for shapes: B sounds, S samples, T frames at 100 Hz, M mel bands.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.errors import InputError
from components.metrics.sound.tagger import AudioTagger
from components.weights.checkpoint_entry import open_entry
from components.weights.fit import Shapes, copy_weights
from components.weights.identity import record_identity
from components.weights.named_files import names_files, published
from components.weights.pretrained import Sha256, builds_shapes_only, find_file

SOURCE = (
    "download Cnn14_16k_mAP=0.438.pth (https://zenodo.org/records/3987831, what FD-PANNs is commonly taken from) or "
    "Cnn14_mAP=0.431.pth (32 kHz, https://zenodo.org/records/3576403), both CC-BY 4.0, and give its path"
)
_FRAME_RATE_HZ = 100
_NUM_BLOCKS = 6
_MIN_FRAMES = 2 ** (_NUM_BLOCKS - 1)
"""Five of the six blocks halve the number of frames."""
_MIN_HZ = 50.0
_DEFAULT_WINDOW = 512
"""Of the public 16 kHz file; that of 32 kHz has 1024."""


class Cnn14(nn.Module):
    """Six blocks of convolutions over a log-mel picture, then two linear layers.

    Args:
        window: samples of a frame; the sample rate is 31.25 times that and a hop 10 ms, as in all public files.
        num_mels: mel bands.
        width: channels of the first block; every later one has twice those of the one before.
        num_classes: classes that are told apart.
    """

    def __init__(
        self, window: int = _DEFAULT_WINDOW, num_mels: int = 64, width: int = 64, num_classes: int = 527
    ) -> None:
        super().__init__()
        self.sample_rate = window * 125 // 4
        self.window, self.hop = window, self.sample_rate // _FRAME_RATE_HZ
        widths = [1, *(width * 2**block for block in range(_NUM_BLOCKS))]
        self.dim, self.num_classes = widths[-1], num_classes
        self.spectrogram_extractor = _Spectrogram(window)
        self.logmel_extractor = _LogMel(self.sample_rate, window, num_mels)
        self.bn0 = nn.BatchNorm2d(num_mels)
        for block in range(_NUM_BLOCKS):
            self.add_module(f"conv_block{block + 1}", _ConvBlock(widths[block], widths[block + 1]))
        self.fc1 = nn.Linear(self.dim, self.dim)
        self.fc_audioset = nn.Linear(self.dim, num_classes)

    def forward(self, sounds: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, S]`` in [-1, 1], of at least 0.31 s, to embeddings ``[B, dim]`` and logits ``[B, num_classes]``."""
        x = self.log_mel(sounds)[:, None]
        # the batch norm has one pair of moments per mel band
        x = self.bn0(x.transpose(1, 3)).transpose(1, 3)
        for block in range(_NUM_BLOCKS):
            x = self.get_submodule(f"conv_block{block + 1}")(x)
            if block < _NUM_BLOCKS - 1:
                x = F.avg_pool2d(x, 2)
        x = x.mean(dim=3)
        embedding = F.relu(self.fc1(x.amax(dim=2) + x.mean(dim=2)))
        return embedding, self.fc_audioset(embedding)

    def log_mel(self, sounds: Tensor) -> Tensor:
        """``[B, S]`` to decibels of mel power ``[B, T, M]``; frame t is centred at sample ``t * hop``."""
        stft = self.spectrogram_extractor.stft
        padded = F.pad(sounds[:, None], (self.window // 2, self.window // 2), mode="reflect")
        parts = (F.conv1d(padded, kernel.weight, stride=self.hop) for kernel in (stft.conv_real, stft.conv_imag))
        power = sum((part.square() for part in parts), torch.zeros((), device=sounds.device)).mT
        return (power @ self.logmel_extractor.melW).clamp(min=1e-10).log10() * 10


class _ConvBlock(nn.Module):
    """Two convolutions of three by three, each with batch norm and ReLU."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, M]`` to ``[B, C', T, M]``."""
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class _Spectrogram(nn.Module):
    """Names the transform's tensors as the public files do."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.stft = _Stft(window)


class _Stft(nn.Module):
    """The short-time Fourier transform under a Hann window, as two convolutions."""

    def __init__(self, window: int) -> None:
        super().__init__()
        bins = window // 2 + 1
        self.conv_real, self.conv_imag = (nn.Conv1d(1, bins, window, bias=False) for _ in range(2))
        angles = 2 * math.pi / window * torch.outer(torch.arange(bins), torch.arange(window)).double()
        hann = torch.hann_window(window, dtype=torch.float64)
        with torch.no_grad():
            self.conv_real.weight.copy_((angles.cos() * hann)[:, None])
            self.conv_imag.weight.copy_((-angles.sin() * hann)[:, None])


class _LogMel(nn.Module):
    """The mel filters ``[window / 2 + 1, M]`` (Slaney's scale and norm), from 50 Hz to 7/16 or 1/2 of the rate."""

    def __init__(self, sample_rate: int, window: int, num_mels: int) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        # 14 kHz in the 32 kHz files
        max_hz = 14000.0 if sample_rate == 32000 else sample_rate / 2
        with torch.device("cpu"):  # torchaudio looks at what it computed, which the meta device has not
            filters = melscale_fbanks(window // 2 + 1, _MIN_HZ, max_hz, num_mels, sample_rate, "slaney", "slaney")
        # a parameter, as in the public files
        self.melW = nn.Parameter(torch.empty_like(filters, device=torch.get_default_device()), requires_grad=False)
        if not self.melW.is_meta:
            self.melW.data.copy_(filters)


@published(SOURCE)
@names_files("checkpoint")
class Panns(AudioTagger):
    """A Cnn14 with the weights of a public file, which says itself of which size and rate it is.

    A clip is heard as a whole; one shorter than 0.32 s is filled up with silence.

    Args:
        checkpoint: the file (``Cnn14_16k_mAP=0.438.pth``, ``Cnn14_mAP=0.431.pth``).
        sha256: its digest.

    Raises:
        InputError: if it is absent, damaged or another model's.
    """

    def __init__(self, checkpoint: str, sha256: Sha256 = None) -> None:
        super().__init__()
        if builds_shapes_only():
            self.net = Cnn14()
        else:
            file = find_file(checkpoint, sha256)
            if file is None:
                raise InputError(f"PANNs checkpoint '{checkpoint}' does not exist; {SOURCE}")
            self.net = _loaded(file)
            record_identity(self, checkpoint, [file])
        self.sample_rate, self.dim, self.num_classes = self.net.sample_rate, self.net.dim, self.net.num_classes
        self.eval().requires_grad_(False)

    def forward(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        """``[S]`` to ``[dim]`` and ``[num_classes]``."""
        missing = _MIN_FRAMES * self.net.hop - len(sound)
        embedding, logits = self.net(F.pad(sound, (0, max(0, missing)))[None])
        return embedding[0], logits[0]


def _loaded(file: Path) -> Cnn14:
    """The network that a file holds, of the sizes that its tensors have.

    Raises:
        InputError: if it holds another network's.
    """
    weights = open_entry(file, "model")
    shapes: Shapes = {key: tuple(tensor.shape) for key, tensor in weights.tensors.items()}
    kernel = shapes.get("spectrogram_extractor.stft.conv_real.weight", (0, 0, _DEFAULT_WINDOW))
    first = shapes.get("conv_block1.conv1.weight", (64,))
    classes = shapes.get("fc_audioset.weight", (527,))
    net = Cnn14(kernel[-1], shapes.get("bn0.weight", (64,))[0], first[0], classes[0])
    copy_weights(net, weights)
    return net
