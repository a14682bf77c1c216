import doctest
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.errors import InputError
from components.metrics.cyclesync import metric as cyclesync
from components.metrics.cyclesync.metric import CycleSync, common_duration_s, cyclesync_onsets, cyclesync_per_clip
from tests.components.metrics.ranks import on_two_ranks

NUM_VIDEOS = 5


def random_clips(count=23, seed=0):
    """Onset lists of ``count`` clips (a few empty), the recordings they belong to and their valid flags."""
    rng = np.random.default_rng(seed)
    driving = [sorted(rng.uniform(0, 2, rng.integers(0, 6))) for _ in range(count)]
    inferred = [sorted([t + rng.normal(0, 0.06) for t in times if rng.random() < 0.8]) for times in driving]
    return driving, inferred, rng.integers(0, NUM_VIDEOS, count).tolist(), (rng.random(count) < 0.8).tolist()


def filled(driving, inferred, index, valid=None, **kwargs):
    metric = CycleSync(num_videos=NUM_VIDEOS, **kwargs)
    metric.update(driving, inferred, index, valid)
    return metric


def test_perfect_opposite_and_half():
    same = filled([[0.5, 1.0]], [[0.5, 1.0]], [0]).compute()
    assert same["value"] == 100
    assert filled([[0.5]], [[0.9]], [0]).compute()["value"] == 0
    assert filled([[0.5, 1.0]], [[0.5]], [0]).compute()["value"] == 50


def test_clips_of_a_recording_are_averaged_first():
    # recording 0: 0 and 1/3, recording 3: 1; the mean over clips would be 4/9
    got = filled([[0.5], [0.5, 1.0], [1.0]], [[1.5], [0.5, 1.3], [1.0]], [0, 0, 3]).compute()
    assert got["value"].item() == pytest.approx(100 * (1 / 6 + 1) / 2)
    deviation = np.std([100 / 6, 100], ddof=1)
    assert got["sd"].item() == pytest.approx(deviation)
    assert got["sem"].item() == pytest.approx(deviation / math.sqrt(2))
    # of two recordings, both draws fall on one of them in a quarter of the cases each
    assert (got["low"].item(), got["high"].item()) == pytest.approx((100 / 6, 100))
    assert (got["n_videos"], got["n_clips"], got["n_undefined"]) == (2, 3, 0)


def test_several_tolerances_in_one_pass():
    got = filled([[0.5]], [[0.57]], [0], tolerance_s=0.05, extra_tolerances_s=(0.05, 0.1, 0.2)).compute()
    assert [got[f"at_{t}"].item() for t in (0.05, 0.1, 0.2)] == [0, 100, 100]


@pytest.mark.parametrize(("policy", "value", "clips"), [("skip", 100, 1), ("zero", 50, 2), ("one", 100, 2)])
def test_undefined_clips(policy, value, clips):
    got = filled([[], [0.5]], [[], [0.5]], [0, 1], undefined=policy).compute()
    assert (got["value"], got["n_clips"], got["n_undefined"]) == (value, clips, 1)


def test_one_empty_list_is_zero_not_undefined():
    got = filled([[0.5], []], [[], [0.5]], [0, 1]).compute()
    assert (got["value"], got["n_undefined"]) == (0, 0)


def test_invalid_clips_do_not_count():
    driving, inferred, index, valid = random_clips()
    kept = [i for i, flag in enumerate(valid) if flag]
    masked = filled(driving, inferred, index, torch.tensor(valid)).compute()
    alone = filled([driving[i] for i in kept], [inferred[i] for i in kept], [index[i] for i in kept]).compute()
    assert masked == alone


@given(st.randoms(use_true_random=False), st.integers(1, 7))
def test_batches_and_order_do_not_matter(random, batch):
    driving, inferred, index, valid = random_clips()
    whole = filled(driving, inferred, index, valid).compute()
    order = list(range(len(driving)))
    random.shuffle(order)
    metric = CycleSync(num_videos=NUM_VIDEOS)
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        metric.update(*([rows[i] for i in part] for rows in (driving, inferred, index, valid)))
    for name, value in metric.compute().items():
        assert value.item() == pytest.approx(whole[name].item(), rel=1e-12)


