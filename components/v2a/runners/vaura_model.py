"""V-AURA (github.com/ilpoviertola/V-AURA, MIT), run from its checkout in its own environment.

Viertola et al., ICASSP 2025 (arXiv 2409.13689). Its sampler continues audio tokens of 86 Hz beside features of segments
of 16 frames at 25 fps, four segments (2.56 s) at a time; text is not heard.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # the program's, which hands it over
    from components.v2a.runners.program import Clip

SOURCE = "git clone https://github.com/ilpoviertola/V-AURA (MIT)"
CHECKPOINT = (
    "https://a3s.fi/swift/v1/AUTH_a235c0f452d648828f745589cde1219a/v-aura_public/24-08-01T08-34-26.tar.gz and unpack it"
)
AVCLIP = (
    "https://a3s.fi/swift/v1/AUTH_a235c0f452d648828f745589cde1219a/sync/sync_models/23-12-22T16-10-50/checkpoints/"
    "epoch_best.pt"
)
FPS = 25.0
SEGMENT = 16
"""Frames of a segment: 0.64 s."""
SEGMENT_TOKENS = 55
"""Audio tokens of a segment, of each codebook: ``int(0.64 * 86)``."""
WINDOW = 4
"""Segments that the sampler sees at once."""
SAMPLE_RATE = 44_100
PEAK = 10 ** (-6 / 20)
"""The public scripts cut the waveform 6 dB below full scale."""


class VAura:
    """The public checkpoint with the public scripts' sampling.

    Args:
        given: the program's arguments, of which `complaint` has none.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.top_k, self.temperature, self.guidance = given.top_k, given.temperature, given.cfg_scale
        self.stride = given.stride_segments
        avclip = given.avclip.expanduser().absolute()
        experiment = given.experiment.expanduser().absolute()
        settings = _hparams_files(experiment)[0]
        # its packages and one of its search paths are relative to the checkout
        checkout = given.checkout.expanduser().absolute()
        os.chdir(str(checkout))
        sys.path.insert(0, str(checkout))
        self.device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = _loaded(experiment, settings, avclip, self.device)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """What the model can be told."""
        parser.add_argument("--checkout", type=Path, required=True, help="V-AURA's repository")
        parser.add_argument("--experiment", type=Path, required=True, help="the unpacked 24-08-01T08-34-26")
        parser.add_argument("--avclip", type=Path, required=True, help="the Segment AVCLIP's epoch_best.pt")
        parser.add_argument("--device", default="", help="such as cuda:1; else cuda where there is one")
        parser.add_argument("--top-k", type=int, default=128)
        parser.add_argument("--temperature", type=float, default=1.0)
        parser.add_argument("--cfg-scale", type=float, default=6.0)
        parser.add_argument(
            "--stride-segments", type=int, default=1, choices=range(1, WINDOW), help="new segments of 0.64 s per pass"
        )

    @staticmethod
    def complaint(given: argparse.Namespace) -> str | None:
        """What is missing or cannot be, in a sentence."""
        paths = (given.checkout, given.experiment, given.avclip)
        # whole: what is relative is looked for in the working directory of the program
        checkout, experiment, avclip = (path.expanduser().absolute() for path in paths)
        if not (checkout / "models" / "vaura_model.py").is_file():
            return f"--checkout: '{checkout}' has no models/vaura_model.py; {SOURCE}"
        if not any(experiment.rglob("*.ckpt")):
            return f"--experiment: '{experiment}' holds no .ckpt file; download {CHECKPOINT}"
        found = _hparams_files(experiment)
        if len(found) != 1:
            named = ", ".join(map(str, found)) or "none"
            return f"--experiment: '{experiment}' has to hold one hparams.yaml, found: {named}; download {CHECKPOINT}"
        if not avclip.is_file() or avclip.suffix != ".pt":
            return f"--avclip: '{avclip}' is no .pt file; download {AVCLIP} (MIT)"
        if given.top_k < 1 or given.temperature <= 0:
            return f"--top-k {given.top_k} and --temperature {given.temperature} have to be positive"
        return None

    def __call__(self, clip: Clip) -> tuple[Tensor, int]:
        """A waveform ``[S]`` that covers the clip, and its sample rate."""
        # one clip at a time after its own seed: the same sound in whatever company
        torch.manual_seed(clip.seed)
        with torch.no_grad():
            sound = self.model.audio_encoder.decode([(self._tokens(segments(clip).to(self.device)), None)])
        return sound.float().reshape(-1).clamp(-PEAK, PEAK), SAMPLE_RATE

    def _tokens(self, frames: Tensor) -> Tensor:
        """Audio tokens ``[1, K, 55 S]`` for segments ``[1, S, 3, 16, 224, 224]``."""
        total = frames.shape[1]
        first, tokens = 0, self._continued(frames[:, :WINDOW], None)
        while first + WINDOW < total:
            # the last window may not reach past the end
            step = min(self.stride, total - first - WINDOW)
            first += step
            known = tokens[:, :, first * SEGMENT_TOKENS :]
            longer = self._continued(frames[:, first : first + WINDOW], known)
            tokens = torch.cat([tokens, longer[:, :, known.shape[-1] :]], dim=-1)
        return tokens[:, : self.model.num_codebooks]

    def _continued(self, frames: Tensor, known: Tensor | None) -> Tensor:
        """The known tokens and those that follow, to the end of these segments."""
        made = self.model.generate(
            frames=frames,
            audio=known,
            max_new_tokens=frames.shape[1] * SEGMENT_TOKENS,
            return_sampled_indices=True,
            use_sampling=True,
            temp=self.temperature,
            top_k=self.top_k,
            top_p=0.0,
            remove_prompts=False,
            prompt_is_encoded=True,
            cfg_scale=self.guidance,
        )
        tokens: Tensor = made["sampled_indices"]
        return tokens


def segments(clip: Clip) -> Tensor:
    """A clip as the model sees it: ``[1, S, 3, 16, 224, 224]`` in [-1, 1], whole segments of 0.64 s.

    The last frame stands still up to the end of the last segment.
    """
    # what a float leaves over is no segment
    count = max(1, ceil(clip.duration_s * FPS / SEGMENT - 1e-6))
    small = clip.at(FPS, count * SEGMENT).centre(256, 224, "bilinear").frames
    return (small.float() / 127.5 - 1).reshape(1, count, SEGMENT, 3, 224, 224).transpose(2, 3).contiguous()


def _hparams_files(experiment: Path) -> list[Path]:
    """The settings the checkpoint was trained with; the public scripts keep the first ones as ``original``."""
    original = sorted(experiment.expanduser().rglob("hparams.original.yaml"))
    return original or sorted(experiment.expanduser().rglob("hparams.yaml"))


def _loaded(experiment: Path, settings: Path, avclip: Path, device: str) -> Any:
    """V-AURA with the given video features, ready to generate."""
    import yaml
    from models.vaura_model import VAURAModel
    from utils.utils import get_file_with_best_val_loss

    hparams = yaml.safe_load(settings.read_text())
    hparams["feature_extractor_config"]["params"]["ckpt_path"] = str(avclip)
    # a copy: the public scripts write into the experiment, where two processes would meet
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "hparams.yaml"
        own.write_text(yaml.safe_dump(hparams))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = VAURAModel.load_from_checkpoint(
                get_file_with_best_val_loss(experiment, "**/*.ckpt"), hparams_file=own, map_location=device
            )
    model.to(device).eval()
    # how often the sampler repeats a video feature; the checkpoint's codec is DAC
    model.sampler.audio_tokens_per_video_frame = 7
    return model
