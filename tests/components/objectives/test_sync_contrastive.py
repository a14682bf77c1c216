import pytest
import torch

from components.errors import InputError
from components.objectives.sync_contrastive import SyncContrastiveLoss


def test_by_the_book():
    generator = torch.Generator().manual_seed(0)
    lips, sound = (torch.randn(2, 9, 4, generator=generator) for _ in range(2))
    close, apart = [], []
    for clip in range(2):
        for i in range(9):
            for j in range(9):
                distance = (lips[clip, i] - sound[clip, j]).norm()
                if i == j:
                    close.append(distance**2)
                elif 2 <= abs(i - j) <= 5:
                    apart.append((3.0 - distance).clamp(min=0) ** 2)
    expected = (torch.stack(close).mean() + torch.stack(apart).mean()) / 2
    found = SyncContrastiveLoss(margin=3.0, min_shift=2, max_shift=5)(lips, sound)
    torch.testing.assert_close(found, expected)


def test_perfect_embeddings_cost_nothing_and_neighbours_are_free():
    embeddings = torch.eye(8)[None] * 10
    assert SyncContrastiveLoss(margin=10.0)(embeddings, embeddings) == 0
    pairs = embeddings[:, [0, 0, 2, 2, 4, 4, 6, 6]]  # neighbours alike
    assert SyncContrastiveLoss(margin=10.0, min_shift=2)(pairs, pairs) == 0
    assert SyncContrastiveLoss(margin=10.0, min_shift=1)(pairs, pairs) > 0


def test_gradients_pull_true_pairs_together_and_push_false_ones_apart():
    generator = torch.Generator().manual_seed(0)
    lips, sound = (torch.randn(1, 12, 4, generator=generator).requires_grad_() for _ in range(2))
    loss = SyncContrastiveLoss(margin=4.0)
    before = loss(lips, sound)
    before.backward()
    with torch.no_grad():
        assert loss(lips - 0.1 * lips.grad, sound - 0.1 * sound.grad) < before


def test_equal_embeddings_have_finite_gradients():
    same = torch.ones(1, 6, 4).requires_grad_()
    SyncContrastiveLoss()(same, same * 1.0).backward()
    assert same.grad.isfinite().all()


def test_bad_settings():
    with pytest.raises(InputError, match="margin is 0"):
        SyncContrastiveLoss(margin=0)
    with pytest.raises(InputError, match="min_shift is 16"):
        SyncContrastiveLoss(min_shift=16)
    with pytest.raises(InputError, match="clips of 2 windows hold no pair 2 frames apart"):
        SyncContrastiveLoss()(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))
