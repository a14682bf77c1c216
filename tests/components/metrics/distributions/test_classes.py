"""Divergence of classes and inception score: values known by hand."""

import math

import pytest
import torch

from components.errors import InputError
from components.metrics.distributions.classes import InceptionScore, class_divergence, inception_score


def test_equal_probabilities_do_not_diverge():
    logits = torch.randn(5, 9)
    for classes in ("exclusive", "independent"):
        torch.testing.assert_close(class_divergence(logits, logits, classes), torch.zeros(5, dtype=torch.float64))
    # a constant added to all classes is no other softmax
    torch.testing.assert_close(class_divergence(logits, logits + 3), torch.zeros(5).double(), atol=1e-6, rtol=0)


def test_divergence_by_hand():
    """Certain of one of two classes, against a fair coin: log 2, each clip on its own."""
    real = torch.tensor([[50.0, -50.0], [0.0, 0.0]])
    got = class_divergence(real, torch.zeros(2, 2))
    torch.testing.assert_close(got, torch.tensor([math.log(2), 0.0], dtype=torch.float64))
    # 1 log(1 / 0.5) of the class that is there; of the absent one nothing
    assert class_divergence(real[:1], torch.zeros(1, 2), "independent").item() == pytest.approx(math.log(2))


def test_inception_score_is_the_number_of_classes_that_are_told_apart():
    certain = 100 * torch.eye(4).repeat(3, 1)
    assert inception_score(certain)[0].item() == pytest.approx(4)
    assert inception_score(certain[:1].repeat(12, 1))[0].item() == pytest.approx(1)
    assert inception_score(torch.zeros(12, 4))[0].item() == pytest.approx(1)


def test_splits_without_clips_have_no_score():
    assert all(value.isnan() for value in inception_score(torch.randn(3, 4), splits=10))
    metric = InceptionScore(4)
    got = metric.compute()
    assert got["inception_score"].isnan() and got["n_generated"] == 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"logits are \[2, 3\]; \[clips, 4\]"):
        InceptionScore(4).update(torch.zeros(2, 3))
    with pytest.raises(InputError, match="splits is 0"):
        InceptionScore(4, splits=0)
