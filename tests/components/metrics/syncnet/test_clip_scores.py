"""Sync-C and Sync-D by the common contract, and of whole scenes: no face, no score."""

from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch
from jsonargparse import ArgumentParser
from torch.nn.functional import interpolate

from components.metrics.faces.mtcnn import MTCNN
from components.metrics.scorers import ClipScorer, real_clips
from components.metrics.syncnet.clip_scores import SyncNetScores
from components.metrics.syncnet.model import SyncNet
from components.metrics.syncnet.scene_cuts import SceneCuts
from components.metrics.syncnet.scorer import SyncNetScorer
from components.metrics.syncnet.tracking import FaceDetector, FaceTracker
from datamodules.procedural_speech import ProceduralSpeech

QUICKSTART = "configs/weights/quickstart_syncnet"
NUM_CLIPS, SIDE = 16, 120


def scores(**settings):
    return SyncNetScores(SyncNetScorer(SyncNet.from_pretrained(QUICKSTART), **settings))


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Real pairs of drawn talking faces, pictures of 32x32 at 24 fps."""
    root = str(tmp_path_factory.mktemp("clips"))
    clips = ProceduralSpeech(
        root,
        num_train=1,
        num_test=NUM_CLIPS,
        strike_share=0,
        render_seed=78,
        variety=0.3,
        reference_s=None,
        val_batch_size=4,
    )
    clips.prepare_data()
    clips.setup("validate")
    return real_clips(next(iter(clips.val_dataloader())))


@pytest.fixture(scope="module")
def scene(faces):
    """The same faces, `SIDE` pixels a side, in the corner of a wall that flickers a little."""
    num_frames = faces.video.shape[1]
    draw = torch.Generator().manual_seed(0)
    wall = 0.5 + 0.02 * torch.randn(len(faces.video), num_frames, 3, 180, 260, generator=draw)
    large = interpolate(faces.video.flatten(0, 1), (SIDE, SIDE), mode="bilinear")
    wall[..., 40 : 40 + SIDE, 20 : 20 + SIDE] = large.unflatten(0, (-1, num_frames))
    return replace(faces, video=wall.clamp(0, 1))


class Known(FaceDetector):
    """Says where the face is."""

    def __init__(self, *box):
        super().__init__()
        self.box = box

    def detect(self, frames):
        return [torch.tensor([self.box])] * len(frames)


def values(found, metric="sync_c"):
    assert [one.problem for one in found] == [None] * len(found)
    return torch.tensor([one.values[metric] for one in found])


def test_talking_faces_have_the_scores_of_their_own_sound(faces):
    judge = scores()
    own = judge.score(faces, range(4))
    assert isinstance(judge, ClipScorer) and set(own[0].values) == set(judge.higher_is_better)
    dubbed = judge.score(replace(faces, audio=faces.audio.roll(1, 0)), range(4))
    assert (values(own) > 5).all() and values(own).mean() > values(dubbed).mean() + 1
    assert values(own, "sync_d").mean() < values(dubbed, "sync_d").mean() - 1
    # in any order, alone or together
    again = [judge.score(faces, [row])[0] for row in (3, 1)]
    torch.testing.assert_close(values(again), values(own)[[3, 1]], atol=1e-3, rtol=0)


def test_a_face_in_a_scene_needs_to_be_found(faces, scene):
    """With its box it has nearly the score that it has alone; the scene as a whole is no face."""
    # what is cut out reaches 0.4 of the box further to the sides and 0.8 half sides further down
    half = SIDE / 2 / 1.4
    middle, top = 20 + SIDE / 2, 40.0
    box = (middle - half, top, middle + half, top + 2 * half)
    found = scores(faces=Known(*box), tracker=FaceTracker(min_face_size=50)).score(scene, range(4))
    alone, whole = values(scores().score(faces, range(4))), values(scores().score(scene, range(4)))
    assert (values(found) - alone).abs().max() < 1.5
    assert values(found).mean() > whole.mean() + 1


def still(picture, faces, frames=55):
    """A clip in which ``picture`` ``[3, H, W]`` stays, with the sound of a talking face."""
    video = picture.expand(1, frames, -1, -1, -1)
    return replace(faces, video=video, audio=faces.audio[:1], fps=25.0)


@pytest.fixture(scope="module")
def portrait():
    """A face of 111 pixels before a plain wall, ``[3, 190, 200]``."""
    return torch.from_numpy(np.array(skimage.data.astronaut()))[20:210, 130:330].permute(2, 0, 1).float() / 255


def test_a_still_picture_of_noise_is_no_face(faces, portrait):
    noise = still(torch.rand(3, 190, 200, generator=torch.Generator().manual_seed(0)), faces)
    assert scores().score(noise, [0])[0].values["sync_c"] > 0  # the whole picture taken for a face
    judge = scores(faces=MTCNN())
    (found,) = judge.score(noise, [0])
    assert (found.problem, found.values) == ("no_face", {})
    # and a real face is one, however little its lips move
    (found,) = judge.score(still(portrait, faces), [0])
    assert found.problem is None and 0 < found.values["sync_c"] < 3


def test_small_and_short_faces(faces, portrait):
    small = interpolate(portrait[None], scale_factor=0.6, mode="area")[0]
    judge = scores(faces=MTCNN(), tracker=FaceTracker(min_face_size=50))
    assert judge.score(still(small, faces), [0])[0].problem is None
    assert scores(faces=MTCNN()).score(still(small, faces), [0])[0].problem == "no_face"  # below 100 pixels
    # 26 frames are a track, but below 2 s there is no score; 25 are none
    assert judge.score(still(small, faces, 26), [0])[0].problem == "too_short"
    assert judge.score(still(small, faces, 25), [0])[0].problem == "no_face"


def test_a_face_is_not_followed_over_a_cut():
    """The same place in two shots: two short tracks instead of one long one."""
    clip = torch.zeros(1, 60, 3, 60, 60)
    clip[:, 30:] = torch.tensor([0.9, 0.6, 0.1])[:, None, None]
    judge = {"faces": Known(10.0, 10.0, 40.0, 40.0), "tracker": FaceTracker(min_face_size=8), "min_duration_s": 1.0}
    one = scores(**judge).scorer.lips(clip, 25.0)[0]
    two = scores(**judge, scenes=SceneCuts()).scorer.lips(clip, 25.0)[0]
    assert [(track.first_frame, len(track.embeddings)) for track in one] == [(0, 56)]
    assert [(track.first_frame, len(track.embeddings)) for track in two] == [(0, 26), (30, 26)]
    # whole pictures are cut likewise
    whole = scores(min_duration_s=1.0, scenes=SceneCuts()).scorer.lips(clip, 25.0)[0]
    assert [track.first_frame for track in whole] == [0, 30]


def test_what_a_score_depends_on_is_told():
    plain = scores().identity()
    assert len(plain["syncnet_sha256"]) == 64 and plain["face_detector"].endswith("WholeFrame")
    others = [
        scores(faces=MTCNN()),
        scores(faces=MTCNN(min_face_size=50)),
        scores(faces=MTCNN(), tracker=FaceTracker(min_track=30)),
        scores(faces=MTCNN(), scenes=SceneCuts()),
        scores(faces=Known(0.0, 0.0, 9.0, 9.0)),
        scores(faces=Known(0.0, 0.0, 9.0, 8.0)),
        scores(scenes=SceneCuts()),
        scores(max_shift=10),
    ]
    told = [plain, *(other.identity() for other in others)]
    assert all(told[one] != told[other] for one in range(len(told)) for other in range(one))
    # where no face is looked for, no setting of the tracker matters
    assert scores(tracker=FaceTracker(min_track=30)).identity() == plain


def test_every_setting_can_be_given_in_a_configuration():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ClipScorer, "scorer")
    net = {
        "class_path": "components.metrics.syncnet.model.SyncNet.from_pretrained",
        "init_args": {"source": QUICKSTART},
    }
    settings = {
        "net": net,
        "faces": {"class_path": "components.metrics.faces.mtcnn.MTCNN", "init_args": {"min_face_size": 60}},
        "tracker": {"min_track": 30},
        "scenes": {"threshold": 27.0},
    }
    inner = {"class_path": "components.metrics.syncnet.scorer.SyncNetScorer", "init_args": settings}
    name = "components.metrics.syncnet.clip_scores.SyncNetScores"
    config = parser.parse_object({"scorer": {"class_path": name, "init_args": {"scorer": inner}}})
    scorer = parser.instantiate_classes(config).scorer.scorer
    assert (scorer.faces.min_face_size, scorer.tracker.min_track) == (60, 30)
    assert scorer.scenes == SceneCuts(threshold=27.0)
