"""ImageBind-huge, the model that IB, IA and IT of the papers are measured with: brought by whoever may use it.

Girdhar et al., "ImageBind: One Embedding Space To Bind Them All", 2023 (arXiv 2305.05665). Code and weights are under
CC-BY-NC 4.0, so avsync holds neither: both come from their publisher.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.errors import InputError
from components.metrics.imagebind.embedding import EmbeddingModel
from components.metrics.imagebind.mel import imagebind_mel
from components.metrics.imagebind.pictures import clip_normalised
from components.weights.digests import Sha256
from components.weights.identity import identity_of
from components.weights.named_files import names_files, published
from components.weights.pretrained import builds_shapes_only, find_file, load_safetensors

WEIGHTS_ADDRESS = "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth"
INSTALL = (
    "'pip install --no-deps git+https://github.com/facebookresearch/ImageBind' and "
    "'pip install einops ftfy regex timm iopath'"
)
LICENCE = "CC-BY-NC 4.0, not for commercial use"


@published(f"download {WEIGHTS_ADDRESS} (4.8 GB; {LICENCE}) and give its path")
@names_files("checkpoint")
class ImageBindHuge(EmbeddingModel):
    """The public model in the public package, 1.2 billion parameters in float32, frozen.

    The package is installed without its dependencies: what it needs for reading media files (pytorchvideo, torchvision
    of a certain age) is not used here.

    Args:
        checkpoint: the public ``imagebind_huge.pth`` on this disk; by default where its own program puts it.
        sha256: digest of that file.

    Raises:
        InputError: if the package or the file is not there, or the file is damaged; it says where both come from.
    """

    def __init__(self, checkpoint: str = ".checkpoints/imagebind_huge.pth", sha256: Sha256 = None) -> None:
        super().__init__()
        self.model: Any = nn.Identity()
        self.tokenizer: Any = None
        # the public code computes while it builds, so it has no shapes without memory
        if builds_shapes_only():
            return
        models, preprocessors, folder = _public_package()
        file = find_file(checkpoint, sha256)
        if file is None:
            raise InputError(
                f"'{checkpoint}' does not exist: download ImageBind's weights (4.8 GB; {LICENCE}) from "
                f"{WEIGHTS_ADDRESS} and give their path as checkpoint"
            )
        self.model = models.imagebind_huge(pretrained=False)
        load_safetensors(self.model, file, checkpoint)
        self.tokenizer = preprocessors.SimpleTokenizer(bpe_path=str(folder / "bpe" / "bpe_simple_vocab_16e6.txt.gz"))
        self.requires_grad_(False)
        self.eval()

    def pictures(self, frames: Tensor) -> Tensor:
        """A picture is seen as a video of two frames that are the same."""
        return self._embed("vision", clip_normalised(frames))

    def videos(self, pairs: Tensor) -> Tensor:
        """The vision tower takes two frames at once."""
        # [N, 1, 3, 2, W, W]: the model averages over the second axis
        return self._embed("vision", clip_normalised(pairs).transpose(1, 2)[:, None])

    def sounds(self, waveform: Tensor) -> Tensor:
        """By their log-mels."""
        return self._embed("audio", imagebind_mel(waveform)[:, None])

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """At most 77 tokens of each are read."""
        tokens = torch.stack([self.tokenizer(prompt) for prompt in prompts])
        return self._embed("text", tokens.to(next(self.parameters()).device))

    def _embed(self, modality: str, given: Tensor) -> Tensor:
        # sounds and texts come out longer than 1 by a factor of their own (20, or learnt), which no cosine sees
        found: Tensor = self.model({modality: given})[modality]
        return found

    def identity(self) -> dict[str, object]:
        """The file's name and digest."""
        weights = identity_of(self.model)
        return {"model": "ImageBind-huge", "weights": weights.name, "sha256": weights.sha256}


def _public_package() -> tuple[Any, Any, Path]:
    """The package's models, its preprocessors and its folder.

    Raises:
        InputError: if it is not installed, or something that it needs is not.
    """
    spec = importlib.util.find_spec("imagebind")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"ImageBindHuge needs ImageBind's own package ({LICENCE}), which is not installed: {INSTALL}; or give "
            "another EmbeddingModel by its class_path"
        )
    started = "imagebind" in sys.modules
    if not started:
        # without running its __init__, which imports readers of media files that are not used here
        sys.modules["imagebind"] = importlib.util.module_from_spec(spec)
    try:
        models = importlib.import_module("imagebind.models.imagebind_model")
        preprocessors = importlib.import_module("imagebind.models.multimodal_preprocessors")
    except ImportError as error:
        raise InputError(f"ImageBind's own package cannot be used ({error}): {INSTALL}") from None
    finally:
        if not started:
            del sys.modules["imagebind"]
    return models, preprocessors, Path(next(iter(spec.submodule_search_locations)))
