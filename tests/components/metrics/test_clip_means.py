import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import InputError
from components.metrics.clip_means import ClipMeans
from components.metrics.scorers import ClipScores
from tests.components.metrics.ranks import on_two_ranks

NAMES, PROBLEMS = ["wer", "cer"], ["no_face", "silent"]

CLIPS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(NAMES), st.floats(-100, 100)),
        st.sampled_from([None, *PROBLEMS]),
        st.integers(0, 2),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


def metric(clips, **kwargs):
    found = ClipMeans(NAMES, 3, PROBLEMS, **kwargs)
    for values, problem, video, valid in clips:
        found.update([ClipScores(values, problem)], [video], [valid])
    return found


@given(CLIPS)
def test_clips_of_a_recording_are_averaged_first(clips):
    got = metric(clips).compute()
    for name in NAMES:
        by_video = {}
        for values, _, video, valid in clips:
            if valid and name in values:
                by_video.setdefault(video, []).append(values[name])
        means = [np.mean(found) for found in by_video.values()]
        wanted = np.mean(means) if means else math.nan
        assert got[name].item() == pytest.approx(wanted, nan_ok=True, abs=1e-9)
        assert got[f"{name}_n_clips"].item() == sum(map(len, by_video.values()))
        assert got[f"{name}_n_videos"].item() == len(by_video)
        if len(means) > 1:
            slack = 1e-9
            assert min(means) - slack <= got[f"{name}_low"] <= got[name] + slack
            assert got[name] - slack <= got[f"{name}_high"] <= max(means) + slack
    for problem in PROBLEMS:
        assert got[f"n_{problem}"].item() == sum(valid and found == problem for _, found, _, valid in clips)


def test_a_metric_that_no_clip_has_gives_no_row():
    found = metric([({"wer": 0.25}, None, 0, True), ({}, "silent", 1, True)]).results()
    assert list(found) == ["wer"]
    assert found["wer"].value == 0.25
    assert found["wer"].details["n_clips"], found["wer"].details["n_silent"] == (1, 1)


@pytest.mark.parametrize(
    ("scores", "index", "said"),
    [
        ([ClipScores({"bleu": 1.0})], [0], "score bleu"),
        ([ClipScores(problem="tired")], [0], "problem tired"),
        ([ClipScores()], [3], "video index 3"),
        ([ClipScores()], [0, 1], "1 clips came with 2"),
    ],
)
def test_what_it_was_not_told_of_is_refused(scores, index, said):
    with pytest.raises(InputError, match=said):
        ClipMeans(NAMES, 3, PROBLEMS).update(scores, index)


def _share(rank):
    """Rank 0 has four of the clips, of which one only evens out the ranks; rank 1 none."""
    clips = [
        ({"wer": 0.1, "cer": 0.3}, None, 0, True),
        ({"wer": 0.2}, None, 1, True),
        ({}, "no_face", 2, True),
        ({"wer": 7.0}, "silent", 2, False),
    ]
    return {name: value.item() for name, value in metric(clips if rank == 0 else []).compute().items()}


def test_two_ranks_of_which_one_has_nothing_equal_one_process():
    alone = _share(0)
    for got in on_two_ranks(_share):
        assert got.keys() == alone.keys()
        for name, value in alone.items():
            assert got[name] == pytest.approx(value, rel=0, abs=0, nan_ok=True)
