"""The patch discriminator and the hinge losses: values by hand, and gradients that reach one network each."""

import pytest
import torch
from torch import nn

from components.errors import InputError
from components.objectives.adversarial import AdversarialLoss, PatchDiscriminator


def video(batch: int = 2, frames: int = 9, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, frames, side, side, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


def discriminator(**settings: int) -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(width=4, **settings)


class Brightness(nn.Module):
    """A discriminator whose logits are known: a gain times the mean of a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(4.0))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.gain * pixels.mean(dim=(1, 2, 3, 4))


def test_losses_and_gradients_by_hand():
    """Real clips of mean 0.5 have the logit 2, past the margin; decoded ones of mean -0.1 have -0.4, within it."""
    decoded = torch.full((2, 3, 5, 4, 4), -0.1, requires_grad=True)
    game = AdversarialLoss(Brightness())
    for_decoder, for_judge = game(decoded, torch.full((2, 3, 5, 4, 4), 0.5))
    assert for_decoder.item() == pytest.approx(0.4)
    assert for_judge.item() == pytest.approx((0 + 0.6) / 2)
    for_decoder.backward(retain_graph=True)
    assert game.discriminator.gain.grad is None
    torch.testing.assert_close(decoded.grad, torch.full_like(decoded, -4.0 / decoded.numel()))
    decoded.grad = None
    for_judge.backward()
    assert decoded.grad is None
    # d/dgain of (1 + gain * -0.1) / 2; the real clips are past their margin
    assert game.discriminator.gain.grad.item() == pytest.approx(-0.05)


def test_a_clip_is_judged_by_itself_and_in_patches():
    net, clips = discriminator(), video(batch=3)
    logits = net(clips)
    assert logits.shape == (3, 1, 5, 2, 2)
    torch.testing.assert_close(net(clips[1:2]), logits[1:2], atol=1e-5, rtol=1e-4)
    assert net(video(frames=1)).shape == (2, 1, 1, 2, 2)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_smallest_side_is_the_smallest(num_layers):
    net = discriminator(num_layers=num_layers)
    side = net.smallest_side
    assert net(video(side=side)).shape[-1] == 1
    with pytest.raises(InputError, match=rf"frames of {side - 1} x {side - 1} pixels .* needs {side}; .* num_layers"):
        net(video(side=side - 1))
    with pytest.raises(RuntimeError):  # and would fail
        nn.Sequential.forward(net, video(side=side - 1))


def test_it_learns_to_tell_noise_from_stripes():
    net = discriminator()
    game = AdversarialLoss(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    stripes = (torch.arange(32) % 4 < 2).float().mul(2).sub(1).expand(4, 3, 5, 32, 32).contiguous()
    losses = []
    for step in range(25):
        loss = game(video(batch=4, frames=5, seed=step), stripes)[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.7 and losses[-1] < 0.1


def test_bad_arguments():
    with pytest.raises(InputError, match="num_layers is 0"):
        PatchDiscriminator(num_layers=0)
    with pytest.raises(InputError, match="start_step is -1"):
        AdversarialLoss(Brightness(), start_step=-1)
