"""A discriminator that looks at patches of video, and the hinge losses it is played by.

Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (2017): a decision for every patch.
Lim and Ye, "Geometric GAN" (2017): the hinge loss. Latent diffusion and Pyramid Flow train their VAEs by both.

Legend for shapes: B clips, T frames, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import relu

from components.errors import InputError


class PatchDiscriminator(nn.Sequential):
    """3-D convolutions that halve height and width, and in the first layer time, down to one logit per patch.

    Instance normalisation looks at one clip alone, so a clip's logits do not depend on its batch.

    Args:
        channels: of a pixel.
        width: of the first layer; doubled from layer to layer, up to eight times.
        num_layers: layers that halve height and width.

    Raises:
        InputError: if there is no layer.
    """

    def __init__(self, channels: int = 3, width: int = 64, num_layers: int = 3) -> None:
        if num_layers < 1:
            raise InputError(f"PatchDiscriminator.num_layers is {num_layers}; it must be at least 1")
        widths = [width * min(2**n, 8) for n in range(num_layers + 1)]
        # (time, height, width): time is halved once, as a latent frame spans few frames
        layers: list[nn.Module] = [nn.Conv3d(channels, width, (3, 4, 4), (2, 2, 2), 1), nn.LeakyReLU(0.2)]
        for n in range(1, num_layers + 1):
            stride = (1, 2, 2) if n < num_layers else (1, 1, 1)
            layers += [
                nn.Conv3d(widths[n - 1], widths[n], (3, 4, 4), stride, 1),
                nn.InstanceNorm3d(widths[n]),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*layers, nn.Conv3d(widths[-1], 1, (3, 4, 4), 1, 1))
        self.smallest_side = 1
        for layer in reversed(list(self)):
            if isinstance(layer, nn.Conv3d):
                # the side that gives this many values: padding is 1 on either side
                self.smallest_side = (self.smallest_side - 1) * layer.stride[-1] + layer.kernel_size[-1] - 2

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits ``[B, 1, t, h, w]`` of the patches of ``[B, 3, T, H, W]`` in [-1, 1].

        Raises:
            InputError: if the frames are smaller than a patch.
        """
        if min(pixels.shape[-2:]) < self.smallest_side:
            raise InputError(
                f"frames of {pixels.shape[-2]} x {pixels.shape[-1]} pixels hold no patch of a discriminator that needs "
                f"{self.smallest_side}; give it fewer num_layers"
            )
        for layer in self:
            pixels = layer(pixels)
        return pixels


class AdversarialLoss(nn.Module):
    """Real clips against decoded ones: what the decoder loses, and what the discriminator does.

    Both come from one pass and have gradients for their own network alone, so that one backward pass of their sum is a
    step of each: they play simultaneously, as in Pyramid Flow's public trainer.

    Args:
        discriminator: maps ``[B, 3, T, H, W]`` in [-1, 1] to logits of any shape.
        weight: of the decoder's loss beside the reconstruction.
        start_step: the optimizer step from which the two play; before it, neither has a gradient from here.

    Raises:
        InputError: if a value is negative.
    """

    def __init__(self, discriminator: nn.Module, weight: float = 0.1, start_step: int = 0) -> None:
        super().__init__()
        for name, value in (("weight", weight), ("start_step", start_step)):
            if value < 0:
                raise InputError(f"AdversarialLoss.{name} is {value}; it must not be negative")
        self.discriminator = discriminator
        self.weight = weight
        self.start_step = start_step

    def forward(self, decoded: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Losses, not weighted, of the decoder and of the discriminator.

        Args:
            decoded: ``[B, 3, T, H, W]``, with gradient.
            pixels: the real clips, of the same shape.

        Returns:
            ``-mean D(decoded)`` and ``(mean max(0, 1 - D(real)) + mean max(0, 1 + D(decoded))) / 2``.
        """
        # fixed copies of the weights: the decoder's loss must not move the discriminator
        fixed = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        fooled: Tensor = functional_call(self.discriminator, fixed, (decoded,))
        judged = self.discriminator(torch.cat((pixels, decoded.detach())))
        real, made = judged.float().chunk(2)
        return -fooled.float().mean(), (relu(1 - real).mean() + relu(1 + made).mean()) / 2
