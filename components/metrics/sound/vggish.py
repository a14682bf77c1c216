"""VGGish, the features of the Frechet Audio Distance (FAD, FD-VGG): 128 numbers for every 0.96 s.

Hershey et al. (arXiv 1609.09430); FAD: Kilgour et al. (arXiv 1812.08466). State-dict keys are those of the public
PyTorch file. Benchmarks take the output of the last linear layer, before its ReLU and without the PCA of YouTube-8M.

Legend for shapes: B examples, S samples, T frames at 100 Hz, M mel bands.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.errors import InputError
from components.metrics.sound.frozen import SoundFeatures
from components.weights.file import open_weights_file
from components.weights.fit import copy_weights
from components.weights.identity import identity_of, record_identity
from components.weights.named_files import names_files, published
from components.weights.pretrained import Sha256, builds_shapes_only, find_file

SOURCE = (
    "download vggish-10086976.pth from the releases of https://github.com/harritaylor/torchvggish (Apache-2.0) and "
    "give its path"
)
SAMPLE_RATE = 16000
WINDOW = 400
HOP = 160
FFT = 512
NUM_MELS = 64
MIN_HZ, MAX_HZ = 125.0, 7500.0
EXAMPLE_FRAMES = 96
MIN_SAMPLES = WINDOW + (EXAMPLE_FRAMES - 1) * HOP
"""Of one example: 0.975 s."""

_CONVS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")


class VggishNet(nn.Module):
    """Six convolutions and three linear layers, ``features.N`` and ``embeddings.N`` in the public file.

    Args:
        widths: channels of the six convolutions.
        hidden: width of the two hidden linear layers.
        dim: width of the output.
    """

    def __init__(
        self, widths: tuple[int, ...] = (64, 128, 256, 256, 512, 512), hidden: int = 4096, dim: int = 128
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, given = 1, iter(widths)
        for kind in _CONVS:
            if kind == "pool":
                layers.append(nn.MaxPool2d(2))
            else:
                width = next(given)
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        # four poolings
        flat = channels * (EXAMPLE_FRAMES // 16) * (NUM_MELS // 16)
        self.embeddings = nn.Sequential(
            nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )
        self.dim = dim

    def forward(self, examples: Tensor) -> Tensor:
        """Log-mel examples ``[B, 96, 64]`` to ``[B, dim]``."""
        x = self.features(examples[:, None])
        # channels last, as the TensorFlow original flattens
        result: Tensor = self.embeddings(x.permute(0, 2, 3, 1).flatten(1))
        return result


@published(SOURCE)
@names_files("checkpoint")
class Vggish(SoundFeatures):
    """VGGish's features of a clip, one per 0.96 s; a rest shorter than that is left out.

    A clip shorter than one example is filled up with silence.

    Args:
        checkpoint: the public file ``vggish-10086976.pth``.
        sha256: its digest.

    Raises:
        InputError: if it is absent, damaged or another model's.
    """

    filters: Tensor
    hann: Tensor
    sample_rate = SAMPLE_RATE

    def __init__(self, checkpoint: str, sha256: Sha256 = None) -> None:
        super().__init__()
        if builds_shapes_only():
            self.net = VggishNet()
        else:
            file = find_file(checkpoint, sha256)
            if file is None:
                raise InputError(f"VGGish checkpoint '{checkpoint}' does not exist; {SOURCE}")
            weights = open_weights_file(file)
            shapes = {key: tuple(tensor.shape) for key, tensor in weights.tensors.items()}
            # weights of another size make a network of that size
            convs = [shapes[key][0] for key in sorted(shapes, key=_place) if key.startswith("features.") and "w" in key]
            if len(convs) != 6 or "embeddings.4.weight" not in shapes:
                raise InputError(f"weights file '{file}' holds no VGGish; {SOURCE}")
            dim, hidden = shapes["embeddings.4.weight"]
            self.net = VggishNet(tuple(convs), hidden, dim)
            copy_weights(self.net, weights)
            record_identity(self, checkpoint, weights.files)
        self.dim = self.net.dim
        self.register_buffer("filters", mel_filters(), persistent=False)
        self.register_buffer("hann", torch.hann_window(WINDOW), persistent=False)
        self.eval().requires_grad_(False)

    def embed(self, sound: Tensor) -> Tensor:
        """``[S]`` at 16 kHz to ``[N, dim]``."""
        sound = F.pad(sound, (0, max(0, MIN_SAMPLES - len(sound))))
        result: Tensor = self.net(self.examples(sound))
        return result

    def examples(self, sound: Tensor) -> Tensor:
        """``[S]`` to log-mel examples ``[N, 96, 64]``."""
        frames = sound.unfold(0, WINDOW, HOP) * self.hann
        # magnitude, not power
        magnitude = torch.fft.rfft(frames, FFT).abs()
        log_mel = (magnitude @ self.filters + 0.01).log()
        count = len(log_mel) // EXAMPLE_FRAMES
        result: Tensor = log_mel[: count * EXAMPLE_FRAMES].unflatten(0, (count, EXAMPLE_FRAMES))
        return result

    def identity(self) -> dict[str, object]:
        """The weights."""
        return {"extractor": "VGGish", "weights_sha256": identity_of(self).sha256}


def mel_filters() -> Tensor:
    """Triangles that are straight on the mel scale (HTK's), not in hertz as most libraries have them: ``[257, 64]``."""
    hz = torch.tensor([*torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1, device="cpu"), MIN_HZ, MAX_HZ], device="cpu")
    mel = 1127 * (1 + hz.double() / 700).log()
    bins, (low, high) = mel[:-2, None], mel[-2:]
    edges = torch.linspace(0, 1, NUM_MELS + 2, dtype=torch.float64, device="cpu") * (high - low) + low
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    filters[0] = 0  # the mean takes no part
    return filters.float()


def _place(key: str) -> tuple[str, int, str]:
    """``features.10.weight`` after ``features.8.weight``."""
    part, _, rest = key.partition(".")
    number, _, name = rest.partition(".")
    return part, int(number) if number.isdecimal() else -1, name
