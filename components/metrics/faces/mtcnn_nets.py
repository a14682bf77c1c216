"""The three networks of MTCNN (Zhang et al., 2016, arXiv 1604.02878): propose, refine, decide.

Parameter names are those of facenet-pytorch's ``pnet.pt``, ``rnet.pt`` and ``onet.pt``. All take pictures scaled to
[-1, 1] and say of each how likely it is a face and how far each edge of its box is off.

Legend for shapes: n pictures, H x W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn


class ProposalNet(nn.Module):
    """P-Net: asks of every 12x12 piece of a picture, two pixels apart, whether it is a face."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, 3, H, W]`` to probabilities ``[n, h, w]`` and offsets ``[n, 4, h, w]``, for piece ``(2 x, 2 y)``."""
        hidden = self.pool1(self.prelu1(self.conv1(pictures)))
        hidden = self.prelu3(self.conv3(self.prelu2(self.conv2(hidden))))
        return self.conv4_1(hidden).softmax(dim=1)[:, 1], self.conv4_2(hidden)


class RefineNet(nn.Module):
    """R-Net: judges pieces of 24x24 pixels."""

    image_size = 24

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, 3, 24, 24]`` to probabilities ``[n]`` and offsets ``[n, 4]``."""
        hidden = self.pool1(self.prelu1(self.conv1(pictures)))
        hidden = self.pool2(self.prelu2(self.conv2(hidden)))
        hidden = _in_matlabs_order(self.prelu3(self.conv3(hidden)))
        hidden = self.prelu4(self.dense4(hidden))
        return self.dense5_1(hidden).softmax(dim=1)[:, 1], self.dense5_2(hidden)


class OutputNet(nn.Module):
    """O-Net: judges pieces of 48x48 pixels. Its third head, five points of the face, is loaded but not asked."""

    image_size = 48

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.pool3 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, 3, 48, 48]`` to probabilities ``[n]`` and offsets ``[n, 4]``."""
        hidden = self.pool1(self.prelu1(self.conv1(pictures)))
        hidden = self.pool2(self.prelu2(self.conv2(hidden)))
        hidden = self.pool3(self.prelu3(self.conv3(hidden)))
        hidden = _in_matlabs_order(self.prelu4(self.conv4(hidden)))
        hidden = self.prelu5(self.dense5(hidden))
        return self.dense6_1(hidden).softmax(dim=1)[:, 1], self.dense6_2(hidden)


def _in_matlabs_order(features: Tensor) -> Tensor:
    """``[n, C, h, w]`` to ``[n, w h C]``: the weights were first trained where columns come before rows."""
    return features.permute(0, 3, 2, 1).flatten(1)
