"""Distances between sets: known values, batches and ranks (also one without clips) that change nothing."""

import doctest
import math

import pytest
import torch

from components.errors import InputError
from components.metrics.distributions import frechet, set_distance
from components.metrics.distributions.classes import InceptionScore
from components.metrics.distributions.kernel import kernel_distance
from components.metrics.distributions.set_distance import SetDistance
from tests.components.metrics.ranks import on_two_ranks

DIM = 6


def drawn(rows, mean=0.0, scale=1.0, seed=0):
    return mean + scale * torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))


def distances(real, generated, size=1000):
    metric = SetDistance(real.shape[1])
    for features, is_real in ((real, True), (generated, False)):
        for batch in features.split(size):
            metric.update(batch, real=is_real)
    return {name: value.item() for name, value in metric.compute().items()}


def test_equal_sets_are_at_distance_0():
    features = drawn(200)
    got = distances(features, features.flip(0))
    assert got["frechet"] == pytest.approx(0, abs=1e-6)
    # unbiased: pairs of a clip and itself are in the mean across sets alone, so equal sets come out a little below 0
    assert -0.2 < got["kernel"] < 0
    assert (got["n_real"], got["n_generated"]) == (200, 200)


def test_the_unbiased_kernel_distance_of_one_distribution_has_mean_0():
    found = torch.stack([kernel_distance(drawn(20, seed=2 * i), drawn(20, seed=2 * i + 1)) for i in range(400)])
    assert abs(found.mean()) < 3 * found.std() / math.sqrt(len(found))


def test_a_shift_and_a_scale_have_the_distance_of_their_normal_distributions():
    features = drawn(300)
    assert distances(features, features + 2)["frechet"] == pytest.approx(4 * DIM, rel=1e-6)
    # of deviations s and 2 s: s^2 per number
    spread = features.double().var(dim=0).sum().item()
    moved = 2 * (features - features.mean(dim=0)) + features.mean(dim=0)
    assert distances(features, moved)["frechet"] == pytest.approx(spread, rel=1e-5)


def test_farther_sets_are_farther():
    features = drawn(100)
    found = [distances(features, drawn(100, mean, seed=1)) for mean in (0.0, 0.5, 1.0, 3.0)]
    for name in ("frechet", "kernel"):
        assert sorted(found, key=lambda got: got[name]) == found


def test_kernel_distance_is_the_mean_over_pairs():
    """By the definition, pair by pair, with sets of different sizes."""
    x, y = drawn(5).double(), drawn(7, 0.5, seed=1).double()

    def kernel(a, b):
        return (a @ b / DIM + 1) ** 3

    within = [
        sum(kernel(a, b) for i, a in enumerate(part) for j, b in enumerate(part) if i != j)
        / (len(part) * (len(part) - 1))
        for part in (x, y)
    ]
    across = sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    assert kernel_distance(x, y).item() == pytest.approx((sum(within) - 2 * across).item(), rel=1e-12)


def test_batches_and_blocks_change_nothing(monkeypatch):
    real, generated = drawn(40), drawn(33, 0.3, seed=1)
    whole = distances(real, generated)
    monkeypatch.setattr("components.metrics.distributions.kernel._BLOCK", 7)
    assert distances(real, generated, size=3) == pytest.approx(whole, rel=1e-10)


@pytest.mark.parametrize("rows", [0, 1])
def test_sets_too_small_have_no_distance(rows):
    got = distances(drawn(9), drawn(rows))
    assert math.isnan(got["frechet"]) and math.isnan(got["kernel"])
    assert (got["n_real"], got["n_generated"]) == (9, rows)


def test_reset_forgets_both_sets():
    metric = SetDistance(DIM)
    metric.update(drawn(9), real=True)
    metric.update(drawn(9), real=False)
    metric.reset()
    assert metric.compute()["n_real"] == 0 and metric.compute()["kernel"].isnan()


def test_what_does_not_fit_is_refused():
    metric = SetDistance(DIM)
    with pytest.raises(InputError, match=r"features are \[4, 7\]; \[clips, 6\]"):
        metric.update(torch.zeros(4, 7), real=True)
    with pytest.raises(InputError, match="not finite"):
        metric.update(torch.full((4, DIM), math.nan), real=True)
    for wrong in (["frechet", "mahalanobis"], [], "frechet"):
        with pytest.raises(InputError, match="frechet and kernel"):
            SetDistance(DIM, wrong)


def test_examples_in_the_documentation():
    assert doctest.testmod(frechet).failed == doctest.testmod(set_distance).failed == 0


def _share(rank):
    """One of two processes; the second has no real clip, and of the generated ones the smaller part or none."""
    values = []
    for has_generated in (True, False):
        metric, score = SetDistance(DIM), InceptionScore(DIM)
        if rank == 0:
            metric.update(drawn(30), real=True)
            metric.update(drawn(21, 0.4, seed=1)[:16], real=False)
            score.update(drawn(21, 0.4, seed=1)[:16])
        elif has_generated:
            metric.update(drawn(21, 0.4, seed=1)[16:], real=False)
            score.update(drawn(21, 0.4, seed=1)[16:])
        values.append({name: value.item() for name, value in (metric.compute() | score.compute()).items()})
    return values


def test_two_processes_equal_one_also_where_one_has_no_clip():
    real, generated = drawn(30), drawn(21, 0.4, seed=1)
    whole = []
    for part in (generated, generated[:16]):
        score = InceptionScore(DIM)
        score.update(part)
        whole.append(distances(real, part) | {name: value.item() for name, value in score.compute().items()})
    for found in on_two_ranks(_share):
        for got, expected in zip(found, whole, strict=True):
            assert got == pytest.approx(expected, rel=1e-10)
