import pytest
import torch

from components.metrics.faces.boxes import moved, over_smaller, over_union, squares, strongest


def random_boxes(count: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    begin = torch.rand(count, 2, generator=draw) * 60
    return torch.cat([begin, begin + 10 + torch.rand(count, 2, generator=draw) * 30], dim=1)


def one_by_one(boxes, scores, groups, max_overlap, overlap):
    """The loop that greedy suppression is defined by."""
    near, kept = overlap(boxes), []
    for box in sorted(range(len(boxes)), key=lambda box: -float(scores[box])):
        if all(groups[box] != groups[other] or near[box, other] <= max_overlap for other in kept):
            kept.append(box)
    return kept


@pytest.mark.parametrize("overlap", [over_union, over_smaller])
@pytest.mark.parametrize("max_overlap", [0.1, 0.3, 0.7])
def test_suppression_is_that_of_the_loop(overlap, max_overlap):
    boxes, scores = random_boxes(200, 0), torch.rand(200, generator=torch.Generator().manual_seed(1))
    scores[::7] = 0.5  # ties
    groups = torch.arange(200) % 3
    found = strongest(boxes, scores, groups, max_overlap, overlap)
    assert found.tolist() == one_by_one(boxes, scores, groups, max_overlap, overlap)
    assert 3 < len(found) < 200


def test_a_long_chain_of_neighbours():
    """Every box touches the next one only: the first, third, fifth ... survive, each because the one before is gone."""
    begin = torch.arange(64.0)[:, None] * 4
    boxes = torch.cat([begin, torch.zeros(64, 1), begin + 10, torch.ones(64, 1)], dim=1)
    found = strongest(boxes, torch.arange(64.0).flip(0), torch.zeros(64, dtype=torch.int64), 0.4)
    assert found.tolist() == list(range(0, 64, 2))


def test_no_boxes():
    nothing = torch.zeros(0, 4)
    assert strongest(nothing, nothing[:, 0], nothing[:, 0].long(), 0.5).tolist() == []
    assert squares(nothing).shape == moved(nothing, nothing, 1).shape == (0, 4)


def test_overlaps_by_hand():
    boxes = torch.tensor([[0.0, 0, 9, 9], [5, 0, 14, 9], [0, 0, 4, 4]])
    assert over_union(boxes)[0, 1].item() == pytest.approx(36 / (81 + 81 - 36))
    # with edges that belong to the box: 5 of 10 columns, and all 25 pixels of the small one
    assert over_smaller(boxes)[0].tolist() == pytest.approx([1, 0.5, 1])


def test_squares_and_offsets_by_hand():
    assert squares(torch.tensor([[10.0, 20, 20, 40]])).tolist() == [[5, 20, 25, 40]]
    shifts = torch.tensor([[0.1, -0.1, 0, 0.5]])
    assert moved(torch.tensor([[10.0, 20, 19, 39]]), shifts, 1).tolist() == [pytest.approx([11, 18, 19, 49])]
