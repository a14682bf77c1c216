import doctest
import math

import numpy as np
import pytest
import torch

from components.errors import InputError
from components.metrics.syncnet import metric as sync_confidence
from components.metrics.syncnet.metric import SyncConfidence
from components.metrics.syncnet.scorer import SyncScore

NAN = math.nan
NO_FACE = SyncScore(NAN, NAN, NAN, "no_face")
TOO_SHORT = SyncScore(NAN, NAN, NAN, "too_short")


def random_scores(count=17, seed=0):
    rng = np.random.default_rng(seed)
    scores = [SyncScore(*rng.uniform(1, 9, 2), 0.0) if rng.random() < 0.8 else NO_FACE for _ in range(count)]
    return scores, rng.integers(0, 5, count).tolist(), (rng.random(count) < 0.7).tolist()


def filled(scores, index, valid=None, num_videos=5):
    metric = SyncConfidence(num_videos)
    metric.update(scores, index, valid)
    return metric


def test_clips_of_a_recording_are_averaged_first():
    scores = [SyncScore(2.0, 8.0, 0.0), SyncScore(4.0, 10.0, 0.0), SyncScore(7.0, 6.0, 0.0)]
    results = filled(scores, [0, 0, 3]).results()
    assert results["sync_c"].value == 5
    assert results["sync_c"].ci95 == (3, 7)  # both draws fall on one recording in a quarter of the cases each
    assert results["sync_d"].value == (9 + 6) / 2
    assert results["sync_c"].n == 2
    assert results["sync_d"].details["n_clips"] == 3


def test_clips_without_a_score_are_counted_and_left_out():
    got = filled([SyncScore(5.0, 7.0, 0.0), NO_FACE, TOO_SHORT, TOO_SHORT], [0, 1, 2, 2]).compute()
    assert (got["sync_c"], got["n_clips"], got["n_videos"]) == (5, 1, 1)
    assert (got["n_no_face"], got["n_too_short"]) == (1, 2)


def test_invalid_clips_do_not_count():
    scores, index, valid = random_scores()
    kept = [i for i, flag in enumerate(valid) if flag]
    masked = filled(scores, index, torch.tensor(valid)).compute()
    assert masked == filled([scores[i] for i in kept], [index[i] for i in kept]).compute()


def test_shards_add_up():
    scores, index, valid = random_scores()
    whole, parts = filled(scores, index, valid), [SyncConfidence(5) for _ in range(2)]
    for i in range(len(scores)):
        parts[i % 3 == 0].update([scores[i]], [index[i]], [valid[i]])
    for state in ("video_sum", "video_count", "no_face", "too_short"):
        setattr(parts[0], state, getattr(parts[0], state) + getattr(parts[1], state))
    for name, value in parts[0].compute().items():
        assert value.item() == pytest.approx(whole.compute()[name].item(), rel=1e-12)


def test_nothing_scored_is_nan_and_one_recording_has_no_interval():
    assert math.isnan(filled([NO_FACE], [0]).compute()["sync_c"])
    one = filled([SyncScore(5.0, 7.0, 0.0)], [0]).results()["sync_d"]
    assert one.value == 7
    assert all(math.isnan(end) for end in one.ci95)


def test_bad_updates():
    with pytest.raises(InputError, match="num_videos is 0"):
        SyncConfidence(0)
    with pytest.raises(InputError, match=r"video index 5 is outside 0\.\.4"):
        filled([NO_FACE], [5])
    with pytest.raises(InputError, match="1 clips came with 2 video indices"):
        filled([NO_FACE], [0, 1])


def test_examples_in_the_documentation():
    assert doctest.testmod(sync_confidence).failed == 0
