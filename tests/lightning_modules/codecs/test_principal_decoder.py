"""A decoder of principal components in training: what trains, what it is shown, that it learns, what it leaves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from callbacks.clip_scores import read_clip_scores
from callbacks.export_pretrained import ExportPretrained
from callbacks.picture_truth import PictureTruth
from callbacks.results import ResultsWriter
from components.codecs.video.principal import PrincipalCodec
from components.contracts import ClipBatch
from components.errors import InputError
from lightning_modules.codecs.principal_decoder import PrincipalDecoderModule
from tests.components.codecs.video.test_principal import fitted, smooth_videos
from tests.lightning_modules.tiny_module import TinyData, clips, trainer

CHANNELS = 6


def codec(folder: Path) -> PrincipalCodec:
    folder.mkdir(exist_ok=True)
    fitted(smooth_videos(), CHANNELS)[0].save_pretrained(folder)
    torch.manual_seed(0)
    return PrincipalCodec.with_new_decoder(folder, width=16, num_blocks=1)


@pytest.fixture
def learner(tmp_path: Path) -> PrincipalDecoderModule:
    return PrincipalDecoderModule(
        codec(tmp_path / "codec"), optimizer=lambda groups: torch.optim.AdamW(groups, lr=3e-3)
    )


def as_batch(videos: Tensor, position: int | None = 0) -> ClipBatch:
    """Clips of `smooth_videos` as a data module delivers them."""
    given, count = clips(position=position), len(videos)
    return replace(
        given,
        video=videos.add(1).mul(127.5).round().byte(),
        audio=given.audio[:1].expand(count, -1),
        ids=[f"clip{row}" for row in range(count)],
        video_ids=[f"clip{row}" for row in range(count)],
        captions=[""] * count,
        valid=None,
    )


class Data(TinyData):
    """Drifting colours: other ones in every training batch, and held-out ones, the last a repetition."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if batch.position is None:
            return replace(as_batch(smooth_videos(batch=2, seed=99), None), valid=torch.tensor([True, False]))
        return as_batch(smooth_videos(batch=8, seed=100 + batch.position), batch.position)


def test_gradients_reach_every_weight_of_the_decoder_and_nothing_else(learner: PrincipalDecoderModule):
    torch.nn.init.normal_(learner.codec.decoder.out.weight)  # zeros let nothing through in the first step
    learner.training_step(as_batch(smooth_videos(batch=3)), 0).backward()
    assert [name for name, weight in learner.named_parameters() if not weight.grad.abs().sum() > 0] == []
    assert all(name.startswith("codec.decoder.") for name, _ in learner.named_parameters())


def test_every_clip_has_noise_of_its_own_by_its_place_in_the_order(learner: PrincipalDecoderModule):
    learner.noise, learner.clean_share = 0.5, 0.0
    given = as_batch(smooth_videos(batch=3), position=0)
    latents = learner.codec.encode(smooth_videos(batch=3))
    drawn = learner._noise_for(given, 0, latents)
    later = learner._noise_for(replace(given, position=1), 7, latents)
    assert torch.equal(drawn[1:], later[:2]) and not torch.equal(drawn[0], drawn[1])
    strengths = drawn.flatten(1).std(dim=1)
    assert (strengths < 0.52).all() and strengths.max() > 1.5 * strengths.min()
    learner.clean_share = 1.0
    assert not learner._noise_for(given, 0, latents).any()


def test_the_loss_is_that_of_the_noisy_latents_pictures(learner: PrincipalDecoderModule):
    given = as_batch(smooth_videos(batch=3))
    pixels = given.video.float() / 127.5 - 1
    latents = learner.codec.encode(pixels)
    error = learner.codec.decode(latents + learner._noise_for(given, 0, latents)) - pixels
    expected = error.square().mean() + 0.05 * error.abs().mean()
    torch.testing.assert_close(learner.training_step(given, 0), expected)


def test_it_learns_to_decode_better_and_what_it_writes_is_what_was_judged(tmp_path: Path):
    learner = PrincipalDecoderModule(
        codec(tmp_path / "codec"), optimizer=lambda groups: torch.optim.AdamW(groups, lr=3e-3), noise=0.3
    )
    video = Data().on_after_batch_transfer(clips(position=None), 0).video[:1].float() / 127.5 - 1
    noisy = learner.codec.encode(video) + 0.15 * torch.randn(1, CHANNELS, 3, 4, 4, generator=torch.Generator())

    def errors() -> tuple[float, float]:
        with torch.no_grad():
            back = [learner.codec.decode(latents) for latents in (learner.codec.encode(video), noisy)]
        return tuple(float((one - video).square().mean()) for one in back)

    clean_before, noisy_before = errors()
    run = trainer(
        tmp_path,
        150,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        val_check_interval=150,
        callbacks=[ExportPretrained(str(tmp_path / "out")), ResultsWriter()],
    )
    run.fit(learner, datamodule=Data())
    clean_after, noisy_after = errors()
    assert clean_after < 0.7 * clean_before and noisy_after < 0.9 * noisy_before
    written = PrincipalCodec.from_pretrained(tmp_path / "out")
    assert torch.equal(written.decode(noisy), learner.codec.decode(noisy))
    mean = (learner.codec.decode(learner.codec.encode(video)).clamp(-1, 1) - video).div(2).square().mean()
    assert run.callback_metrics["psnr"].item() == pytest.approx(float(-10 * mean.log10()), abs=1e-3)
    results = json.loads((tmp_path / "results.json").read_text())["metrics"]
    assert results["psnr"]["value"] == pytest.approx(run.callback_metrics["psnr"].item(), rel=1e-6)
    scores = {(score.clip, score.metric): score.value for score in read_clip_scores(tmp_path / "clips.jsonl")}
    (clip,) = {clip for clip, _ in scores}
    assert scores == {(clip, name): pytest.approx(results[name]["value"]) for name in ("psnr", "psnr_moving")}


def test_what_cannot_train_is_refused(tmp_path: Path):
    codec(tmp_path / "codec")
    with pytest.raises(InputError, match="decodes linearly, so there is nothing to train"):
        PrincipalDecoderModule(PrincipalCodec.from_pretrained(tmp_path / "codec"))
    for name in ("noise", "clean_share", "l1_weight"):
        with pytest.raises(InputError, match=f"{name} is -0.1; it must be"):
            PrincipalDecoderModule(codec(tmp_path / "codec"), **{name: -0.1})


def test_a_callback_that_would_write_the_same_entries_is_refused_before_training(tmp_path: Path):
    class KnownScenes(Data):
        has_known_scenes = True

    learner = PrincipalDecoderModule(codec(tmp_path / "codec"))
    with pytest.raises(InputError, match=r"PictureTruth and the PrincipalDecoderModule.* would both write 'psnr'"):
        trainer(tmp_path, 1, callbacks=[PictureTruth(), ResultsWriter()]).fit(learner, datamodule=KnownScenes())
