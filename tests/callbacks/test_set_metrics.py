import math

import pytest
import torch

from callbacks.set_metrics import SetMetrics
from components.contracts import ClipBatch, Generation
from components.errors import InputError
from components.metrics.scorers import FeatureExtractor
from tests.callbacks.jumping_squares import JumpingSquares, SquareClips
from tests.callbacks.test_cyclesync import evaluated, quiet_trainer

FRAMES, FPS = 4, 8.0


class Colours(FeatureExtractor):
    """Mean colour of every frame."""

    dim = 3

    def __init__(self, share=1.0):
        super().__init__()
        self.share = share
        self.asked = 0

    def features(self, generation, rows):
        self.asked += len(rows)
        return [generation.video[row].mean(dim=(-2, -1)) * self.share for row in rows]

    def identity(self):
        return {"share": self.share}


def clip_batch(ids, valid=None):
    video = [torch.rand(FRAMES, 3, 4, 4, generator=torch.Generator().manual_seed(int(name))) for name in ids]
    return ClipBatch(
        ids=ids,
        video=(255 * torch.stack(video)).to(torch.uint8),
        fps=FPS,
        audio=torch.zeros(len(ids), 100),
        sample_rate=200,
        captions=ids,
        video_ids=ids,
        valid=None if valid is None else torch.tensor(valid),
    )


def generation(batch):
    """Half as bright; the variant is the real clips."""
    real = batch.video / 255
    variant = Generation(real, FPS, batch.audio, 200, batch, valid=batch.valid)
    return Generation(real / 2, FPS, batch.audio, 200, batch, {"w0": variant}, batch.valid)


IDS = [str(number) for number in range(6)]
BOTH = {"fid": "frechet", "kid": "kernel"}


def test_each_kind_is_compared_with_the_real_clips(tmp_path):
    found = evaluated(tmp_path, SetMetrics(Colours(), BOTH), [generation(clip_batch(IDS))]).results
    assert list(found) == ["fid", "kid", "fid_w0", "kid_w0"]
    assert found["fid_w0"].value == pytest.approx(0, abs=1e-9)
    frames = (clip_batch(IDS).video / 255).mean(dim=(-2, -1)).flatten(0, 1).double()
    # halving moves the mean by half of it and makes a quarter of the covariance, whose root commutes with it
    wanted = (frames.mean(dim=0) / 2).square().sum() + frames.T.cov().trace() * (1 + 1 / 4 - 1)
    assert found["fid"].value == pytest.approx(wanted.item(), rel=1e-5)
    assert (found["fid"].n, found["fid"].details["n_real"]) == (24, 24)
    assert all(math.isnan(end) for end in found["fid"].ci95)
    assert found["kid"].details["share"] == 1.0


def test_batches_and_repeats_do_not_matter(tmp_path):
    whole = evaluated(tmp_path, SetMetrics(Colours(), BOTH), [generation(clip_batch(IDS))]).results
    parts = [clip_batch(IDS[4:]), clip_batch(IDS[:4]), clip_batch(IDS[:1], valid=[False])]
    found = evaluated(tmp_path, SetMetrics(Colours(), BOTH), [generation(batch) for batch in parts]).results
    for name, result in whole.items():
        assert found[name].value == pytest.approx(result.value, rel=1e-6, abs=1e-9)
        assert found[name].details["n_real"] == result.details["n_real"]


def test_classes_are_scored_of_real_clips_too(tmp_path):
    found = evaluated(tmp_path, SetMetrics(Colours(50.0), {"is": "inception_score"}), [generation(clip_batch(IDS))])
    assert list(found.results) == ["is", "is_real", "is_w0"]
    assert 1 < found.results["is"].value < found.results["is_real"].value <= 3
    assert found.results["is_real"].value == pytest.approx(found.results["is_w0"].value, rel=1e-6)


def test_real_features_are_found_once_in_a_run(tmp_path):
    callback = SetMetrics(Colours(), BOTH)
    for _ in range(2):
        evaluated(tmp_path, callback, [generation(clip_batch(IDS))])
    assert callback.extractor.asked == 2 * 2 * len(IDS) + len(IDS)


@pytest.mark.parametrize(("metrics", "said"), [({"fid": "frecht"}, "fid: frecht; use frechet"), ({}, "is empty")])
def test_unknown_distances_are_refused(metrics, said):
    with pytest.raises(InputError, match=said):
        SetMetrics(Colours(), metrics)


def test_features_that_are_not_finite_are_said(tmp_path):
    callback = evaluated(tmp_path, SetMetrics(Colours(math.inf), BOTH), [generation(clip_batch(IDS))])
    (failure,) = callback.failures
    assert "not finite" in failure.sentence
    assert not callback.results


def test_what_can_be_watched_is_known_from_the_configuration():
    assert {"fid", "fid_w0"} <= set(SetMetrics.logged_names({"metrics": BOTH}, ["w0"]))


def test_two_that_write_the_same_entries_are_told_apart_before_anything_is_generated(tmp_path):
    both = [SetMetrics(Colours(), BOTH), SetMetrics(Colours(0.5), {"kid": "kernel"})]
    with pytest.raises(InputError, match="would both write 'kid'"):
        quiet_trainer(tmp_path, callbacks=both).validate(JumpingSquares(), datamodule=SquareClips(), verbose=False)
    with pytest.raises(InputError, match=r"SetMetrics\.metrics makes a metric called 'f i d'"):
        SetMetrics(Colours(), {"f i d": "frechet"})
