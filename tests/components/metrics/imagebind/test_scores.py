import dataclasses
import json

import pytest
import torch

from components.errors import InputError
from components.metrics.imagebind.javis import JavisWindows
from components.metrics.imagebind.scores import METRICS, ImageBindScores
from tests.components.metrics.imagebind.colours_and_pitches import ColoursAndPitches, clips, with_sound

SMALL = {"embeddings": ColoursAndPitches(), "frame_size": 16, "metrics": METRICS}


def scored(generation, row=0, **settings):
    return ImageBindScores(**{**SMALL, **settings}).score(generation, [row])[0].values


def test_what_belongs_together_scores_1_and_what_does_not_0():
    best = scored(clips((["red"] * 3, ["red"] * 3)))
    assert best == pytest.approx({"ib": 1, "ib_a": 1, "ia": 100, "it": 100, "avh_score": 1, "javis_score": 1}, abs=1e-3)
    wrong = scored(clips((["red"] * 3, ["blue"] * 3), captions=["green"]))
    assert wrong == pytest.approx(dict.fromkeys(METRICS, 0), abs=1e-2)
    # the caption is right, the sound is not
    assert scored(clips((["red"] * 3, ["blue"] * 3)))["it"] == pytest.approx(100, abs=1e-3)


def test_javis_score_asks_for_the_moment_and_ib_does_not():
    together = clips((["red"] * 3 + ["blue"] * 3, ["red"] * 3 + ["blue"] * 3))
    exchanged = with_sound(together, together.audio.flip(1))
    right, late = scored(together), scored(exchanged)
    assert late["avh_score"] == pytest.approx(right["avh_score"], abs=1e-3)
    assert late["ib"] == pytest.approx(right["ib"], abs=0.2)
    assert right["javis_score"] > 0.6 and late["javis_score"] < 0.3
    # the clips of IA are cut from picture and sound alike
    assert right["ia"] > late["ia"] + 30


def test_a_score_does_not_depend_on_the_batch():
    both = clips((["red"] * 2 + ["green"], ["red", "blue", "blue"]), (["green"] * 3, ["green", "red", "green"]))
    scorer = ImageBindScores(**SMALL)
    found = scorer.score(both, [1, 0])
    alone = [scorer.score(both, [row])[0] for row in (1, 0)]
    assert found == alone
    assert found == ImageBindScores(**{**SMALL, "pictures_at_once": 5}).score(both, [1, 0])


def test_the_first_frame_is_given_and_does_not_count_in_ia_and_it():
    clip = clips((["red"] * 2, ["red"] * 2))
    clip.video[:, 0] = clips((["blue"] * 2, ["red"] * 2)).video[:, 0]
    assert scored(clip, metrics=["ia", "it"]) == pytest.approx({"ia": 100, "it": 100}, abs=1e-3)
    clip.video[:, 4] = clip.video[:, 0]  # the second of 12 frames at 6 fps
    assert scored(clip, metrics=["ia", "it"]) == pytest.approx({"ia": 100 * 10 / 11, "it": 100 * 10 / 11}, abs=1e-2)


def test_only_what_is_chosen_is_computed():
    assert list(scored(clips((["red"] * 2, ["red"] * 2)), metrics=["it", "ib"])) == ["it", "ib"]
    assert ImageBindScores(ColoursAndPitches(), ["it", "ib"]).higher_is_better == {"it": True, "ib": True}
    assert set(ImageBindScores.higher_is_better) == set(METRICS)
    # captions are asked for where something is compared with them
    silent = clips((["red"] * 2, ["red"] * 2), captions=[" "])
    assert scored(silent, metrics=["ib", "ia", "avh_score"])["ib"] == pytest.approx(1, abs=1e-3)
    with pytest.raises(InputError, match="clip 'clip0' has no caption, which it compares"):
        scored(silent, metrics=["it"])
    with pytest.raises(InputError, match="clip 'clip0' has no caption, which ib_a compares"):
        scored(silent, metrics=["ib_a"])


def test_the_sound_s_prompt_is_the_scene_where_there_is_one():
    clip = clips((["red"] * 2, ["blue"] * 2), scenes=["a blue sound"])
    assert scored(clip, metrics=["ib_a"])["ib_a"] == pytest.approx(1, abs=1e-3)
    without = dataclasses.replace(clip, reference=dataclasses.replace(clip.reference, scenes=[""]))
    assert scored(without, metrics=["ib_a"])["ib_a"] == pytest.approx(0, abs=1e-2)


