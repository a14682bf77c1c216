import json
import time
from dataclasses import replace

import lightning as L
import pytest
import torch

from callbacks.cyclesync import CycleSyncCallback, JudgedClip, mismatched
from callbacks.judge import recording_indices
from callbacks.results import ResultsWriter
from components.contracts import V2AModel
from components.errors import InputError
from components.metrics.cyclesync.matching import onset_iou
from components.v2a.disturbances import DISTURBANCES
from components.v2a.motion_v2a import MotionV2A
from tests.callbacks.jumping_squares import JUMPS, JumpingSquares, SquareClips, clip_batch, generation

IDS = sorted(JUMPS)


def evaluated(tmp_path, callback, batches):
    """The callback after a validation that sees ``batches`` of generations."""

    class Given(JumpingSquares):
        def validation_step(self, batch, batch_idx):
            return batches[batch_idx]

    class Indices(SquareClips):
        def val_dataloader(self):
            return torch.utils.data.DataLoader(range(len(batches)), batch_size=None)

    trainer = quiet_trainer(tmp_path, callbacks=[callback])
    trainer.validate(Given(), datamodule=Indices(), verbose=False)
    return callback


def quiet_trainer(tmp_path, **kwargs):
    return L.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **kwargs,
    )


def test_every_kind_of_video_gets_its_known_score(tmp_path):
    judged = evaluated(tmp_path, CycleSyncCallback(MotionV2A()), [generation(clip_batch(IDS))])
    results = judged.results
    assert results["cyclesync"].value == pytest.approx(100)
    assert results["cyclesync_real"].value == pytest.approx(100)
    assert results["cyclesync_off_sync"].value == pytest.approx(0)
    # one of n onsets is met: 1/n, averaged over the two clips of each recording and then over recordings
    by_hand = [100 / 2 * (1 / 3 + 1 / 3), 100 / 2 * (1 / 4 + 1 / 3), 100 / 2 * (1 / 2 + 1 / 4)]
    assert results["cyclesync_w0"].value == pytest.approx(sum(by_hand) / 3)
    # all three draws fall on one recording in 1 of 27 cases each: beyond 2.5 % on either side
    assert results["cyclesync_w0"].ci95 == pytest.approx((min(by_hand), max(by_hand)))
    assert {result.n for result in results.values()} == {3}
    assert results["cyclesync"].details["tolerance_s"] == 0.05
    assert results["cyclesync"].details["n_clips"] == 6
    assert results["cyclesync"].details["v2a"] == "components.v2a.motion_v2a.MotionV2A"


def test_chance_pairs_each_clip_with_the_next_recording(tmp_path):
    judged = evaluated(tmp_path, CycleSyncCallback(MotionV2A()), [generation(clip_batch(IDS))])
    rows = judged.clip_rows
    partners = [IDS[2], IDS[2], IDS[4], IDS[4], IDS[0], IDS[0]]  # two clips per recording, in the order of the ids
    scores = [
        onset_iou(rows[partner]["onsets"]["driving"], rows[clip]["onsets"]["generated"], [0.05])[0]
        for clip, partner in zip(IDS, partners, strict=True)
    ]
    assert judged.results["cyclesync_chance"].value == pytest.approx(100 * sum(scores) / 6)
    assert judged.results["cyclesync_chance"].value < 40


def test_order_batches_and_repeats_do_not_matter(tmp_path):
    whole = evaluated(tmp_path, CycleSyncCallback(MotionV2A()), [generation(clip_batch(IDS), 2)])
    shuffled = [IDS[i] for i in (5, 0, 3)], [IDS[i] for i in (4, 1, 2)]
    repeat = clip_batch([IDS[0], IDS[5]], valid=[False, False])
    unmasked_repeat = clip_batch([IDS[3]])
    batches = [*(clip_batch(ids) for ids in shuffled), repeat, unmasked_repeat]
    parts = evaluated(tmp_path, CycleSyncCallback(MotionV2A()), [generation(batch, 2) for batch in batches])
    assert parts.results == whole.results
    assert parts.clip_rows == whole.clip_rows


def test_rows_hold_scores_and_onsets_of_every_track(tmp_path):
    judged = evaluated(tmp_path, CycleSyncCallback(MotionV2A()), [generation(clip_batch(IDS), 2)])
    row = judged.clip_rows["frog/b_0"]
    assert row["scores"]["cyclesync"] == pytest.approx(50)
    assert row["scores"]["cyclesync_real"] == pytest.approx(100)
    assert list(row["onsets"]) == ["true", "driving", "generated", "w0", "off_sync", "real"]
    assert row["onsets"]["true"] == pytest.approx([frame / 24 for frame in JUMPS["frog/b_0"]])
    assert len(row["onsets"]["generated"]) == 2
    for heard, true in zip(row["onsets"]["driving"], row["onsets"]["true"], strict=True):
        assert abs(heard - true) < 0.03


