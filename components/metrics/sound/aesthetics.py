"""Audiobox Aesthetics: what listeners would say of a sound (PQ, PC, CE and CU of Harmony's table).

Tjandra et al. (arXiv 2502.05139); the weights are CC-BY 4.0. Windows, mask and weights are those of the public code;
the network itself is built on transformers, because the package ``audiobox_aesthetics`` asks for a scheduler of
clusters and downloads its weights whatever file it is given.

Legend for shapes: S samples, N windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from components.contracts import Generation
from components.errors import InputError
from components.metrics.scorers import ClipScores
from components.metrics.sound.aesthetics_net import AXES, RENAMES, AestheticsNet
from components.metrics.sound.clip_sound import generated_sound
from components.metrics.sound.frozen import SoundScorer
from components.weights.file import open_weights
from components.weights.fit import copy_weights
from components.weights.identity import identity_of, record_identity
from components.weights.named_files import names_files
from components.weights.pretrained import (
    CONFIG_FILE,
    Sha256,
    builds_shapes_only,
    find_folder,
    read_config,
    resolve_folder,
)

SAMPLE_RATE = 16000
WINDOW_SAMPLES = 10 * SAMPLE_RATE
_OF_THE_NET = ("proj_num_layer", "proj_ln", "proj_dropout", "normalize_embed", "wavlm")
_NEEDED = {"use_weighted_layer_sum": True, "output_dim": 1, "proj_act_fn": "gelu"}


@names_files(checkpoint=None)
class AudioboxAesthetics(SoundScorer):
    """``pq``, ``pc``, ``ce`` and ``cu`` of a sound, from about 1 to 10; of ``pc`` (complexity) the lower is the better.

    A sound is judged in windows of 10 s, the last of which is filled up and counts as long as it is.

    Args:
        checkpoint: folder or hub repository with ``config.json`` and the weights. The config may describe another
            WavLM than the base one under ``wavlm``.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if a file is absent, damaged or describes another network.
    """

    higher_is_better: ClassVar = {"pq": True, "pc": False, "ce": True, "cu": True}
    mean: Tensor
    std: Tensor

    def __init__(self, checkpoint: str = "hf://facebook/audiobox-aesthetics", sha256: Sha256 = None) -> None:
        super().__init__()
        mean, std = torch.zeros(len(AXES)), torch.ones(len(AXES))
        if builds_shapes_only() and find_folder(checkpoint) is None:
            self.net = AestheticsNet()
        else:
            folder = resolve_folder(checkpoint, sha256=sha256)
            config = read_config(folder)
            source = str(folder / CONFIG_FILE)
            self.net = _built(config, source)
            if not builds_shapes_only():
                weights = open_weights(folder)
                copy_weights(self.net, weights, RENAMES)
                record_identity(self, checkpoint, weights.files)
                mean, std = _scale(config, source)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.eval().requires_grad_(False)

    def score_clip(self, generation: Generation, row: int) -> ClipScores:
        """The four values of clip ``row``."""
        sound = generated_sound(generation, row, SAMPLE_RATE)
        if not len(sound):
            return ClipScores(problem="no_sound")
        windows = [F.pad(part, (0, WINDOW_SAMPLES - len(part))) for part in sound.split(WINDOW_SAMPLES)]
        starts = torch.arange(len(windows), device=sound.device) * WINDOW_SAMPLES
        lengths = (len(sound) - starts).clamp(max=WINDOW_SAMPLES)
        scores = self.net(torch.stack(windows), lengths) * self.std + self.mean  # [N, 4]
        weights = lengths / lengths.sum()
        values = (scores * weights[:, None]).sum(0).tolist()
        return ClipScores({axis.lower(): value for axis, value in zip(AXES, values, strict=True)})

    def identity(self) -> dict[str, object]:
        """The SHA-256 of the weights, and the listeners' scale."""
        return {
            "model": "Audiobox Aesthetics",
            "weights_sha256": identity_of(self).sha256,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
        }


def _built(config: Mapping[str, Any], source: str) -> AestheticsNet:
    """The network that a public config describes.

    Raises:
        InputError: if it describes what we do not build.
    """
    for name, wanted in _NEEDED.items():
        if config.get(name, wanted) != wanted:
            raise InputError(
                f"'{source}' says {name} is {config[name]!r}, but only {wanted!r} is built here; give the folder of "
                "facebook/audiobox-aesthetics"
            )
    try:
        return AestheticsNet(**{name: config[name] for name in _OF_THE_NET if name in config})
    except (TypeError, ValueError) as error:
        raise InputError(f"'{source}' does not describe Audiobox Aesthetics ({error}); download it anew") from None


def _scale(config: Mapping[str, Any], source: str) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``[4]`` of what the listeners said.

    Raises:
        InputError: if the config does not say.
    """
    try:
        table = config["target_transform"]
        mean, std = (torch.tensor([float(table[axis][name]) for axis in AXES]) for name in ("mean", "std"))
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"'{source}' has no target_transform with mean and std of {', '.join(AXES)}; download it anew"
        ) from None
    return mean, std