def test_the_class_folder_may_be_the_text():
    clip = clips((["red"] * 2, ["red"] * 2), captions=["blue"], video_ids=["red_ball/one"])
    assert scored(clip, metrics=["it"])["it"] == pytest.approx(0, abs=1e-3)
    assert scored(clip, metrics=["it"], it_text="folder")["it"] == pytest.approx(100, abs=1e-3)
    with pytest.raises(InputError, match="'clip0' lies in no class folder"):
        scored(clips((["red"] * 2, ["red"] * 2)), metrics=["it"], it_text="folder")


def test_av_benchmark_looks_at_four_seconds_or_more():
    long = clips((["red"] * 4, ["red"] * 4))
    assert scored(long, video_sampling="av_benchmark", metrics=["ib"])["ib"] == pytest.approx(1, abs=1e-3)
    short = clips((["red"] * 3, ["red"] * 3))
    found = ImageBindScores(**{**SMALL, "video_sampling": "av_benchmark", "metrics": ["ib"]}).score(short, [0])[0]
    assert (found.values, found.problem) == ({}, "too_short")


def test_short_clips():
    second = clips((["red"], ["red"]))
    found = ImageBindScores(**SMALL).score(second, [0])[0]
    assert found.problem is None and set(found.values) == {"ib", "ib_a", "avh_score", "javis_score"}
    assert ImageBindScores(**SMALL).score(with_sound(second, second.audio[:, :300]), [0])[0].problem == "too_short"


def test_any_sample_rate():
    at_48 = clips((["green"] * 2, ["green"] * 2), rate=48_000)
    assert scored(at_48) == pytest.approx(scored(clips((["green"] * 2, ["green"] * 2))), abs=1e-2)


def test_autocast_and_training_mode_do_not_reach_the_model():
    clip = clips((["red", "green"], ["red", "blue"]))
    scorer = ImageBindScores(**SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        found = scorer.score(clip, [0])
    assert found == scorer.score(clip, [0])
    assert not scorer.train().training and not scorer.embeddings.training


def test_identity_says_all_settings():
    plain = ImageBindScores(**SMALL)
    assert plain.identity()["version"] == 2  # under 1 the loaders' clips lay elsewhere
    assert json.loads(json.dumps(plain.identity()))["embeddings"] == {"model": "colours and pitches"}
    for change in (
        {"video_sampling": "av_benchmark"},
        {"num_clips": 1},
        {"frame_size": None},
        {"it_text": "folder"},
        {"windows": JavisWindows(0.5, 0)},
        {"lowest_share": 1.0},
    ):
        assert ImageBindScores(**{**SMALL, **change}).identity() != plain.identity(), change
    assert ImageBindScores(**{**SMALL, "pictures_at_once": 2}).identity() == plain.identity()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ["iq"]}, r"metrics is \['iq'\]; give some of ib, ib_a, ia, it, avh_score, javis_score"),
        ({"metrics": []}, r"metrics is \[\]"),
        ({"num_clips": 0}, "num_clips is 0"),
        ({"pictures_at_once": 0}, "pictures_at_once is 0"),
        ({"lowest_share": 0.0}, "lowest_share is 0.0"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(InputError, match=message):
        ImageBindScores(**{**SMALL, **change})


class Flat(ColoursAndPitches):
    """Forgets that there are several pictures."""

    def pictures(self, frames):
        return super().pictures(frames).mean(dim=0)


def test_a_model_of_one_s_own_that_returns_something_else_is_named():
    with pytest.raises(InputError, match=r"Flat.pictures returned \[3\] for 11 of them"):
        scored(clips((["red"] * 2, ["red"] * 2)), embeddings=Flat(), metrics=["it"])


def test_from_yaml():
    import jsonargparse

    from components.metrics.scorers import ClipScorer

    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(ClipScorer, "scorer")
    models = "tests.components.metrics.imagebind.colours_and_pitches.ColoursAndPitches"
    settings = {
        "embeddings": {"class_path": models},
        "metrics": ["ia", "javis_score"],
        "frame_size": [128, 256],
        "windows": {"window_s": 1.0, "overlap_s": 0.5},
    }
    given = {"class_path": "components.metrics.imagebind.scores.ImageBindScores", "init_args": settings}
    scorer = parser.instantiate_classes(parser.parse_object({"scorer": given})).scorer
    assert scorer.metrics == ("ia", "javis_score") and tuple(scorer.frame_size) == (128, 256)
    assert scorer.windows == JavisWindows(1.0, 0.5) and isinstance(scorer.embeddings, ColoursAndPitches)