def test_one_recording_has_no_chance_pairs(tmp_path):
    judged = evaluated(tmp_path, CycleSyncCallback(MotionV2A()), [generation(clip_batch(IDS[:2]))])
    assert "cyclesync_chance" not in judged.results
    assert judged.results["cyclesync"].n == 1


def test_mismatched_skips_clips_of_the_same_recording():
    clips = [JudgedClip(str(k), video, 1.0, [], {}, None) for k, video in enumerate("aabbb")]
    assert [(clip.id, partner.id) for clip, partner in mismatched(clips)] == [
        ("0", "2"),
        ("1", "2"),
        ("2", "0"),
        ("3", "0"),
        ("4", "0"),
    ]


def test_mismatched_goes_round_and_is_quick():
    clips = [JudgedClip(str(k), video, 1.0, [], {}, None) for k, video in enumerate("abba")]
    assert [partner.id for _, partner in mismatched(clips)] == ["1", "3", "3", "1"]
    assert mismatched([*clips[1:3], *clips[1:3]]) == mismatched([]) == []
    many = [JudgedClip(str(k), f"recording {k}", 1.0, [], {}, None) for k in range(20_000)]
    begin = time.process_time()
    assert len(mismatched(many)) == len(many)
    assert recording_indices(many)[0] == len(many)
    assert time.process_time() - begin < 2  # looking each name up among all others takes many times that


class CountingV2A(V2AModel):
    """`MotionV2A` that counts the clips it is given and whose loudness is drawn."""

    def __init__(self):
        super().__init__()
        self.inner = MotionV2A()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.clips = 0
        self.draws = []

    def forward(self, video, fps, captions=None, generators=None):
        self.clips += len(video)
        self.draws += [torch.rand((), generator=generator).item() for generator in generators]
        return self.inner(video, fps, captions, generators)


def test_real_videos_are_heard_once_per_run(tmp_path):
    v2a = CountingV2A()
    callback = CycleSyncCallback(v2a)
    trainer = quiet_trainer(tmp_path, callbacks=[callback], max_steps=6, val_check_interval=3, num_sanity_val_steps=1)
    trainer.fit(JumpingSquares(), datamodule=SquareClips())
    kinds_per_validation = 3  # generated, w0, off_sync
    assert v2a.clips == 2 * 6 * kinds_per_validation + 6


