"""MUSIQ: a transformer that rates a picture from patches of three sizes of it.

Ke et al., "MUSIQ: Multi-Scale Image Quality Transformer" (2021). State-dict keys are those of pyiqa's files
(``musiq_spaq_ckpt-358bb6af.pth`` and others), which VBench uses.

Legend for shapes: N patches, P patch side, H x W pixels, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT_CHANNELS = 64


@dataclass(frozen=True)
class MusiqShape:
    """Sizes of the network; the defaults are the published ones.

    Attributes:
        width: of the tokens.
        mlp_width: of the hidden layer of a block.
        heads: of attention.
        layers: blocks.
        patch: side of a patch in pixels.
        longer_sides: sizes beside the picture's own, by the longer side.
        grid: positions a side that patches of any number are mapped to.
        classes: 1 for a rating; 10 for AVA's distribution over the ratings 1 to 10.
    """

    width: int = 384
    mlp_width: int = 1152
    heads: int = 6
    layers: int = 14
    patch: int = 32
    longer_sides: Sequence[int] = (224, 384)
    grid: int = 10
    classes: int = 1


class Musiq(nn.Module):
    """Rates one picture at a time, in the unit of its training set (SPAQ and KonIQ: 0 to 100)."""

    def __init__(self, shape: MusiqShape | None = None) -> None:
        super().__init__()
        self.shape = shape = shape or MusiqShape()
        self.conv_root = StandardizedConv(3, ROOT_CHANNELS, 7, 2)
        self.gn_root = nn.GroupNorm(32, ROOT_CHANNELS, eps=1e-6)
        self.block1 = Bottleneck(ROOT_CHANNELS, 4 * ROOT_CHANNELS)
        self.embedding = nn.Linear(4 * ROOT_CHANNELS * (shape.patch // 4) ** 2, shape.width)
        self.transformer_encoder = Encoder(shape)
        rating = nn.Linear(shape.width, shape.classes)
        self.head = rating if shape.classes == 1 else nn.Sequential(rating, nn.Softmax(dim=-1))

    def forward(self, picture: Tensor) -> Tensor:
        """``[3, H, W]`` in [0, 1] to its rating, a scalar."""
        pictures = self._sizes(2 * picture[None] - 1)
        patches = torch.cat([cut(one, self.shape.patch) for one in pictures])
        positions = torch.cat([hashed_positions(one, self.shape.patch, self.shape.grid) for one in pictures])
        counts = torch.tensor([len(cut(one, self.shape.patch)) for one in pictures], device=picture.device)
        scales = torch.arange(len(pictures), device=picture.device).repeat_interleave(counts)
        rated = self.head(self.transformer_encoder(self._embed(patches), positions, scales))
        ratings = torch.arange(1, self.shape.classes + 1, device=picture.device)
        rating: Tensor = (rated * ratings).sum()  # of one class, that itself
        return rating

    def _sizes(self, picture: Tensor) -> list[Tensor]:
        """The picture at each longer side, smallest first, and as it is."""
        height, width = picture.shape[-2:]
        found = []
        for side in sorted(self.shape.longer_sides):
            ratio = side / max(height, width)
            size = max(1, round(height * ratio)), max(1, round(width * ratio))
            found.append(F.interpolate(picture, size, mode="bicubic"))
        return [*found, picture]

    def _embed(self, patches: Tensor) -> Tensor:
        """``[N, 3, P, P]`` to ``[N, D]``."""
        features = F.relu(self.gn_root(self.conv_root(patches)))
        # zeros are padded, which is no other than the least value here
        features = self.block1(F.max_pool2d(padded_same(features, 3, 2), 3, 2))
        # channels last, as the original weights' rows lie
        embedded: Tensor = self.embedding(features.permute(0, 2, 3, 1).flatten(1))
        return embedded


class StandardizedConv(nn.Conv2d):
    """A convolution without bias whose filters have mean 0 and deviation 1; padded as TensorFlow's ``SAME``."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1) -> None:
        super().__init__(before, after, kernel, stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C', ceil(H / stride), ceil(W / stride)]``."""
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(padded_same(input, self.kernel_size[0], self.stride[0]), weight, stride=self.stride)


class Bottleneck(nn.Module):
    """A residual block of three convolutions and a projection."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1, self.gn1 = StandardizedConv(before, before, 1), nn.GroupNorm(32, before, eps=1e-4)
        self.conv2, self.gn2 = StandardizedConv(before, before, 3), nn.GroupNorm(32, before, eps=1e-4)
        self.conv3, self.gn3 = StandardizedConv(before, after, 1), nn.GroupNorm(32, after, eps=1e-4)
        self.conv_proj, self.gn_proj = StandardizedConv(before, after, 1), nn.GroupNorm(32, after, eps=1e-4)

    def forward(self, features: Tensor) -> Tensor:
        """``[N, C, h, w]`` to ``[N, C', h, w]``."""
        inner = F.relu(self.gn1(self.conv1(features)))
        inner = F.relu(self.gn2(self.conv2(inner)))
        return F.relu(self.gn3(self.conv3(inner)) + self.gn_proj(self.conv_proj(features)))


class Encoder(nn.Module):
    """Blocks over a class token and all patches of all sizes, each with its place and its size added."""

    def __init__(self, shape: MusiqShape) -> None:
        super().__init__()
        self.posembed_input = nn.ParameterDict({"position_emb": torch.zeros(1, shape.grid**2, shape.width)})
        self.scaleembed_input = nn.ParameterDict({"scale_emb": torch.zeros(1 + len(shape.longer_sides), shape.width)})
        self.cls = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.encoder_norm = nn.LayerNorm(shape.width, eps=1e-6)
        self.transformer = nn.ModuleDict({f"encoderblock_{i}": Block(shape) for i in range(shape.layers)})

    def forward(self, tokens: Tensor, positions: Tensor, scales: Tensor) -> Tensor:
        """``[N, D]`` and the place and size ``[N]`` of each to the class token's ``[D]``."""
        tokens = tokens + self.posembed_input["position_emb"][0, positions] + self.scaleembed_input["scale_emb"][scales]
        tokens = torch.cat([self.cls[0], tokens])
        for block in self.transformer.values():
            tokens = block(tokens)
        first: Tensor = self.encoder_norm(tokens[0])
        return first


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, shape: MusiqShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=1e-6)
        self.attention = Attention(shape.width, shape.heads)
        self.norm2 = nn.LayerNorm(shape.width, eps=1e-6)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(shape.width, shape.mlp_width), "fc2": nn.Linear(shape.mlp_width, shape.width)}
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """``[N, D]`` to the same."""
        tokens = tokens + self.attention(self.norm1(tokens))
        inner = F.gelu(self.mlp["fc1"](self.norm2(tokens)))
        result: Tensor = tokens + self.mlp["fc2"](inner)
        return result


