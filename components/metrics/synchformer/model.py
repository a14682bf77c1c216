"""Synchformer: names by how much the sound of a clip is early or late (Iashin et al., ICASSP 2024, arXiv 2401.16423).

Architecture and parameter names are those of the public ``synchformer_state_dict.pth`` (metrics specification,
section 4).

Legend for shapes: S segments of 0.64 s, N windows of 14 segments, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from components.errors import InputError
from components.metrics.synchformer.audio_tower import AUDIO_TOKENS, AudioTower
from components.metrics.synchformer.head import OffsetHead
from components.metrics.synchformer.video_tower import VideoTower
from components.weights.file import open_weights_file
from components.weights.fit import assign_weights
from components.weights.hub import hub_name
from components.weights.identity import record_identity
from components.weights.named_files import names_files, published
from components.weights.nested import open_nested_weights
from components.weights.pretrained import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Sha256,
    builds_shapes_only,
    find_file,
    find_folder,
    pretrained_config,
)
from components.weights.whole_folder import whole_folder

WINDOW_SEGMENTS = 14
"""Segments that the head compares at once: 4.8 s, and it takes no other number."""

PUBLIC_SOURCE = "https://github.com/hkchengrex/MMAudio/releases/download/v0.1/synchformer_state_dict.pth"
PUBLIC_MD5 = "5b2f5594b0730f70e41e549b7c94390c"

# where a training checkpoint of Synchformer's own code keeps the weights
_WITHIN = "model"


class Synchformer(nn.Module):
    """Two towers over segments of picture and sound, and a head over both. The default is the public model (237 M).

    Args:
        dim: D, width of all tokens.
        depth: layers of each tower.
        num_heads: heads of the towers' attentions.
        head_depth: blocks of the head.
        head_num_heads: heads of the head's attentions.

    Raises:
        InputError: if ``dim`` is no multiple of a number of heads.
    """

    def __init__(
        self, dim: int = 768, depth: int = 12, num_heads: int = 12, head_depth: int = 3, head_num_heads: int = 8
    ) -> None:
        super().__init__()
        for name, heads in (("num_heads", num_heads), ("head_num_heads", head_num_heads)):
            if dim % heads:
                raise InputError(f"Synchformer.{name} is {heads}; it must divide dim, which is {dim}")
        self.config: dict[str, Any] = {
            "dim": dim,
            "depth": depth,
            "num_heads": num_heads,
            "head_depth": head_depth,
            "head_num_heads": head_num_heads,
        }
        self.vfeat_extractor = VideoTower(dim, depth, num_heads)
        self.afeat_extractor = AudioTower(dim, depth, num_heads)
        self.vproj = nn.Linear(dim, dim)
        self.aproj = nn.Linear(dim, dim)
        self.transformer = OffsetHead(
            dim,
            head_depth,
            head_num_heads,
            WINDOW_SEGMENTS * self.vfeat_extractor.token_frames,
            WINDOW_SEGMENTS * AUDIO_TOKENS,
        )

    def embed_video(self, segments: Tensor) -> Tensor:
        """``[S, 16, 3, 224, 224]`` in [-1, 1] (25 fps) to ``[S, 8, D]``."""
        tokens: Tensor = self.vfeat_extractor(segments)
        return tokens

    def embed_sound(self, mels: Tensor) -> Tensor:
        """Normalised log mels ``[S, 128, 66]`` to ``[S, 6, D]``."""
        tokens: Tensor = self.afeat_extractor(mels)
        return tokens

    def offset_logits(self, video: Tensor, sound: Tensor) -> Tensor:
        """Windows of embedded segments, ``[N, 14, 8, D]`` and ``[N, 14, 6, D]``, to logits ``[N, 21]``."""
        logits: Tensor = self.transformer(self.vproj(video.flatten(1, 2)), self.aproj(sound.flatten(1, 2)))
        return logits

    @classmethod
    @published(f"download {PUBLIC_SOURCE} (907 MB, MIT, MD5 {PUBLIC_MD5}) and give its path")
    @names_files(source=None)
    def from_pretrained(cls, source: str | Path, sha256: Sha256 = None) -> Synchformer:
        """A network with the weights of a file or folder, in float32 and in evaluation mode.

        Args:
            source: ``synchformer_state_dict.pth`` (see `PUBLIC_SOURCE`), a training checkpoint of Synchformer's own
                code that has it under ``model``, or a folder written by `save_pretrained` (found by
                `components.weights.pretrained.resolve_folder`). Pickles are read as tensors only; code is never run.
            sha256: digest of the file, or of files in the folder by their names (see `components.weights.digests`).

        Raises:
            InputError: if it is missing, damaged or does not fit.
        """
        file, config = _found(source, sha256)
        with torch.device("meta"):
            try:
                net = cls(**config)
            except TypeError as error:
                raise InputError(
                    f"{file.parent / CONFIG_FILE} is not the config of a Synchformer ({error}); give a folder written "
                    "by Synchformer.save_pretrained"
                ) from None
        if not builds_shapes_only():
            is_pickle = file.suffix != ".safetensors"
            weights = open_nested_weights(file, _WITHIN) if is_pickle else open_weights_file(file)
            assign_weights(net, weights, torch.float32)
            record_identity(net, str(source), weights.files)
        return net.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``config.json`` and ``model.safetensors``; the folder appears, or changes, as a whole."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with whole_folder(Path(folder)) as partial:
            (partial / WEIGHTS_FILE).write_bytes(save(weights))
            (partial / CONFIG_FILE).write_text(json.dumps(self.config, indent=2) + "\n")


def _found(source: str | Path, sha256: Sha256) -> tuple[Path, dict[str, Any]]:
    """The file of weights, and the settings of the network that fits them.

    Raises:
        InputError: if there is none, saying where the public one is to be had.
    """
    if (file := find_file(source, sha256)) is not None:
        return file, {}
    if find_folder(source) is not None or hub_name(source) is not None:
        folder, config = pretrained_config(source, sha256=sha256)
        return folder / WEIGHTS_FILE, config
    if builds_shapes_only():
        return Path(source), {}
    raise InputError(
        f"Synchformer's weights '{source}' do not exist; download {PUBLIC_SOURCE} (907 MB, licence MIT, MD5 "
        f"{PUBLIC_MD5}) and give the file's path"
    )
