import math

import pytest
import torch

from components.contracts import SyncScorer
from components.errors import InputError
from components.metrics.syncnet.model import SyncNet
from components.metrics.syncnet.scorer import SyncNetScorer
from components.metrics.syncnet.tracking import FaceDetector, FaceTracker, WholeFrame


def scorer(**kwargs):
    torch.manual_seed(0)
    return SyncNetScorer(SyncNet((4,) * 6, (4,) * 6, 8, 8, 64).eval(), **kwargs)


def clips(num=2, frames=55, fps=25.0, side=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    video = torch.rand(num, frames, 3, side, side, generator=generator)
    return video, fps, torch.rand(num, round(frames / fps * 16_000), generator=generator) - 0.5, 16_000


def test_scores_are_per_clip_and_independent_of_batch_and_chunks():
    judge = scorer()
    assert isinstance(judge, SyncScorer)
    video, fps, audio, rate = clips()
    both = judge(video, fps, audio, rate)
    assert {name: value.shape for name, value in both.items()} == dict.fromkeys(["sync_c", "sync_d", "offset_s"], (2,))
    alone = scorer(windows_at_once=3)(video[1:], fps, audio[1:], rate)
    for name in both:
        assert alone[name].item() == pytest.approx(both[name][1].item(), rel=1e-4, abs=1e-6)


def test_clips_below_the_shortest_duration_have_no_score():
    judge = scorer()
    assert not judge(*clips(frames=50))["sync_c"].isnan().any()
    assert all(value.isnan().all() for value in judge(*clips(frames=49)).values())
    lips = judge.lips(*clips(frames=49)[:2])[0]
    assert [track.embeddings.shape for track in lips] == [(0, 8)]  # the network is not asked
    sound = judge.sounds(*clips(frames=60)[2:])[0]
    assert judge.score(lips, sound).problem == "too_short"
    # the sound counts as well
    assert judge.score(judge.lips(*clips(frames=60)[:2])[0], sound[:44]).problem == "too_short"
    assert judge.score([], sound).problem == "no_face"
    tiny = clips(frames=2)
    assert judge.sounds(*tiny[2:]).shape == (2, 0, 8)
    assert judge(*tiny)["sync_d"].isnan().all()


@pytest.mark.parametrize("fps", [24.0, 30.0])
def test_other_frame_rates_are_brought_to_25(fps):
    judge = scorer()
    video, _, audio, rate = clips(num=1, frames=100)
    frames = ((torch.arange(round(4 * fps)) + 0.5) / fps * 25).floor().long()
    lips = judge.lips(video[:, frames], fps)[0]
    assert len(lips[0].embeddings) == 96
    assert judge.score(lips, judge.sounds(audio, rate)[0]).problem is None


def test_autocast_does_not_reach_the_judge():
    judge, given = scorer(), clips()
    with torch.autocast("cpu", torch.bfloat16):
        found = judge(*given)
    assert torch.equal(found["sync_d"], judge(*given)["sync_d"])


class Boxes(FaceDetector):
    """Knows the faces."""

    def __init__(self, boxes):
        super().__init__()
        self.boxes = boxes

    def detect(self, frames):
        return [torch.tensor(found).view(-1, 4) for found in self.boxes[: len(frames)]]


LEFT, RIGHT = [4.0, 10.0, 24.0, 30.0], [40.0, 8.0, 64.0, 32.0]
TRACKER = FaceTracker(min_face_size=8)


def test_faces_are_cropped_and_averaged():
    video, fps, audio, rate = clips(num=1, frames=70, side=72)
    alone = {}
    for name, box in (("left", LEFT), ("right", RIGHT)):
        judge = scorer(faces=Boxes([[box]] * 70), tracker=TRACKER)
        alone[name] = judge(video, fps, audio, rate)["sync_c"].item()
        assert judge.lips(video, fps)[0][0].embeddings.shape == (66, 8)
    both = scorer(faces=Boxes([[LEFT, RIGHT]] * 70), tracker=TRACKER)(video, fps, audio, rate)
    assert both["sync_c"].item() == pytest.approx((alone["left"] + alone["right"]) / 2, rel=1e-5)
    assert alone["left"] != pytest.approx(alone["right"])


def test_a_face_that_appears_late_is_compared_with_what_is_heard_then():
    video, fps, audio, rate = clips(num=1, frames=90, side=72)
    late = scorer(faces=Boxes([[]] * 20 + [[LEFT]] * 70), tracker=TRACKER)
    cut = scorer(faces=Boxes([[LEFT]] * 70), tracker=TRACKER)
    found = late(video, fps, audio, rate)
    expected = cut(video[:, 20:], fps, audio[:, 20 * 640 :], rate)
    # but for the pre-emphasis of one sample
    assert found["sync_d"].item() == pytest.approx(expected["sync_d"].item(), rel=1e-3)
    assert found["offset_s"] == expected["offset_s"]


def test_short_and_absent_faces():
    video, fps, audio, rate = clips(num=1, frames=70, side=72)
    sound = scorer().sounds(audio, rate)[0]
    for boxes, problem in (([[LEFT]] * 40 + [[]] * 30, "too_short"), ([[]] * 70, "no_face")):
        judge = scorer(faces=Boxes(boxes), tracker=TRACKER)
        score = judge.score(judge.lips(video, fps)[0], sound)
        assert score.problem == problem and math.isnan(score.sync_c)


def test_boxes_of_another_format_are_refused():
    video, fps, _, _ = clips(num=1, frames=70, side=72)
    for boxes, message in (
        ([[LEFT]] * 69, "Boxes.detect returned boxes of 69 frames for 70"),
        ([[[40.0, 8.0, 24.0, 24.0]]] * 70, r"\[\[40.0, 8.0, 24.0, 24.0\]\]; rows of left < right"),
    ):
        with pytest.raises(InputError, match=message):
            scorer(faces=Boxes(boxes)).lips(video, fps)


def test_the_whole_frame_is_the_standard_face():
    assert isinstance(scorer().faces, WholeFrame)


def test_bad_arguments():
    for argument, message in (
        ({"max_shift": 0}, "max_shift is 0"),
        ({"windows_at_once": 0}, "windows_at_once is 0"),
        ({"min_duration_s": 0.2}, "min_duration_s is 0.2; it must exceed 0.2 s"),
    ):
        with pytest.raises(InputError, match=message):
            scorer(**argument)
