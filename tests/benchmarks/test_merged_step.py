"""What merging the last step changes is held against the right pictures."""

import math
from pathlib import Path

import pytest
import torch

from benchmarks.merged_step import FEWER, FULL, MERGED, psnr_db, sampled, trained


def test_a_peak_ratio_is_that_of_the_mean_square():
    zero = torch.zeros(2, 3)
    assert psnr_db(zero + 0.1, zero) == pytest.approx(20)
    assert psnr_db(zero, zero) == math.inf


def test_merging_changes_less_than_a_step_fewer(tmp_path: Path):
    module, batch = trained(1, str(tmp_path))
    given = module.sampler
    pictures = {way: sampled(module, batch, 3, way) for way in (FULL, MERGED, FEWER)}
    assert module.sampler is given
    assert torch.equal(pictures[FULL][:, 0], pictures[MERGED][:, 0])  # the first frame is given
    assert 15 < psnr_db(pictures[FEWER], pictures[FULL]) < psnr_db(pictures[MERGED], pictures[FULL]) < 100