class Attention(nn.Module):
    """Every token of a picture looks at every other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[N, D]`` to the same."""
        # [N, D] to [1, heads, N, D / heads]
        parts = (
            layer(tokens).unflatten(1, (self.heads, -1)).transpose(0, 1)[None]
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(*parts)[0].transpose(0, 1).flatten(1)
        result: Tensor = self.out(mixed)
        return result


def padded_same(pictures: Tensor, kernel: int, stride: int) -> Tensor:
    """``[N, C, H, W]`` with zeros around, the odd one below and right, so that ``ceil(side / stride)`` comes out."""
    below, right = (max(0, (math.ceil(side / stride) - 1) * stride + kernel - side) for side in pictures.shape[-2:])
    return F.pad(pictures, (right // 2, right - right // 2, below // 2, below - below // 2))


def cut(picture: Tensor, patch: int) -> Tensor:
    """``[1, 3, H, W]`` to its patches row by row, with zeros around where they reach beyond: ``[N, 3, P, P]``."""
    columns = F.unfold(padded_same(picture, patch, patch), patch, stride=patch)
    return columns[0].T.reshape(-1, 3, patch, patch)


def hashed_positions(picture: Tensor, patch: int, grid: int) -> Tensor:
    """Which of the ``grid x grid`` places each patch of ``[1, 3, H, W]`` has: int64 ``[N]``."""
    rows, columns = (
        F.interpolate(torch.arange(grid, dtype=torch.float32)[None, None], math.ceil(side / patch), mode="nearest")[
            0, 0
        ]
        for side in picture.shape[-2:]
    )
    return (rows[:, None] * grid + columns).flatten().long().to(picture.device)
