"""Sums and counts add up: over batches, over ranks, over buckets."""

import pytest
import torch

from components.objectives.task_losses import RowErrors, TaskLossTable
from tests.tiny_syncphony import generator


def rows(num: int, seed: int) -> RowErrors:
    g = generator(seed)
    return RowErrors(
        torch.rand(num, generator=g),
        torch.rand(num, generator=g) < 0.7,
        torch.randint(3, (num,), generator=g),
        torch.rand(num, generator=g),
    )


def test_ranks_with_different_rows_give_the_mean_over_all_rows():
    parts, ranks = [rows(5, 0), rows(31, 1)], [TaskLossTable(3), TaskLossTable(3)]
    for part, rank in zip(parts, ranks, strict=True):
        rank.add("audio", part)
    whole = TaskLossTable(3)
    whole.state = ranks[0].state + ranks[1].state
    means = whole.means()
    error, counted, tasks, sigma = (
        torch.cat([getattr(p, name) for p in parts]) for name in RowErrors.__dataclass_fields__
    )
    assert means["audio"] == pytest.approx(error[counted].double().mean().item())
    for t, task in enumerate(("joint", "audio_driven", "video_driven")):
        mine = counted & (tasks == t)
        assert means[f"{task}/audio"] == pytest.approx(error[mine].double().mean().item())
        for k in range(3):
            bucket = mine & (sigma >= k / 3) & (sigma < (k + 1) / 3)
            if bucket.any():
                assert means[f"{task}/audio_sigma{k}"] == pytest.approx(error[bucket].double().mean().item())
    assert not any("video" in name.split("/")[-1] for name in means)
    assert sum(whole.bucket_counts("audio")) == counted.sum()
    assert sum(whole.bucket_counts("video")) == 0


def test_level_one_belongs_to_the_last_bucket():
    table = TaskLossTable(2)
    table.add("video", RowErrors(torch.tensor([3.0]), torch.tensor([True]), torch.tensor([0]), torch.tensor([1.0])))
    assert table.means() == {"video": 3.0, "joint/video": 3.0, "joint/video_sigma1": 3.0}
