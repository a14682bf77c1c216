import math
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback

from callbacks.sync_confidence import SyncConfidenceCallback
from components.contracts import ClipBatch, Generation
from components.metrics.syncnet.model import SyncNet
from components.metrics.syncnet.scorer import SyncNetScorer
from components.metrics.syncnet.tracking import FaceDetector, FaceTracker
from components.weights.identity import identity_of
from tests.callbacks.test_cyclesync import evaluated

IDS = ["frog/b_0", "frog/b_1", "bell/c_0", "hammering/a_0"]
QUICKSTART = "configs/weights/quickstart_syncnet"
FRAMES, FPS, RATE = 49, 24.0, 16_000


def scorer(**kwargs):
    torch.manual_seed(0)
    return SyncNetScorer(SyncNet((4,) * 6, (4,) * 6, 8, 8, 64).eval(), **kwargs)


def clip_batch(ids, frames=FRAMES, valid=None):
    def noise(name, *shape):
        return torch.rand(*shape, generator=torch.Generator().manual_seed(IDS.index(name)))

    return ClipBatch(
        ids=ids,
        video=torch.stack([noise(name, frames, 3, 16, 16) * 255 for name in ids]).to(torch.uint8),
        fps=FPS,
        audio=torch.stack([noise(name, round(frames / FPS * RATE)) - 0.5 for name in ids]),
        sample_rate=RATE,
        captions=ids,
        video_ids=[name.partition("_")[0] for name in ids],
        valid=None if valid is None else torch.tensor(valid),
    )


def generation(batch):
    """A dimmed video with louder sound; the variant has the dimmed video backwards and a sound of its own."""
    video = batch.video / 255 * 0.7
    variant = Generation(video.flip(1), FPS, batch.audio.flip(1), RATE, batch, valid=batch.valid)
    return Generation(video, FPS, batch.audio * 0.9, RATE, batch, {"no_synccfg": variant}, batch.valid)


def judged(tmp_path, batches, judge=None):
    return evaluated(tmp_path, SyncConfidenceCallback(judge or scorer()), batches)


def expected(video, audio):
    """Sync-C and Sync-D of each clip, and their means with clips of one recording averaged first."""
    got = scorer()(video, FPS, audio, RATE)
    by_recording = {}
    for name, c, d in zip(IDS, got["sync_c"].tolist(), got["sync_d"].tolist(), strict=True):
        by_recording.setdefault(name.partition("_")[0], []).append((c, d))
    means = [[fmean(column) for column in zip(*rows, strict=True)] for rows in by_recording.values()]
    return got, [fmean(column) for column in zip(*means, strict=True)]


def test_every_kind_of_clip_gets_the_score_of_its_own_picture_and_sound(tmp_path):
    batch = clip_batch(IDS)
    made = generation(batch)
    found = judged(tmp_path, [made])
    variant = made.variants["no_synccfg"]
    kinds = {
        "": (made.video, made.audio),
        "_no_synccfg": (variant.video, variant.audio),
        "_real": (batch.video / 255, batch.audio),
    }
    for suffix, pair in kinds.items():
        per_clip, means = expected(*pair)
        values = [found.results[f"{name}{suffix}"].value for name in ("sync_c", "sync_d")]
        assert values == pytest.approx(means, rel=1e-4)
        for index, name in enumerate(IDS):
            assert found.clip_rows[name]["scores"][f"sync_c{suffix}"] == pytest.approx(
                per_clip["sync_c"][index].item(), rel=1e-4
            )
    result = found.results["sync_c"]
    assert (result.n, result.details["n_clips"], result.details["n_too_short"]) == (3, 4, 0)
    low, high = result.ci95
    assert low < result.value < high
    assert set(found.results) == {f"sync_{k}{suffix}" for k in "cd" for suffix in [*kinds, "_chance"]}


def test_chance_dubs_each_generated_video_with_the_next_recording(tmp_path):
    made = generation(clip_batch(IDS))
    order = sorted(IDS)  # bell/c_0, frog/b_0, frog/b_1, hammering/a_0
    partners = dict(zip(order, [order[1], order[3], order[3], order[0]], strict=True))
    others = made.audio[[IDS.index(partners[name]) for name in IDS]]
    _, (sync_c, sync_d) = expected(made.video, others)
    found = judged(tmp_path, [made]).results
    assert found["sync_c_chance"].value == pytest.approx(sync_c, rel=1e-4)
    assert found["sync_d_chance"].value == pytest.approx(sync_d, rel=1e-4)


def test_order_batches_and_repeats_do_not_matter(tmp_path):
    whole = judged(tmp_path, [generation(clip_batch(IDS))])
    batches = [
        clip_batch([IDS[2], IDS[0]]),
        clip_batch([IDS[3], IDS[1]]),
        clip_batch([IDS[0]], valid=[False]),
        clip_batch([IDS[3]]),
    ]
    parts = judged(tmp_path, [generation(batch) for batch in batches])
    assert list(parts.results) == list(whole.results)
    for name, result in whole.results.items():
        assert parts.results[name].value == pytest.approx(result.value, rel=1e-4)
        assert parts.results[name].details["n_clips"] == 4


def test_another_name(tmp_path):
    made = [generation(clip_batch(IDS))]
    plain, named = judged(tmp_path, made), evaluated(tmp_path, SyncConfidenceCallback(scorer(), name="lips"), made)
    assert set(named.results) == {name.replace("sync_", "lips_", 1) for name in plain.results}
    assert named.results["lips_d_no_synccfg"].value == plain.results["sync_d_no_synccfg"].value
    row, other = (found.clip_rows[IDS[0]] for found in (named, plain))
    assert {name for name, higher in row["higher_is_better"].items() if not higher} == {
        name for name in row["scores"] if name.startswith("lips_d")
    }
    assert row["scores"]["lips_c_chance"] == other["scores"]["sync_c_chance"]
    assert row["kinds"]["lips_c_chance"] == "chance"


