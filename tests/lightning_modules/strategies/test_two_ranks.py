"""Two processes share one training run: other prefixes on every rank, one averaged gradient, equal weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

from components.objectives.prefix_lengths import stratified_n
from components.weights.pretrained import sha256_of_tensors
from tests.lightning_modules.tiny_module import tiny_dit, tiny_module

ROOT = Path(__file__).resolve().parents[3]


def test_two_gloo_processes_train_one_model(tmp_path: Path):
    run = subprocess.run(
        [sys.executable, "-m", "tests.lightning_modules.strategies.two_ranks", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
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
