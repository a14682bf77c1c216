"""Distances of sets, divergences of classes and inception scores against the golden values."""

import json

import pytest
from safetensors.torch import load_file

from components.metrics.distributions.classes import InceptionScore, class_divergence, inception_score
from components.metrics.distributions.kernel import kernel_distance
from components.metrics.distributions.set_distance import SetDistance


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    files = sorted((metafunc.config.getoption("--golden-dir") / "metrics").glob("distribution_metrics*.json"))
    packs = [(load_file(file.with_suffix(".safetensors")), json.loads(file.read_text())) for file in files]
    if "sets" in metafunc.fixturenames:
        cases = [
            pytest.param((data[f"x_{case['case']}"], data[f"y_{case['case']}"], case), id=f"{file.name}-{case['case']}")
            for file, (data, pack) in zip(files, packs, strict=True)
            for case in pack["frechet_cases"]
        ]
        metafunc.parametrize("sets", cases)
    if "pack" in metafunc.fixturenames:
        metafunc.parametrize("pack", packs, ids=[file.name for file in files])


@pytest.fixture
def scores(pack):
    """(splits, golden mean, golden deviation) of every inception score in the pack."""
    named = {key: value for key, value in pack[1].items() if key.startswith("inception_score")}
    return [
        (int(key.split("_")[2]), value["inception_score_mean"], value["inception_score_std"])
        for key, value in named.items()
    ]


def test_frechet(sets):
    x, y, case = sets
    metric = SetDistance(x.shape[1], ["frechet"])
    for part in x.split(7):
        metric.update(part, real=True)
    for part in y.split(9):
        metric.update(part, real=False)
    got = metric.compute()
    assert got["frechet"].item() == pytest.approx(case["frechet"], rel=1e-6)
    assert (got["n_real"].item(), got["n_generated"].item()) == (len(x), len(y)) == (case["n"], case["m"])


def test_kernel(sets):
    x, y, case = sets
    assert kernel_distance(x, y).item() == pytest.approx(case["kernel_mmd_degree3"], rel=1e-6)
    assert kernel_distance(y, x).item() == pytest.approx(case["kernel_mmd_degree3"], rel=1e-6)


def test_kernel_of_batches(sets):
    """The metric keeps float32, as extractors give it."""
    x, y, case = sets
    metric = SetDistance(x.shape[1], ["kernel"])
    metric.update(x, real=True)
    metric.update(y, real=False)
    assert metric.compute()["kernel"].item() == pytest.approx(case["kernel_mmd_degree3"], rel=1e-5)


def test_divergences(pack):
    data, golden = pack
    real, generated = data["logits_gt"], data["logits_gen"]
    assert class_divergence(real, generated).mean().item() == pytest.approx(golden["kl_softmax_gt_to_gen"], rel=1e-4)
    independent = class_divergence(real, generated, "independent").mean().item()
    assert independent == pytest.approx(golden["kl_sigmoid"], rel=1e-4)


def test_inception_scores(pack, scores):
    generated = pack[0]["logits_gen"]
    assert scores
    for splits, golden_mean, golden_deviation in scores:
        mean, deviation = inception_score(generated, splits)
        assert mean.item() == pytest.approx(golden_mean, rel=1e-4)
        assert deviation.item() == pytest.approx(golden_deviation, abs=1e-4)
        metric = InceptionScore(generated.shape[1], splits)
        for part in generated.split(11):
            metric.update(part)
        assert metric.compute()["inception_score"].item() == pytest.approx(golden_mean, rel=1e-4)
