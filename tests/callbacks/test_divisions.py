import math
from dataclasses import replace

import pytest

from callbacks.clip_scores import ClipScore
from callbacks.divisions import divisions_of, with_parts
from components.contracts import MetricResult
from tests.callbacks.jumping_squares import clip_batch

SCORES = {"a/1": 10.0, "a/2": 30.0, "b/1": 40.0, "c/1": 70.0, "d/1": None}
PARTS = {
    "a/1": {"subset": "speech", "language": "en"},
    "a/2": {"subset": "speech", "language": "zh"},
    "b/1": {"subset": "speech", "language": "en"},
    "c/1": {"subset": "ambient"},
    "d/1": {"subset": "ambient"},
}


def scored(scores, metric="m"):
    return [ClipScore(clip, clip[0], "generated", metric, value) for clip, value in scores.items()]


def test_by_hand_over_recordings():
    # recordings: a 20, b 40, c 70
    found = with_parts({"m": MetricResult(130 / 3, (20.0, 70.0), 3, {"judge": "x"})}, scored(SCORES), PARTS)["m"]
    assert found.details["judge"] == "x" and found.value == 130 / 3
    groups = found.details["groups"]
    assert groups["subset"]["speech"] == {"value": 30.0, "ci95": [20.0, 40.0], "n": 2, "n_clips": 3}
    assert groups["subset"]["ambient"]["value"] == 70.0 and math.isnan(groups["subset"]["ambient"]["ci95"][0])
    assert {name: entry["value"] for name, entry in groups["language"].items()} == {"en": 25.0, "zh": 30.0}


def test_what_is_no_mean_over_clips_has_no_parts():
    results = {"m": MetricResult(50.0, (20.0, 70.0), 3), "fid": MetricResult(9.0, (8.0, 10.0), 3)}
    assert with_parts(results, scored(SCORES), PARTS) == results


def test_folders_are_kinds_of_scene_where_they_are_few():
    scores = {f"{folder}/{clip}": float(folder) for folder in range(40) for clip in range(2)}
    for count, there in ((32, True), (33, False)):
        some = {clip: value for clip, value in scores.items() if value < count}
        parts = {clip: {"folder": clip.partition("/")[0]} for clip in some}
        every = [ClipScore(clip, clip, "generated", "m", value) for clip, value in some.items()]
        result = MetricResult((count - 1) / 2, (0.0, 1.0), len(some))
        assert ("groups" in with_parts({"m": result}, every, parts)["m"].details) == there


def test_a_metric_of_one_part_alone_says_of_which():
    # words are spoken in one part of the run only; a run of speech alone says so, too
    words = {"m": MetricResult(30.0, (20.0, 40.0), 2)}
    scores = {clip: SCORES[clip] for clip in ("a/1", "a/2", "b/1")}
    for every in (scores | {"c/1": None}, scores):
        groups = with_parts(words, scored(every), PARTS)["m"].details["groups"]
        assert groups["subset"] == {"speech": {"value": 30.0, "ci95": [20.0, 40.0], "n": 2, "n_clips": 3}}
    assert with_parts(words, scored(scores), {}) == words


def test_clips_say_what_they_belong_to():
    batch = replace(
        clip_batch(["bell/c_0", "frog/b_0", "frog/b_1"]), subsets=["speech", "", ""], languages=["", "zh", ""]
    )
    assert dict(divisions_of(batch, [0, 1, 2])) == {
        "bell/c_0": {"subset": "speech", "folder": "bell"},
        "frog/b_0": {"language": "zh", "folder": "frog"},
        "frog/b_1": {"folder": "frog"},
    }
    assert not list(divisions_of(replace(clip_batch(["bell/c_0"]), ids=["c_0"]), [0]))
    with pytest.raises(IndexError):
        list(divisions_of(batch, [3]))