def test_v2a_is_frozen_and_no_part_of_the_model(tmp_path):
    v2a = CountingV2A()
    callback = CycleSyncCallback(v2a)
    assert not v2a.training and not v2a.weight.requires_grad
    module = JumpingSquares()
    evaluated(tmp_path, callback, [generation(clip_batch(IDS))])
    assert not any("v2a" in name for name in module.state_dict())
    other = CountingV2A()
    other.weight.data += 1
    hashes = [CycleSyncCallback(judge)._judge["v2a_sha256"] for judge in (v2a, CountingV2A(), other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_draws_belong_to_the_clip_and_are_averaged(tmp_path):
    v2a = CountingV2A()
    judged = evaluated(tmp_path, CycleSyncCallback(v2a, num_samples=2), [generation(clip_batch(IDS), variants=False)])
    generated, real = v2a.draws[:12], v2a.draws[12:]
    assert generated == real
    assert len(set(generated)) == 12
    assert judged.results["cyclesync"].value == pytest.approx(100)
    assert judged.results["cyclesync"].details["n_clips"] == 6
    assert judged.results["cyclesync"].details["num_samples"] == 2


@pytest.mark.parametrize(("undefined", "quiet", "silent"), [("skip", 0, None), ("zero", 0, 0), ("one", 50, 100)])
def test_scores_of_clips_make_up_the_entry_where_some_sounds_have_no_onset(undefined, quiet, silent):
    onsets = {"a_0": ([], [[], [0.5]]), "a_1": ([0.5], [[0.5], [0.5]]), "b_0": ([], [[], []])}
    clips = [
        JudgedClip(name, name[0], 1.0, {"generated": sound}, {"generated": inferred}, None)
        for name, (sound, inferred) in onsets.items()
    ]
    callback = CycleSyncCallback(MotionV2A(), num_samples=2, undefined=undefined)
    scores = [callback.scores(clip)["generated"]["cyclesync"] for clip in clips]
    assert scores == [quiet, 100, silent]
    (entry,) = callback.entries("generated", clips).values()
    recordings = [(quiet + 100) / 2, *([] if silent is None else [silent])]
    assert entry.value == pytest.approx(sum(recordings) / len(recordings))
    assert (entry.details["n_clips"], entry.details["n_undefined"]) == (sum(s is not None for s in scores), 1)


def test_too_short_a_sound_is_refused(tmp_path):
    class Short(MotionV2A):
        def forward(self, video, fps, captions=None, generators=None):
            sound, rate = super().forward(video, fps, captions, generators)
            return sound[:, : rate // 2], rate

    with pytest.warns(RuntimeWarning, match=r"judge bell/c_0 and 5 more at .* made 0\.50 s of sound for 1\.54 s"):
        callback = evaluated(tmp_path, CycleSyncCallback(Short()), [generation(clip_batch(IDS))])
    assert callback.results == {} and len(callback.failures) == 1


def test_outputs_without_clips_leave_no_results(tmp_path):
    assert evaluated(tmp_path, CycleSyncCallback(MotionV2A()), [None, torch.zeros(1)]).results == {}


def test_scores_are_logged_with_the_steps_of_the_weights(tmp_path):
    callback = CycleSyncCallback(MotionV2A())
    logger = L.pytorch.loggers.CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    trainer = quiet_trainer(tmp_path, callbacks=[callback], max_steps=3)
    trainer.logger = logger
    trainer.fit(JumpingSquares(), datamodule=SquareClips())
    assert trainer.callback_metrics["cyclesync"] == pytest.approx(callback.results["cyclesync"].value)
    trainer.save_checkpoint(tmp_path / "a.ckpt")

    again = CycleSyncCallback(MotionV2A())
    trainer = quiet_trainer(tmp_path, callbacks=[again])
    logged = {}
    logger.log_metrics = lambda metrics, step=None: logged.update({step: metrics})
    trainer.logger = logger
    trainer.validate(JumpingSquares(), datamodule=SquareClips(), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert again.results == callback.results
    assert logged[3]["cyclesync"] == callback.results["cyclesync"].value
    assert logged[3]["cyclesync_low"] <= logged[3]["cyclesync_high"]


def test_a_clip_adds_to_every_entry_what_its_row_says(tmp_path):
    callback = CycleSyncCallback(MotionV2A(), undefined="one")
    judged = evaluated(tmp_path, callback, [generation(clip_batch(IDS), 2)])
    assert set(judged.results) == {f"cyclesync{kind}" for kind in ("", "_w0", "_off_sync", "_real", "_chance")}
    for name, result in judged.results.items():
        recordings = {}
        for row in judged.clip_rows.values():
            recordings.setdefault(row["video_id"], []).append(row["scores"][name])
        means = [sum(scores) / len(scores) for scores in recordings.values()]
        assert sum(means) / len(means) == pytest.approx(result.value), name
    kinds = judged.clip_rows[IDS[0]]["kinds"]
    assert (kinds["cyclesync"], kinds["cyclesync_w0"], kinds["cyclesync_chance"]) == ("generated", "w0", "chance")


@pytest.mark.parametrize(("undefined", "score"), [("skip", None), ("zero", 0), ("one", 100)])
def test_a_silent_still_clip_counts_in_its_row_as_in_the_mean(tmp_path, undefined, score):
    batch = clip_batch(IDS[:1])
    still = replace(batch, audio=torch.zeros_like(batch.audio), video=torch.zeros_like(batch.video))
    made = replace(generation(batch, variants=False), reference=still, video=still.video / 255.0, audio=still.audio)
    judged = evaluated(tmp_path, CycleSyncCallback(MotionV2A(), undefined=undefined), [made])
    assert judged.clip_rows[IDS[0]]["scores"]["cyclesync"] == score


def test_two_judges_of_a_kind_stand_side_by_side(tmp_path):
    batches = [generation(clip_batch(IDS), 2)]
    judges = [
        CycleSyncCallback(MotionV2A()),
        CycleSyncCallback(MotionV2A(), tolerance_s=0.3, name="wide"),
        CycleSyncCallback(MotionV2A(floor=0.9), name="deaf"),
    ]

    class Given(JumpingSquares):
        def validation_step(self, batch, batch_idx):
            return batches[0]

    class Once(SquareClips):
        def val_dataloader(self):
            return torch.utils.data.DataLoader([0], batch_size=None)

    trainer = quiet_trainer(tmp_path, callbacks=[*judges, ResultsWriter()])
    trainer.validate(Given(), datamodule=Once(), verbose=False)
    found = json.loads((tmp_path / "results.json").read_text())["metrics"]
    kinds = ("", "_w0", "_off_sync", "_real", "_chance")
    assert set(found) == {f"{name}{kind}" for name in ("cyclesync", "wide", "deaf") for kind in kinds}
    assert found["wide_off_sync"]["value"] > found["cyclesync_off_sync"]["value"] and found["deaf"]["value"] == 0
    logged = trainer.callback_metrics
    assert logged["wide_off_sync"] == pytest.approx(found["wide_off_sync"]["value"])
    # a judge without weights is told apart by its settings
    assert found["cyclesync"]["v2a_sha256"] == found["wide"]["v2a_sha256"] != found["deaf"]["v2a_sha256"]
    assert found["deaf"]["v2a_settings"] == {"floor": 0.9, "sample_rate": 22_050}
    assert len({found[name]["judge"] for name in ("cyclesync", "wide", "deaf")}) == 3
    assert found["cyclesync"]["judge"] == found["cyclesync_w0"]["judge"]


@pytest.mark.parametrize("name", ["cyclesync", "cyclesync_w0", "cyclesync_real"])
def test_judges_that_would_write_the_same_entry_are_refused_at_the_start(tmp_path, name):
    module = JumpingSquares()
    module.variants = ("w0",)
    v2a = CountingV2A()
    trainer = quiet_trainer(tmp_path, callbacks=[CycleSyncCallback(v2a), CycleSyncCallback(v2a, name=name)])
    with pytest.raises(InputError, match=rf"CycleSyncCallback would both write '{name}' into the results; give one"):
        trainer.validate(module, datamodule=SquareClips(), verbose=False)
    assert v2a.clips == 0


def test_a_name_is_a_word():
    with pytest.raises(InputError, match=r"CycleSyncCallback\.name makes a metric called 'val/it'; use letters"):
        CycleSyncCallback(MotionV2A(), name="val/it")


def test_bad_number_of_samples():
    with pytest.raises(InputError, match="num_samples is 0"):
        CycleSyncCallback(MotionV2A(), num_samples=0)


def test_a_clip_without_its_video_has_no_ceiling(tmp_path):
    made = generation(clip_batch(IDS))
    first_frames = replace(made, reference=replace(made.reference, video=made.reference.video[:, :1]))
    judged = evaluated(tmp_path, CycleSyncCallback(MotionV2A()), [first_frames])
    assert "cyclesync_real" not in judged.results and "cyclesync" in judged.results


def test_every_video_is_judged_by_the_sound_that_belongs_to_it(tmp_path):
    """Video and sound of the next recording, as if generated together: they agree, whatever the clip's own sound."""
    batch, other = clip_batch(IDS), clip_batch([*IDS[2:], *IDS[:2]])
    made = replace(generation(other, variants=False), reference=batch, audio=other.audio.clone())
    driven = replace(generation(batch, variants=False), reference=batch)
    judged = evaluated(tmp_path, CycleSyncCallback(MotionV2A()), [replace(made, variants={"audio_to_video": driven})])
    for name in ("cyclesync", "cyclesync_audio_to_video", "cyclesync_real"):
        assert judged.results[name].value == pytest.approx(100), name
    row, partner = (judged.clip_rows[name] for name in (IDS[0], IDS[2]))
    assert list(row["onsets"]) == ["true", "generated", "audio_to_video", "real"]
    assert row["sound_onsets"]["generated"] == partner["sound_onsets"]["real"] != row["sound_onsets"]["real"]
    assert row["sound_onsets"]["audio_to_video"] == row["sound_onsets"]["real"]


def test_a_judge_that_hears_flashes_is_told(tmp_path):
    callback = CycleSyncCallback(MotionV2A(), fooling=True)
    judged = evaluated(tmp_path, callback, [generation(clip_batch(IDS))] * 2)
    found = {name: result.value for name, result in judged.results.items() if "fooled" in name}
    assert set(found) == {f"cyclesync_fooled_{kind}" for kind in DISTURBANCES}
    # whatever changes is an event to this one
    assert found["cyclesync_fooled_patch"] > 60
    assert judged.clip_rows[IDS[0]]["kinds"]["cyclesync_fooled_patch"] == "fooled_patch"
