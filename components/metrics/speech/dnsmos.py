"""DNSMOS: how good listeners would find the quality of speech, without anything to compare it with.

Reddy et al., DNSMOS P.835 (arXiv 2110.01763) and DNSMOS (arXiv 2010.15258). The networks are ONNX files in the package
speechmos (MIT), run by onnxruntime; both come with the extra ``eval``.

Legend for shapes: S samples.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from components.contracts import Generation
from components.errors import InputError
from components.metrics.scorers import ClipScores
from components.metrics.sound.clip_sound import generated_sound
from components.metrics.sound.frozen import SoundScorer
from components.metrics.speech.slaney_mel import slaney_mel_filters
from components.weights.named_files import names_files, published
from components.weights.pretrained import sha256_of

SAMPLE_RATE = 16000
WINDOW_SAMPLES = 144160
"""9.01 s."""
HOP_SAMPLES = SAMPLE_RATE
_FFT, _FRAME_HOP, _NUM_MELS = 321, 160, 120
_OVERALL, _P808 = "sig_bak_ovr.onnx", "model_v8.onnx"
_RANGE_DB = 80

# from what the network says to the scale of P.835, as the public script has it: constant, linear, quadratic
_CURVES = {
    "dnsmos_sig": (0.0052439, 1.22083953, -0.08397278),
    "dnsmos_bak": (-0.39604546, 1.60915514, -0.13166888),
    "dnsmos_ovrl": (0.04602535, 1.11546468, -0.06766283),
}


@published("give the folder dnsmos_models of the package speechmos (MIT), or leave it out where that is installed")
@names_files("folder")
class Dnsmos(SoundScorer):
    """``dnsmos_ovrl``, ``dnsmos_sig``, ``dnsmos_bak`` (overall, speech, background) and ``dnsmos_p808``, each 1 to 5.

    Windows of 9.01 s begin every second; a shorter sound is repeated until it fills one.

    Args:
        folder: with ``sig_bak_ovr.onnx`` and ``model_v8.onnx``; None takes those of the installed package.

    Raises:
        InputError: if onnxruntime is not installed or a file is absent or damaged.
    """

    higher_is_better: ClassVar = {"dnsmos_ovrl": True, "dnsmos_sig": True, "dnsmos_bak": True, "dnsmos_p808": True}
    filters: Tensor
    hann: Tensor

    def __init__(self, folder: str | None = None) -> None:
        super().__init__()
        place = _folder(folder)
        self.overall, self.p808 = _session(place / _OVERALL), _session(place / _P808)
        self.digests = {name: sha256_of(place / name) for name in (_OVERALL, _P808)}
        self.register_buffer("filters", slaney_mel_filters(SAMPLE_RATE, _FFT, _NUM_MELS), persistent=False)
        self.register_buffer("hann", torch.hann_window(_FFT), persistent=False)

    def score_clip(self, generation: Generation, row: int) -> ClipScores:
        """The four values of clip ``row``."""
        sound = generated_sound(generation, row, SAMPLE_RATE).clamp(-1, 1)
        if not len(sound):  # nothing that could be repeated
            return ClipScores(problem="no_sound")
        while len(sound) < WINDOW_SAMPLES:
            sound = sound.repeat(2)
        starts = range(0, max(1, len(sound) // HOP_SAMPLES * HOP_SAMPLES - WINDOW_SAMPLES + 1), HOP_SAMPLES)
        found = [self._window(sound[start : start + WINDOW_SAMPLES]) for start in starts]
        return ClipScores({name: sum(window[name] for window in found) / len(found) for name in found[0]})

    def _window(self, sound: Tensor) -> dict[str, float]:
        raw = self.overall.run(None, {"input_1": sound[None].cpu().numpy()})[0][0]
        values = {
            name: constant + linear * float(value) + quadratic * float(value) ** 2
            for (name, (constant, linear, quadratic)), value in zip(_CURVES.items(), raw, strict=True)
        }
        # the other network takes a frame less
        mel = self._log_mel(sound[:-_FRAME_HOP])[None].cpu().numpy()
        return {**values, "dnsmos_p808": float(self.p808.run(None, {"input_1": mel})[0][0][0])}

    def _log_mel(self, sound: Tensor) -> Tensor:
        """``[S]`` to ``[S // 160 + 1, 120]``: decibels below the loudest, at most 80, shifted and scaled."""
        spectrum = torch.stft(sound, _FFT, _FRAME_HOP, window=self.hann, pad_mode="constant", return_complex=True)
        mel = (spectrum.abs().square().T @ self.filters).clamp(min=1e-10)
        level = 10 * (mel / mel.max()).log10()
        return (level.clamp(min=-_RANGE_DB) + 40) / 40

    def identity(self) -> dict[str, object]:
        """The SHA-256 of the networks."""
        return {"model": "DNSMOS", "weights_sha256": dict(self.digests)}


def _folder(given: str | None) -> Path:
    """Where the networks are.

    Raises:
        InputError: if they are not there.
    """
    if given is not None:
        place = Path(given).expanduser()
    else:
        package = find_spec("speechmos")
        if package is None or package.origin is None:
            raise InputError(
                "Dnsmos.folder is not given and the package speechmos, which contains the networks, is not installed; "
                "run: pip install 'avsync[eval]' (or give a folder with "
                f"{_OVERALL} and {_P808}, MIT)"
            )
        place = Path(package.origin).parent / "dnsmos_models"
    for name in (_OVERALL, _P808):
        if not (place / name).is_file():
            raise InputError(
                f"'{place / name}' does not exist; give the folder dnsmos_models of the package speechmos (MIT)"
            )
    return place


def _session(file: Path) -> Any:
    """A network that is ready to run.

    Raises:
        InputError: if onnxruntime is not installed, or the file is damaged.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"DNSMOS needs onnxruntime ({error}); run: pip install 'avsync[eval]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # by itself it would take every core there is
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes derive from Exception alone
        raise InputError(f"'{file}' is no readable ONNX network ({str(error)[:150]}); restore it") from None