def test_short_clips_are_reported_not_scored(tmp_path):
    short = generation(clip_batch(IDS[:2], frames=40))
    found = judged(tmp_path, [short, generation(clip_batch(IDS[2:]))])
    for name in ("sync_c", "sync_d_real", "sync_c_no_synccfg"):
        details = found.results[name].details
        assert (details["n_clips"], details["n_too_short"], details["n_no_face"]) == (2, 2, 0)
    row = found.clip_rows[IDS[0]]
    assert row["scores"]["sync_c"] is None and row["sync_problem"]["generated"] == "too_short"
    assert found.clip_rows[IDS[2]]["sync_problem"]["generated"] is None

    with pytest.warns(UserWarning, match=r"no clip has sync_c.*\(real\): 0 have no face and 2 are below.* 2 s"):
        assert judged(tmp_path, [short]).results == {}


class DarkFaces(FaceDetector):
    """Finds a face filling dark pictures, none in bright ones."""

    def detect(self, frames):
        height, width = frames.shape[-2:]
        box = torch.tensor([[0.0, 0.0, width, height]])
        return [box if frame.mean() < 0.4 else box[:0] for frame in frames]


def test_hidden_faces_are_counted(tmp_path):
    judge = scorer(faces=DarkFaces(), tracker=FaceTracker(min_face_size=8))
    found = judged(tmp_path, [generation(clip_batch(IDS))], judge)
    assert found.results["sync_c"].details["n_no_face"] == 0  # generated pictures are dimmed
    assert "sync_c_real" not in found.results
    assert found.clip_rows[IDS[0]]["sync_problem"]["real"] == "no_face"
    details = found.results["sync_c"].details
    assert details["face_detector"].endswith("DarkFaces") and details["tracker"]["min_face_size"] == 8
    other = judged(tmp_path, [generation(clip_batch(IDS))], scorer(faces=DarkFaces(), tracker=FaceTracker(30, 8)))
    assert other.results["sync_c"].details["judge"] != details["judge"]


def test_a_clip_without_face_is_in_no_mean(tmp_path):
    """Two of four generated clips are bright: the means are those of the other two, as if there were no more."""
    judge = {"faces": DarkFaces(), "tracker": FaceTracker(min_face_size=8)}
    made = generation(clip_batch(IDS))
    brightened = made.video.clone()
    brightened[[0, 3]] = 0.9
    found = judged(tmp_path, [replace(made, video=brightened)], scorer(**judge)).results
    two = judged(tmp_path, [generation(clip_batch(IDS[1:3]))], scorer(**judge)).results
    assert (found["sync_c"].details["n_no_face"], found["sync_c"].details["n_clips"]) == (2, 2)
    for name in ("sync_c", "sync_d"):
        assert found[name].value == pytest.approx(two[name].value, rel=1e-4)


def test_real_clips_are_embedded_once_per_run(tmp_path):
    judge = scorer()
    embedded = []
    embed = judge._embed
    judge._embed = lambda faces: embedded.append(faces.mean().item()) or embed(faces)
    callback = SyncConfidenceCallback(judge)
    made = generation(clip_batch(IDS))
    first = evaluated(tmp_path, callback, [made]).results
    assert len(embedded) == 4 * 3
    assert evaluated(tmp_path, callback, [made]).results == first
    assert len(embedded) == 4 * 3 + 4 * 2


def test_entries_say_which_syncnet_judged(tmp_path):
    judge = scorer()
    details = judged(tmp_path, [generation(clip_batch(IDS))], judge).results["sync_d"].details
    assert details["syncnet_sha256"] == identity_of(judge.net).sha256
    assert (details["max_shift_frames"], details["min_duration_s"]) == (15, 2.0)
    assert not judge.training and not any(weight.requires_grad for weight in judge.parameters())


def test_a_clip_without_its_video_has_no_ceiling_and_one_recording_no_floor(tmp_path):
    made = generation(clip_batch(IDS[:2]))
    first_frames = replace(made, reference=replace(made.reference, video=made.reference.video[:, :1]))
    results = judged(tmp_path, [first_frames]).results
    assert set(results) == {"sync_c", "sync_d", "sync_c_no_synccfg", "sync_d_no_synccfg"}
    assert all(math.isnan(end) for end in results["sync_c"].ci95)


def test_outputs_without_clips_leave_no_results(tmp_path):
    assert judged(tmp_path, [None]).results == {}


def test_every_setting_can_be_given_in_a_configuration():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Callback, "callback")
    net = {
        "class_path": "components.metrics.syncnet.model.SyncNet.from_pretrained",
        "init_args": {"source": QUICKSTART},
    }
    settings = {
        "net": net,
        "faces": {"class_path": "components.metrics.syncnet.tracking.WholeFrame"},
        "tracker": {"min_track": 50, "crop_scale": 0.3},
        "max_shift": 8,
        "min_duration_s": 1.5,
    }
    scorer = {"class_path": "components.metrics.syncnet.scorer.SyncNetScorer", "init_args": settings}
    name = "callbacks.sync_confidence.SyncConfidenceCallback"
    config = parser.parse_object({"callback": {"class_path": name, "init_args": {"scorer": scorer}}})
    judge = parser.instantiate_classes(config).callback.scorer
    assert (judge.max_shift, judge.min_frames, judge.tracker.min_track) == (8, 38, 50)
    assert judge.net.image_size == 64
