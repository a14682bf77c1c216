import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from components.contracts import PreparedClips
from components.errors import InputError
from components.metrics.avsync_classifier.scorer import RelAlignSync
from components.metrics.imagebind.mel import imagebind_mel
from components.metrics.imagebind.pictures import clip_normalised
from tests.components.metrics.avsync_classifier.small_classifier import small_classifier, taught_classifier
from tests.components.metrics.imagebind.colours_and_pitches import ColoursAndPitches, clips
from tests.public_folders.avsync_classifier import write_avsync_classifier


def scorer(**settings):
    return RelAlignSync(small_classifier(), **{"frame_size": 16, "num_clips": 1, **settings})


def generated(real, made):
    """The clips ``made`` in the place of the ``real`` ones."""
    return dataclasses.replace(made, reference=real.reference)


RED = clips((["red"] * 2, ["red"] * 2))
BLUE = clips((["blue"] * 2, ["red"] * 2))


def test_real_clips_score_50_and_25():
    both = clips((["red", "blue"], ["red", "blue"]), (["green"] * 2, ["red"] * 2))
    found = scorer().score(both, [0, 1])
    assert [values.values for values in found] == [pytest.approx({"relsync": 50})] * 2
    assert scorer().higher_is_better == {"relsync": True}
    still = scorer(embeddings=ColoursAndPitches()).score(both, [1])[0]
    assert still.values == pytest.approx({"relsync": 50, "alignsync": 25})
    # the picture ceases to fit its sound: red goes with the low pitch, and both clips hear that as well
    turns = clips((["red", "blue"], ["red"] * 2))
    assert scorer(embeddings=ColoursAndPitches()).score(turns, [0])[0].values["alignsync"] < 22


def test_what_one_wins_the_other_loses():
    judge = scorer()
    one = judge.score(generated(RED, BLUE), [0])[0].values["relsync"]
    other = judge.score(generated(BLUE, RED), [0])[0].values["relsync"]
    assert abs(one - 50) > 1
    assert one + other == pytest.approx(100, abs=1e-3)


def test_a_video_in_step_wins_and_one_beside_another_sound_loses():
    judge = RelAlignSync(taught_classifier(), frame_size=16, num_clips=1)
    for right, wrong in (("red", "blue"), ("blue", "red")):
        real, beside = clips(([right] * 2, [right] * 2)), clips(([wrong] * 2, [right] * 2))
        assert judge.score(generated(real, beside), [0])[0].values["relsync"] < 5
        assert judge.score(generated(beside, real), [0])[0].values["relsync"] > 95


def test_frames_that_fit_the_sound_less_than_the_real_first_one_lower_alignsync():
    judge = scorer(embeddings=ColoursAndPitches())
    blue = dataclasses.replace(BLUE, video=BLUE.video.clone())
    blue.video[:, 0] = RED.video[:, 0]  # the first frame is given and does not count
    good, bad = judge.score(generated(RED, RED), [0])[0], judge.score(generated(RED, blue), [0])[0]
    # cosines fall from 1 to 0
    expected = bad.values["relsync"] * float(torch.tensor(-1.0).sigmoid())
    assert bad.values["alignsync"] == pytest.approx(expected, rel=1e-2)
    assert good.values["alignsync"] == pytest.approx(25, abs=0.01)


@torch.no_grad()
def test_the_classifier_sees_twelve_frames_and_hears_two_seconds():
    generator = torch.Generator().manual_seed(0)
    real, made = (clips((["red"] * 2, ["red"] * 2)) for _ in range(2))
    made = dataclasses.replace(made, video=torch.rand(1, 48, 3, 20, 32, generator=generator))
    judge = scorer(frame_size=None)

    def score(video):
        frames = F.interpolate(video[0, ::4], (224, 224), mode="bicubic", antialias=True)
        return judge.classifier(imagebind_mel(real.audio)[:, None], clip_normalised(frames).transpose(0, 1)[None])

    expected = 100 * (score(made.video) - score(real.video)).sigmoid()
    found = judge.score(generated(real, made), [0])[0].values["relsync"]
    assert found == pytest.approx(expected.item(), abs=0.05)


