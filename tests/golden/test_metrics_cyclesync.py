"""CycleSync against the golden onset envelopes, matchings, click-train pairs and aggregates."""

import json
from statistics import NormalDist

import pytest
import torch
from safetensors.torch import load_file

from components.metrics.cyclesync.matching import count_matches, match_events, onset_iou
from components.metrics.cyclesync.metric import CycleSync, cyclesync_per_clip, mean_over_recordings
from components.metrics.cyclesync.motion_peaks import strict_local_maxima
from components.metrics.cyclesync.onsets import OnsetDetector

NORMAL_95 = NormalDist().inv_cdf(0.975)  # the published half-widths are 1.96 standard errors

# fixture -> (file without ending, key of its case list, name of a case)
SOURCES = {
    "pair": ("cyclesync_pairs", "pairs", lambda i, case: f"{case['pair']}-{case['name']}"),
    "matching_case": ("onset_matching", "cases", lambda i, case: f"{i}-{case.get('note', 'case').replace(' ', '_')}"),
    "envelope_case": ("onset_envelope", "cases", lambda i, case: f"{case['case']}-{case['kind']}"),
    "aggregate": ("cyclesync_aggregate", None, lambda i, case: str(i)),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, (file, key, name) in SOURCES.items():
        if fixture in metafunc.fixturenames:
            path = metafunc.config.getoption("--golden-dir") / "metrics" / f"{file}.json"
            data = json.loads(path.read_text()) if path.exists() else {}
            cases = data.get(key, []) if key else [data] if data else []
            shared = {k: v for k, v in data.items() if k != key} if key else {}
            ids = [f"{file}.json-{name(i, case)}" for i, case in enumerate(cases)]
            metafunc.parametrize(fixture, [{**shared, **case} for case in cases], ids=ids)


@pytest.fixture(scope="module")
def waves(pytestconfig):
    loaded = {}

    def read(file: str, key: str) -> torch.Tensor:
        if file not in loaded:
            loaded[file] = load_file(pytestconfig.getoption("--golden-dir") / "metrics" / f"{file}.safetensors")
        tensor = loaded[file][key]
        return tensor / 32768.0 if tensor.dtype == torch.int16 else tensor

    return read


def check_matching(a, b, expected):
    tolerances = [entry["tolerance"] for entry in expected]
    assert count_matches(a, b, tolerances) == [entry["I"] for entry in expected]
    iou = onset_iou(a, b, tolerances)
    for at, entry in enumerate(expected):
        assert (None if iou is None else iou[at]) == (None if entry["iou"] is None else pytest.approx(entry["iou"]))


def test_onset_matching(matching_case):
    check_matching(matching_case["a"], matching_case["b"], matching_case["expected"])


def test_onset_envelope(envelope_case, waves):
    detector = OnsetDetector(
        sample_rate=envelope_case["sample_rate"], hop=envelope_case["hop"], n_fft=envelope_case["n_fft"]
    )
    index = envelope_case["case"]
    wave = waves("onset_envelope", f"wave_{index}")[None]
    envelope, frames = detector.strength(wave)
    golden = waves("onset_envelope", f"envelope_{index}")
    assert frames.tolist() == [len(golden)]
    torch.testing.assert_close(envelope[0], golden, atol=1e-4, rtol=0)
    assert detector.pick(envelope, frames)[0] == envelope_case["frames"]
    assert detector(wave, envelope_case["sample_rate"])[0] == pytest.approx(envelope_case["times"], abs=1e-9)


def test_pair_expected_from_planted_onsets(pair):
    check_matching(pair["original_onsets"], pair["inferred_onsets"], pair["expected"])
    tolerances = [entry["tolerance"] for entry in pair["expected"]]
    row = cyclesync_per_clip([pair["original_onsets"]], [pair["inferred_onsets"]], tolerances)[0]
    assert row == [None if e["iou"] is None else pytest.approx(e["iou"]) for e in pair["expected"]]


def test_pair_detected_onsets_equal_librosa(pair, waves):
    golden = pair["librosa_default"]["22050"]
    found = {}
    for side in ("original", "inferred"):
        wave = waves("cyclesync_pairs", f"pair{pair['pair']}.{side}")[None]
        found[side] = OnsetDetector()(wave, pair["sample_rate"])[0]
        assert found[side] == pytest.approx(golden[side], abs=1e-9)
    check_matching(found["original"], found["inferred"], golden["expected"])


def test_pair_detector_recovery(pair, waves):
    for side in ("original", "inferred"):
        golden = pair["detector_recovery"][f"22050.{side}"]
        wave = waves("cyclesync_pairs", f"pair{pair['pair']}.{side}")[None]
        found, planted = OnsetDetector()(wave, pair["sample_rate"])[0], pair[f"{side}_onsets"]
        assert (len(found), len(planted)) == (golden["detected"], golden["planted"])
        assert len(match_events(planted, found, 0.05)) == golden["matched_50ms"]


def test_pair_through_the_metric(pair, waves):
    wave = {side: waves("cyclesync_pairs", f"pair{pair['pair']}.{side}")[None] for side in ("original", "inferred")}
    tolerances = pair["tolerances"]
    metric = CycleSync(num_videos=1, tolerance_s=tolerances[0], extra_tolerances_s=tolerances[1:])
    metric.update_from_audio(
        (wave["original"], pair["sample_rate"]),
        (wave["inferred"], pair["sample_rate"]),
        [0],
        duration_s=pair["duration"],
    )
    got = metric.compute()
    for entry in pair["librosa_default"]["22050"]["expected"]:
        value = got[f"at_{entry['tolerance']:.4g}"].item()
        assert value == pytest.approx(float("nan") if entry["iou"] is None else 100 * entry["iou"], nan_ok=True)
    assert got["n_undefined"] == int(pair["expected"][0]["iou"] is None)


def test_aggregate_over_recordings(aggregate):
    total = torch.zeros(1, aggregate["n_videos"], dtype=torch.float64)
    count = torch.zeros(aggregate["n_videos"], dtype=torch.int64)
    index = torch.tensor(aggregate["video_index"])
    total[0].index_add_(0, index, torch.tensor(aggregate["scores"], dtype=torch.float64))
    count.index_add_(0, index, torch.ones_like(index))
    assert int(count.sum()) == aggregate["n_clips"]
    mean, _, sem = mean_over_recordings(total, count)
    assert mean.item() == pytest.approx(aggregate["cluster_mean_x100"], abs=1e-6)
    assert NORMAL_95 * sem.item() == pytest.approx(aggregate["cluster_normal_95_halfwidth_x100"], abs=1e-6)


def test_aggregate_over_clips(aggregate):
    """Every clip its own recording: the plain mean, deviation, standard error and interval."""
    scores = torch.tensor([aggregate["scores"]], dtype=torch.float64)
    mean, sd, sem = mean_over_recordings(scores, torch.ones(aggregate["n_clips"], dtype=torch.int64))
    assert mean.item() == pytest.approx(aggregate["mean_x100"], abs=1e-6)
    assert sd.item() == pytest.approx(aggregate["std_unbiased_x100"], abs=1e-6)
    assert sem.item() == pytest.approx(aggregate["sem_x100"], abs=1e-6)
    assert NORMAL_95 * sem.item() == pytest.approx(aggregate["normal_95_halfwidth_x100"], abs=1e-6)


def test_aggregate_motion_peaks(aggregate):
    for floor, key in ((0.0, "local_max_times_all"), (0.1, "local_max_times_min0.1")):
        times = [index / aggregate["fps"] for index in strict_local_maxima(aggregate["motion_curve"], floor)]
        assert times == pytest.approx(aggregate[key], abs=1e-9)
