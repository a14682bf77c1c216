"""Savings are counted where they are made, and one block of each kind counts as all of them."""

import re

import pytest
import torch

from benchmarks.pyramid_savings import WAYS, Run
from benchmarks.sampling_flops import flops_by_stage, main, thinned
from components.samplers.pyramid_sampler import Conditions, PyramidSampler
from tests.tiny_syncphony import (
    FPS,
    TEMPORAL_FACTOR,
    audio_features,
    latents,
    text_features,
    tiny_dit,
)

SMALL = ["--clip.num_frames=17", "--clip.min_frames=null", "--clip.height=64", "--clip.width=64"]


@pytest.mark.parametrize(("variant", "first_late"), [("miniflux", 1), ("mmdit", 3)])
def test_one_block_of_each_kind_counts_as_all(variant: str, first_late: int):
    dit = tiny_dit(variant, first_late)
    with torch.no_grad():
        sound = dit.encode_audio(audio_features(1, 2.0), 3, FPS, TEMPORAL_FACTOR)
    conditions = Conditions(text_features(1), text_features(1, seed=1), sound)
    run = Run(dit, conditions, latents(1, 1), 3, PyramidSampler())
    whole = flops_by_stage(run, WAYS[4], {})
    more = thinned(dit)
    assert flops_by_stage(run, WAYS[4], more) == whole


@pytest.mark.slow
def test_every_saving_is_one(capsys: pytest.CaptureFixture[str]):
    main(["--prefixes", "2", *SMALL])
    text = capsys.readouterr().out
    sampling, training = text.split("a training step")
    rows = re.findall(r"^(\w+(?: frame)?) +([\d.,]+)", sampling.split("GiB handed on")[1], re.MULTILINE)
    assert [name for name, _ in rows] == [way.name for way in WAYS]
    counted = [float(count.replace(",", "")) for _, count in rows]
    assert counted[0] > counted[1] > counted[3] and counted[5] < counted[4]
    of_training = [float(x) for x in re.findall(r"^(?:shared|by frame|current) +([\d.]+)", training, re.MULTILINE)]
    assert len(of_training) == 3 and of_training[0] >= of_training[1] > of_training[2]
