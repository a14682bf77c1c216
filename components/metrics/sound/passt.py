"""PaSST through the user's own ``hear21passt``: FD-PaSST and KL-PaSST of video-to-audio papers are taken from it.

Koutini et al., Efficient Training of Audio Transformers with Patchout (arXiv 2110.05069). The package is not among our
dependencies and its weights are never downloaded here, as it would do by itself.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components.errors import InputError
from components.metrics.sound.tagger import AudioTagger
from components.weights.file import open_weights_file
from components.weights.fit import copy_weights
from components.weights.identity import record_identity
from components.weights.named_files import names_files, published
from components.weights.pretrained import Sha256, find_file

SOURCE = (
    "download passt-s-f128-p16-s10-ap.476-swa.pt from "
    "https://github.com/kkoutini/PaSST/releases/tag/v0.0.1-audioset (Apache-2.0) and give its path"
)
_SAMPLE_RATE = 32000
_SAMPLES = 10 * _SAMPLE_RATE


@published(SOURCE)
@names_files("checkpoint")
class Passt(AudioTagger):
    """PaSST-S, which hears the first 10 s of a clip; a shorter one is filled up with silence.

    Args:
        checkpoint: the public file ``passt-s-f128-p16-s10-ap.476-swa.pt``.
        sha256: its digest.
        arch: the package's name of the architecture.

    Raises:
        InputError: if ``hear21passt`` is not installed, or the checkpoint is absent, damaged or another model's.
    """

    def __init__(self, checkpoint: str, sha256: Sha256 = None, arch: str = "passt_s_swa_p16_128_ap476") -> None:
        super().__init__()
        self.mel, self.net = _built(arch)
        file = find_file(checkpoint, sha256)
        if file is None:
            raise InputError(f"PaSST checkpoint '{checkpoint}' does not exist; {SOURCE}")
        weights = open_weights_file(file)
        copy_weights(self.net, weights)
        record_identity(self, checkpoint, weights.files)
        self.arch = arch
        self.sample_rate, self.dim, self.num_classes = _SAMPLE_RATE, int(self.net.embed_dim), int(self.net.num_classes)
        self.eval().requires_grad_(False)

    def forward(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        """``[S]`` to ``[dim]`` and ``[num_classes]``."""
        ten_seconds = F.pad(sound[:_SAMPLES], (0, max(0, _SAMPLES - len(sound))))
        # the package prints shapes the first time, and its front end draws even where it then takes nothing of it: a
        # training that is judged on the way must go on as if it were not
        with redirect_stdout(StringIO()), torch.random.fork_rng(devices=[]):
            logits, embedding = self.net(self.mel(ten_seconds[None])[:, None])
        return embedding[0], logits[0]

    def identity(self) -> dict[str, object]:
        """The SHA-256 of the weights, and the architecture."""
        return {**super().identity(), "arch": self.arch}


def _built(arch: str) -> tuple[Any, Any]:
    """The package's front end and network, without weights.

    Raises:
        InputError: if it is not installed, or knows no such architecture.
    """
    try:
        from hear21passt.models.passt import get_model
        from hear21passt.models.preprocess import AugmentMelSTFT
    except ImportError as error:
        raise InputError(f"PaSST needs the package hear21passt ({error}); run: pip install hear21passt") from None
    with redirect_stdout(StringIO()):  # warnings and titles
        mel = AugmentMelSTFT(
            n_mels=128, sr=_SAMPLE_RATE, win_length=800, hopsize=320, n_fft=1024, freqm=48, timem=192,
            htk=False, fmin=0.0, fmax=None, norm=1, fmin_aug_range=10, fmax_aug_range=2000,
        )  # fmt: skip
        try:
            return mel, get_model(arch=arch, pretrained=False)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"Passt.arch is '{arch}', which hear21passt does not build ({error})") from None
