"""A stand-in for ImageBind's public package, which may not be passed on: the same names and calls, a few numbers.

Like the real one, its ``__init__`` imports what is not installed.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import torch

MODEL = '''
import torch
from torch import nn

SHAPES = {"vision": (3, 2, 224, 224), "audio": (1, 128, 204), "text": (77,)}
WIDTHS = {"vision": 6, "audio": 128, "text": 77}
MEANS = {"vision": (3, 4), "audio": (1, 3), "text": ()}


class Model(nn.Module):
    """Takes what the real one takes; several clips of one item come as a further axis in front and are averaged."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, 5) for name, width in WIDTHS.items()})
        self.register_buffer("scale", torch.tensor(20.0))

    def forward(self, inputs):
        found = {}
        for name, given in inputs.items():
            several = given.ndim >= 5
            flat = given.flatten(0, 1) if several else given
            if name == "vision" and flat.ndim == 4:
                flat = flat[:, :, None].expand(-1, -1, 2, -1, -1)
            assert flat.shape[1:] == SHAPES[name], (name, flat.shape)
            flat = flat.float().mean(dim=MEANS[name]) if MEANS[name] else flat.float()
            units = nn.functional.normalize(self.heads[name](flat.flatten(1)), dim=-1)
            units = units if name == "vision" else units * self.scale
            found[name] = units.unflatten(0, given.shape[:2]).mean(dim=1) if several else units
        return found


def imagebind_huge(pretrained=False):
    assert not pretrained, "would download"
    return Model()
'''

PREPROCESSORS = """
import gzip
import torch


class SimpleTokenizer:
    def __init__(self, bpe_path, context_length=77):
        self.letters = gzip.open(bpe_path).read().decode()

    def __call__(self, text):
        tokens = torch.zeros(77, dtype=torch.long)
        known = torch.tensor([1 + self.letters.index(letter) for letter in text[:77]])
        tokens[: len(known)] = known
        return tokens
"""


def write_imagebind_package(site: Path) -> None:
    """The package, ready to be imported once ``site`` is on the path."""
    models, bpe = site / "imagebind" / "models", site / "imagebind" / "bpe"
    for folder in (models, bpe):
        folder.mkdir(parents=True)
    (site / "imagebind" / "__init__.py").write_text("import pytorchvideo_that_nobody_has\n")
    (models / "__init__.py").write_text("")
    (models / "imagebind_model.py").write_text(MODEL)
    (models / "multimodal_preprocessors.py").write_text(PREPROCESSORS)
    with gzip.open(bpe / "bpe_simple_vocab_16e6.txt.gz", "wb") as file:
        file.write(b"abcdefghijklmnopqrstuvwxyz ")


def write_imagebind_weights(file: Path, model: torch.nn.Module) -> None:
    """As the public ``imagebind_huge.pth``: a pickled state dict."""
    torch.save(model.state_dict(), file)
