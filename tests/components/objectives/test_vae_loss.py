"""Reconstruction and KL against closed forms, and against torch's own divergence."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from components.codecs.posterior import DiagonalGaussian
from components.errors import InputError
from components.objectives.vae_loss import VAELoss, standard_normal_kl


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def posterior(batch: int = 2) -> DiagonalGaussian:
    return DiagonalGaussian(noise(batch, 4, 3, 2, 2, seed=1), noise(batch, 4, 3, 2, 2, seed=2))


def test_the_divergence_is_that_of_two_normal_distributions():
    given = posterior()
    expected = kl_divergence(Normal(given.mean, given.std), Normal(0.0, 1.0)).flatten(1).sum(dim=1)
    torch.testing.assert_close(standard_normal_kl(given), expected)
    by_hand = DiagonalGaussian(torch.tensor([[3.0]]), torch.tensor([[4.0]]).log())
    assert standard_normal_kl(by_hand).item() == pytest.approx(0.5 * (9 + 4 - 1 - 2 * torch.tensor(2.0).log().item()))
    nothing_said = DiagonalGaussian(torch.zeros(1, 2), torch.zeros(1, 2))
    assert standard_normal_kl(nothing_said).item() == 0


@pytest.mark.parametrize(("kind", "error"), [("mse", 0.25), ("l1", 0.5)])
def test_terms_by_hand(kind, error):
    pixels = noise(2, 3, 9, 8, 8)
    terms = VAELoss(kind, reconstruction_weight=10.0, kl_weight=0.5)(pixels + 0.5, pixels, posterior())
    assert terms.reconstruction.item() == pytest.approx(error, rel=1e-5)
    per_value = standard_normal_kl(posterior()).mean() / (3 * 9 * 8 * 8)
    torch.testing.assert_close(terms.kl, per_value)
    torch.testing.assert_close(terms.total, 10 * terms.reconstruction + 0.5 * per_value)


def test_the_weights_mean_the_same_at_any_size_and_those_of_sums_over_a_clip():
    """Latent diffusion: sums over a clip, averaged over the batch; the same up to the number of pixel values."""
    pixels, decoded, given = noise(2, 3, 9, 8, 8), noise(2, 3, 9, 8, 8, seed=3), posterior()
    sums = (decoded - pixels).abs().sum() / 2 + 1e-6 * standard_normal_kl(given).mean()
    torch.testing.assert_close(VAELoss("l1")(decoded, pixels, given).total * (3 * 9 * 8 * 8), sums)


def test_gradients_reach_both_moments_and_the_decoded_video():
    tensors = [noise(1, 3, 5, 4, 4).requires_grad_(), *(noise(1, 2, 2, 1, 1, seed=s).requires_grad_() for s in (1, 2))]
    decoded, mean, logvar = tensors
    VAELoss(kl_weight=1.0)(decoded, noise(1, 3, 5, 4, 4, seed=4), DiagonalGaussian(mean, logvar)).total.backward()
    values = 3 * 5 * 4 * 4
    torch.testing.assert_close(mean.grad, mean.detach() / values)
    torch.testing.assert_close(logvar.grad, 0.5 * (logvar.detach().exp() - 1) / values)
    assert decoded.grad.abs().sum() > 0


def test_half_precision_is_summed_in_float32():
    pixels = noise(1, 3, 5, 4, 4)
    low = DiagonalGaussian(posterior(1).mean.bfloat16(), posterior(1).logvar.bfloat16())
    terms = VAELoss()(pixels.bfloat16(), pixels, low)
    assert terms.total.dtype == terms.kl.dtype == torch.float32


def test_bad_arguments():
    with pytest.raises(InputError, match=r"reconstruction is 'l2'; use one of mse, l1"):
        VAELoss("l2")
    with pytest.raises(InputError, match=r"kl_weight is -1"):
        VAELoss(kl_weight=-1.0)