def test_a_long_clip_is_judged_in_several_places():
    real = clips((["red"] * 5, ["red"] * 5))
    ends_badly = clips((["red"] * 4 + ["blue"], ["red"] * 5))
    assert scorer().score(generated(real, ends_badly), [0])[0].values["relsync"] == pytest.approx(50)
    found = scorer(num_clips=3).score(generated(real, ends_badly), [0])[0].values["relsync"]
    assert abs(found - 50) > 0.3


def test_another_frame_rate_is_the_same_video():
    slow = clips((["red", "green"], ["red", "blue"]), fps=12.0)
    fast = clips((["red", "green"], ["red", "blue"]), fps=24.0)
    assert scorer().score(generated(slow, fast), [0])[0].values["relsync"] == pytest.approx(50, abs=1e-3)


def test_a_score_does_not_depend_on_the_batch_or_on_autocast():
    real = clips((["red", "blue"], ["red", "blue"]), (["green"] * 2, ["red"] * 2))
    made = clips((["blue", "red"], ["red", "blue"]), (["red"] * 2, ["red"] * 2))
    judge = scorer(embeddings=ColoursAndPitches())
    found = judge.score(generated(real, made), [1, 0])
    assert found == [judge.score(generated(real, made), [row])[0] for row in (1, 0)]
    with torch.autocast("cpu", torch.bfloat16):
        assert judge.score(generated(real, made), [1, 0]) == found
    assert not judge.train().training


def test_clips_without_a_score():
    second = clips((["red"], ["red"]))
    assert scorer().score(second, [0])[0].problem == "too_short"
    mute = dataclasses.replace(RED.reference, mute=torch.tensor([True]))
    assert scorer().score(dataclasses.replace(RED, reference=mute), [0])[0].problem == "no_real_sound"


def test_there_must_be_real_videos():
    first = dataclasses.replace(RED.reference, video=RED.reference.video[:, :1])
    with pytest.raises(InputError, match="clip 'clip0' has no real video, only a first frame"):
        scorer().score(dataclasses.replace(RED, reference=first), [0])
    prepared = dataclasses.replace(
        RED.reference, prepared=PreparedClips(48, 32_000, torch.tensor([True]), torch.tensor([True]))
    )
    with pytest.raises(InputError, match="clip 'clip0' comes as prepared latents"):
        scorer().score(dataclasses.replace(RED, reference=prepared), [0])


def test_identity_says_all_settings():
    plain = scorer()
    assert json.loads(json.dumps(plain.identity())) == plain.identity()
    for change in ({"num_clips": 2}, {"frame_size": None}, {"embeddings": ColoursAndPitches()}):
        assert scorer(**change).identity() != plain.identity()
    with pytest.raises(InputError, match="num_clips is 0"):
        scorer(num_clips=0)


def test_from_yaml(tmp_path):
    import jsonargparse

    from components.metrics.scorers import ClipScorer

    write_avsync_classifier(tmp_path / "modules")
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(ClipScorer, "scorer")
    settings = {
        "classifier": {
            "class_path": "components.metrics.avsync_classifier.model.AVSyncClassifier.from_pretrained",
            "init_args": {"source": str(tmp_path / "modules")},
        },
        "embeddings": {"class_path": "tests.components.metrics.imagebind.colours_and_pitches.ColoursAndPitches"},
    }
    given = {"class_path": "components.metrics.avsync_classifier.scorer.RelAlignSync", "init_args": settings}
    judge = parser.instantiate_classes(parser.parse_object({"scorer": given})).scorer
    assert isinstance(judge, RelAlignSync) and isinstance(judge.embeddings, ColoursAndPitches)
    assert judge.identity()["classifier"] == str(tmp_path / "modules")
