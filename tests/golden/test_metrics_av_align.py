"""AV-Align's matching against the scores of TempoTokens' own code, at frame rates whose frame is the tolerance."""

import json

import pytest

from components.metrics.av_align.scorer import av_align


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    file = metafunc.config.getoption("--golden-dir") / "metrics/onset_matching.json"
    cases = json.loads(file.read_text())["cases"] if file.exists() else []
    metafunc.parametrize("case", cases, ids=[f"onset_matching.json-{index}" for index in range(len(cases))])


def test_scores(case):
    for entry in case["expected"]:
        found = av_align(case["a"], case["b"], 1 / entry["tolerance"])
        if entry["iou"] is None:
            assert found is None  # nothing is defined, where the public code divides by zero
        else:
            assert found == pytest.approx(entry["avalign_tempotokens_iou"], abs=1e-6)
