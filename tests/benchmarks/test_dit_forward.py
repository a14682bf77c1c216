"""FLOPs are those of the architecture, and the time is held against plain matrix products of the same run."""

import re
from dataclasses import replace

import pytest

from benchmarks.dit_forward import count_flops, count_flops_by_block, main
from benchmarks.pyramid_batch import PUBLIC, BatchSize, ModelSize

SMALL = BatchSize(latents=3, height=8, width=8, prefix=2, words=3)
MODELS = [ModelSize("miniflux", 1, 2, 3, 2), ModelSize("sd3", 1, 4, 0, 2)]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.variant)
def test_blocks_multiplied_are_blocks_counted(model: ModelSize):
    flops, tokens = count_flops_by_block(model, SMALL)
    assert flops == count_flops(model, SMALL)
    # full column: frame 0 beside frame 1 (16 tokens each), coarse ones: 1 + 1 at stage 0, 4 + 4 twice at stage 1
    assert tokens == 2 * 16 + 2 * 2 * 4 + 2


def test_the_backward_pass_costs_two_forward_passes_of_the_late_blocks():
    model = ModelSize("miniflux", 1, 1, 3, 1)
    # the last block does less: it changes only what is read
    three, two, last = (count_flops(replace(model, first_late_block=first), SMALL, True) for first in (1, 2, 3))
    block = count_flops(replace(model, single_blocks=4), SMALL) - count_flops(model, SMALL)
    assert three - two == pytest.approx(2 * block, rel=0.05)
    assert two - last == pytest.approx(2 * block, rel=0.1)  # less what would lead into frozen blocks


@pytest.mark.parametrize(("variant", "tera"), [("miniflux", 12.6), ("sd3", 8.4)])
def test_a_full_batch_costs_what_the_released_recipe_counts_less_what_it_masks(variant: str, tera: float):
    flops, tokens = count_flops_by_block(PUBLIC[variant], BatchSize(prefix=8))  # about the mean of all prefixes
    assert 0.9 * tera < flops / 1e12 < tera
    assert 3480 <= tokens <= 5400


def test_the_full_experiments_stand_beside_the_reference(capsys: pytest.CaptureFixture[str]):
    main(["--flops", "--prefixes=8"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "released recipe," in line]
    assert len(lines) == 2
    assert all(0.9 < float(line.split()[-1]) < 1 for line in lines)


def test_profile_and_shares_are_printed(capsys: pytest.CaptureFixture[str]):
    options = "--heads 1 --joint-blocks 1 --single-blocks 1 --latents 2 --height 8 --width 8 --words 2 --matrices 64"
    main([*options.split(), "--precision", "float32", "autocast", "--train", "--profile", "--repeats", "1"])
    text = capsys.readouterr().out
    assert "forward and backward; blocks 0..0 frozen" in text
    shares = [float(share) for share in re.findall(r"aten::\S+ .* ms +(\d\.\d\d)$", text, re.M)]
    assert len(shares) > 10 and sum(shares) <= 2.1 and any("aten::addmm" in line for line in text.splitlines())
