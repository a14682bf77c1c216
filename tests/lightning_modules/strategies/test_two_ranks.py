"""Two processes share one training run: other prefixes on every rank, one averaged gradient, equal weights."""

import json
from pathlib import Path

from components.objectives.prefix_lengths import stratified_n
from components.weights.pretrained import sha256_of_tensors
from tests.lightning_modules.strategies.two_ranks import main
from tests.lightning_modules.tiny_module import tiny_dit, tiny_module
from tests.processes import run_ranks, told


def test_two_gloo_processes_train_one_model(tmp_path: Path):
    ended = run_ranks(main, (tmp_path,), 2)
    assert [one.status for one in ended] == [0, 0], told(ended)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    for rank, seen in enumerate(ranks):
        assert seen["lengths"] == [stratified_n(step, rank, 2, num_units=4, first=2, seed=0) for step in range(3)]
        assert len(seen["largest_error"]) == 3 and max(seen["largest_error"]) < 1e-5
    drawn = [n for step in zip(*(seen["lengths"] for seen in ranks), strict=True) for n in step]
    assert sorted(drawn[:3]) == sorted(drawn[3:]) == [2, 3, 4]  # every prefix once per cycle over both ranks
    assert all(a != b for a, b in zip(ranks[0]["losses"], ranks[1]["losses"], strict=True))
    assert ranks[0]["weights"] == ranks[1]["weights"]
    fresh = tiny_module(tiny_dit("mmdit", 1))
    start = sha256_of_tensors({n: p for n, p in fresh.named_parameters() if p.requires_grad})
    assert ranks[0]["weights"] != start
