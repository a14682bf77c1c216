"""MMAudio (github.com/hkchengrex/MMAudio, code MIT, weights CC-BY-NC 4.0), in whatever environment has its package.

Cheng et al., CVPR 2025 (arXiv 2412.15322): a flow over audio latents, guided by CLIP features at 8 fps, Synchformer
features at 25 fps and the caption. It was trained on clips of 8 s.
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # the program's, which hands it over
    from components.v2a.runners.program import Clip

PACKAGE = "pip install git+https://github.com/hkchengrex/MMAudio (code MIT, weights CC-BY-NC 4.0)"
WEIGHTS = "https://huggingface.co/hkchengrex/MMAudio (CC-BY-NC 4.0)"
VARIANTS = ("small_16k", "small_44k", "medium_44k", "large_44k", "large_44k_v2")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CLIP_FPS, CLIP_SIDE = 8.0, 384
SYNC_FPS, SYNC_SIDE = 25.0, 224
SHORTEST_S = 0.75
"""Synchformer takes segments of 0.64 s; this is the next eighth."""
_OF_THE_HUB = {
    "apple/DFN5B-CLIP-ViT-H-14-384": "open_clip_config.json",
    "nvidia/bigvgan_v2_44khz_128band_512x": "config.json",
}
"""What the package takes from the hub by itself -> a file by which to see that it is there."""


class MMAudio:
    """One of the public models.

    Args:
        given: ``weights``, ``variant``, ``num_steps``, ``cfg_strength``, ``negative_prompt``, ``device`` and
            ``precision``, of which `complaint` has none.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        from mmaudio.eval_utils import all_model_cfg
        from mmaudio.model.flow_matching import FlowMatching
        from mmaudio.model.networks import get_my_mmaudio
        from mmaudio.model.utils.features_utils import FeaturesUtils

        model = all_model_cfg[given.variant]
        files = {name: _found(given.weights, name) for name in _file_names(given.variant)}
        vocoder = model.bigvgan_16k_path
        device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = PRECISIONS[given.precision]
        self.net = get_my_mmaudio(given.variant)
        self.net.load_weights(torch.load(str(files[model.model_path.name]), map_location="cpu", weights_only=True))
        self.features = FeaturesUtils(
            tod_vae_ckpt=files[model.vae_path.name],
            synchformer_ckpt=files[model.synchformer_ckpt.name],
            enable_conditions=True,
            mode=model.mode,
            bigvgan_vocoder_ckpt=None if vocoder is None else files[vocoder.name],
            need_vae_encoder=False,
        )
        for part in (self.net, self.features):
            part.to(device, dtype).eval()
        self.flow = FlowMatching(min_sigma=0, inference_mode="euler", num_steps=given.num_steps)
        self.lengths = model.seq_cfg
        self.cfg_strength, self.negative_prompt = given.cfg_strength, given.negative_prompt

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """What the model can be told."""
        parser.add_argument("--weights", type=Path, required=True, help="folder of its files, such as its checkout")
        parser.add_argument("--variant", default="small_44k", choices=VARIANTS)
        parser.add_argument("--num-steps", type=int, default=25)
        parser.add_argument("--cfg-strength", type=float, default=4.5)
        parser.add_argument("--negative-prompt", default="")
        parser.add_argument("--device", default="", help="such as cuda:1; else cuda where there is one")
        parser.add_argument("--precision", default="bfloat16", choices=sorted(PRECISIONS))

    @staticmethod
    def complaint(given: argparse.Namespace) -> str | None:
        """What is missing or cannot be, in a sentence; nothing is downloaded."""
        if given.variant not in VARIANTS:
            return f"variant is '{given.variant}'; MMAudio has {', '.join(VARIANTS)}"
        if given.precision not in PRECISIONS:
            return f"precision is '{given.precision}'; give {', '.join(PRECISIONS)}"
        if given.num_steps < 1:
            return f"num_steps is {given.num_steps}; it has to be at least 1"
        if importlib.util.find_spec("mmaudio") is None:
            return f"the package mmaudio is not installed in this environment; {PACKAGE}"
        for name in _file_names(given.variant):
            if _found(given.weights, name) is None:
                folder = Path(given.weights).expanduser().absolute()
                return f"weights: '{folder}' holds no '{name}'; download it from {WEIGHTS}"
        from huggingface_hub import try_to_load_from_cache

        for name, file in _OF_THE_HUB.items():
            needed = given.variant != "small_16k" or "bigvgan" not in name
            if needed and not isinstance(try_to_load_from_cache(name, file), str):
                return f"MMAudio takes {name} from the hub, and it is not here yet: hf download {name}"
        return None

    def __call__(self, clip: Clip) -> tuple[Tensor, int]:
        """A waveform ``[S]`` that covers the clip, and its sample rate."""
        from mmaudio.eval_utils import generate

        # in eighths of a second the frames of both rates and the package's token counts agree exactly
        duration_s = max(SHORTEST_S, ceil(clip.duration_s * CLIP_FPS - 1e-6) / CLIP_FPS)
        lengths = replace(self.lengths, duration=duration_s)
        self.net.update_seq_lengths(lengths.latent_seq_len, lengths.clip_seq_len, lengths.sync_seq_len)
        pictures, motion = seen(clip, duration_s)
        device = self.features.device
        with torch.inference_mode():
            sound = generate(
                pictures[None],
                motion[None],
                [clip.caption],
                negative_text=[self.negative_prompt],
                feature_utils=self.features,
                net=self.net,
                fm=self.flow,
                # one clip at a time with its own seed: the same sound in whatever company
                rng=torch.Generator(device).manual_seed(clip.seed),
                cfg_strength=self.cfg_strength,
            )
        return sound.float().reshape(-1).clone(), int(lengths.sampling_rate)


def seen(clip: Clip, duration_s: float) -> tuple[Tensor, Tensor]:
    """A clip as CLIP, ``[8 s, 3, 384, 384]`` in [0, 1], and Synchformer, ``[25 s, 3, 224, 224]`` in [-1, 1], see it.

    The last frame stands still up to ``duration_s``. CLIP's frames are squeezed, Synchformer's cropped.
    """
    pictures = clip.at(CLIP_FPS, int(duration_s * CLIP_FPS)).resized(CLIP_SIDE, CLIP_SIDE, "bicubic").frames
    motion = clip.at(SYNC_FPS, int(duration_s * SYNC_FPS)).centre(SYNC_SIDE, SYNC_SIDE, "bicubic").frames
    return pictures.float() / 255, motion.float() / 127.5 - 1


def _file_names(variant: str) -> list[str]:
    """What a variant is read from, as its authors name the files."""
    ends = ["v1-16.pth", "best_netG.pt"] if variant == "small_16k" else ["v1-44.pth"]
    return ["mmaudio_" + variant + ".pth", *ends, "synchformer_state_dict.pth"]


def _found(folder: Any, name: str) -> Path | None:
    """A file in the folder, or in those into which the authors' scripts download it."""
    places = [Path(folder).expanduser() / within / name for within in ("", "weights", "ext_weights")]
    return next((place for place in places if place.is_file()), None)