def test_result_row():
    metric = filled([[0.5], [0.5]], [[0.5], [0.9]], [0, 1], tolerance_s=0.05, extra_tolerances_s=(0.5,))
    row = metric.result()
    assert row.value == 50
    assert row.n == 2
    assert row.ci95 == (0, 100)
    assert row.details["tolerance_s"] == 0.05
    assert row.details["tolerances"]["0.5"] == {"value": 100, "ci95": [100, 100]}
    assert (row.details["n_clips"], row.details["n_undefined"]) == (2, 0)


@given(st.lists(st.booleans(), min_size=NUM_VIDEOS, max_size=NUM_VIDEOS))
def test_the_interval_stays_within_the_scale(hits):
    low, high = filled([[0.5]] * NUM_VIDEOS, [[0.5] if hit else [0.9] for hit in hits], range(NUM_VIDEOS)).result().ci95
    assert 0 <= low <= 100 * sum(hits) / NUM_VIDEOS <= high <= 100


def test_nothing_seen_is_nan_and_one_recording_has_no_interval():
    empty = filled([], [], []).compute()
    assert math.isnan(empty["value"])
    one = filled([[0.5]], [[0.5]], [0]).result()
    assert one.value == 100
    assert all(math.isnan(end) for end in one.ci95)


def test_reset_forgets():
    metric = filled([[0.5]], [[0.9]], [0])
    metric.reset()
    metric.update([[0.5]], [[0.5]], [0])
    assert metric.compute()["value"] == 100


def test_per_clip_values():
    assert cyclesync_per_clip([[0.5], []], [[0.5], []], [0.05, 0.1]) == [[1.0, 1.0], [None, None]]


def test_from_waveforms_crops_to_what_all_tracks_cover():
    sample_rate = 22_050
    clicks = torch.zeros(1, 2 * sample_rate)
    for time in (0.5, 1.0, 1.6):
        clicks[0, int(time * sample_rate) :][:200] = torch.randn(200, generator=torch.Generator().manual_seed(0))
    metric = CycleSync(num_videos=1)
    metric.update_from_audio((clicks, sample_rate), (clicks[:, : int(1.3 * sample_rate)], sample_rate), [0])
    assert metric.compute()["value"] == 100
    # the inferred sound of a 1.3 s video must not be blamed for what is heard after it
    metric.reset()
    metric.update_from_audio((clicks, sample_rate), (clicks[:, : int(1.3 * sample_rate)], sample_rate), [0], None, 0.8)
    assert metric.compute()["value"] == 100
    assert len(cyclesync_onsets(clicks, sample_rate)[0]) == 3
    assert len(cyclesync_onsets(clicks, sample_rate, 1.3)[0]) == 2


def test_common_duration():
    assert common_duration_s(48, 24.0, (torch.zeros(1, 16_000), 16_000), (torch.zeros(1, 44_100), 22_050)) == 1.0
    assert common_duration_s(48, 24.0) == 2.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_videos": 0}, "num_videos is 0"),
        ({"undefined": "half"}, "undefined is 'half'; use one of skip, zero, one"),
        ({"tolerance_s": -0.1}, "cannot be negative"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(InputError, match=message):
        CycleSync(**{"num_videos": 3, **change})


def test_bad_updates():
    metric = CycleSync(num_videos=2)
    with pytest.raises(InputError, match=r"video index 2 is outside 0\.\.1"):
        metric.update([[0.5]], [[0.5]], [2])
    with pytest.raises(InputError, match="2 driving tracks cannot be compared with 1 inferred"):
        metric.update([[0.5], [1.0]], [[0.5]], [0, 1])
    with pytest.raises(InputError, match="1 clips came with 2 video indices"):
        metric.update([[0.5]], [[0.5]], [0, 1])


def test_examples_in_the_documentation():
    assert doctest.testmod(cyclesync).failed == 0


def _share(rank):
    """One of two processes: 7 and 16 clips, of which some are invalid."""
    driving, inferred, index, valid = random_clips()
    metric = CycleSync(num_videos=NUM_VIDEOS)
    for i in range(7) if rank == 0 else range(7, len(driving)):
        metric.update([driving[i]], [inferred[i]], [index[i]], [valid[i]])
    return {name: value.item() for name, value in metric.compute().items()}


def test_two_processes_with_uneven_shards_equal_one():
    whole = {name: value.item() for name, value in filled(*random_clips()).compute().items()}
    for found in on_two_ranks(_share):
        assert found == pytest.approx(whole, rel=1e-12)
