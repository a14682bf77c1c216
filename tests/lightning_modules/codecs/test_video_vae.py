"""A causal video VAE in training: gradients, causality, statistics, resumption, export, the adversarial game."""

import json
import math
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.ema import EMA
from callbacks.evaluation import EvaluationCallback
from callbacks.export_pretrained import ExportPretrained
from callbacks.nan_guard import NaNGuard
from components.codecs.posterior import DiagonalGaussian
from components.codecs.video.causal_vae.codec import CausalVideoCodec
from components.codecs.video.causal_vae.normalisation import VideoLatentStatistics
from components.contracts import Generation
from components.errors import InputError
from components.metrics.truth.pictures import psnr_scores
from components.objectives.adversarial import AdversarialLoss, PatchDiscriminator
from components.objectives.vae_loss import VAELoss
from components.weights.pretrained import PACKAGE_ROOT
from lightning_modules.codecs.video_vae import VideoVAEModule
from lightning_modules.command_line.cli import AVSyncCLI, main
from tests.components.codecs.video.causal_vae.test_model import tiny_vae
from tests.lightning_modules.tiny_module import TinyData, clips, trainer

LENGTH = 9
"""Frames of a clip: three latents of the tiny VAE."""


class Frames(torch.nn.Module):
    """A perceptual distance that is known: the mean absolute difference of two frames, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, decoded, real):
        assert decoded.shape == real.shape and decoded.ndim == 4
        return self.weight * (decoded - real).abs().mean(dim=(1, 2, 3))


def module(adversarial_from: int | None = None, **settings):
    if adversarial_from is not None:
        torch.manual_seed(1)
        settings["adversarial"] = AdversarialLoss(PatchDiscriminator(width=4, num_layers=1), 0.1, adversarial_from)
    settings.setdefault("optimizer", lambda groups: torch.optim.AdamW(groups, lr=2e-3))
    return VideoVAEModule(tiny_vae(), **({"encode_window": 4, "decode_window": 1} | settings))


class Data(TinyData):
    """Random clips of nine frames, endless in training; three, of which one is a repetition, in evaluation."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        longer = batch.video.repeat(1, 2, 1, 1, 1)[:, :LENGTH]
        valid = None if batch.position is not None else torch.tensor([True, False])
        return replace(batch, video=longer, valid=valid)


def batch(**settings):
    return Data().on_after_batch_transfer(clips(position=0, **settings), 0)


def fit(folder, learner, steps, **settings):
    run = trainer(folder, steps, **({"limit_val_batches": 1, "num_sanity_val_steps": 0} | settings))
    run.fit(learner, datamodule=Data(), ckpt_path=settings.pop("ckpt_path", None))
    return run


def weights(learner):
    return {name: value.detach().clone() for name, value in learner.state_dict().items()}


# --- a step


def test_gradients_reach_every_weight_of_encoder_and_decoder():
    learner = module()
    learner.training_step(batch(), 0).backward()
    assert [name for name, weight in learner.vae.named_parameters() if not weight.grad.abs().sum() > 0] == []


def test_a_network_frozen_by_a_codec_trains_and_codecs_stay_frozen():
    vae = tiny_vae()
    CausalVideoCodec(vae.bfloat16())
    learner = VideoVAEModule(vae)
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in learner.vae.parameters())
    codec = CausalVideoCodec(tiny_vae())
    assert not codec.encode(batch().video.float().div(127.5).sub(1)).requires_grad


def test_the_loss_is_that_of_a_draw_of_each_clip_s_own():
    learner, given = module(loss=VAELoss("l1", kl_weight=0.3), noise_seed=5), batch()
    pixels = given.video.transpose(1, 2).float() / 127.5 - 1
    posterior = DiagonalGaussian.from_moments(learner.vae.encode(pixels))
    noise = [torch.randn(2, 3, 4, 4, generator=g) for g in learner._generators(given, 0)]
    decoded = learner.vae.decode(posterior.sample(torch.stack(noise)))
    expected = learner.loss(decoded, pixels, posterior).total
    torch.testing.assert_close(learner.training_step(given, 0), expected)
    # a clip draws by its place in the training order, not by its batch or rank
    second = replace(given, position=2)
    again = [torch.randn(2, 3, 4, 4, generator=g) for g in learner._generators(second, 7)]
    assert torch.equal(again[0], noise[2]) and not torch.equal(noise[0], noise[1])
    other = module(noise_seed=6)._generators(given, 0)
    assert not torch.equal(torch.randn(2, 3, 4, 4, generator=other[0]), noise[0])


def test_the_perceptual_term_is_added_and_never_trains():
    alone, both = module(), module(perceptual=Frames(), perceptual_weight=0.5)
    both.train()
    given = batch()
    loss = both.training_step(given, 0)
    assert loss.item() > alone.training_step(given, 0).item() + 0.1
    loss.backward()
    assert both.perceptual.weight.grad is None and not both.perceptual.training
    assert [name for name in both.checkpoint_tensors() if "perceptual" in name] == []
    assert list(both.frozen_parts()) == ["perceptual"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda given: replace(given, video=given.video[:, :8]), "clips of 8 frames .* set clip.num_frames to 5 or 9"),
        (lambda given: replace(given, video=given.video[..., :14]), "width 14 .* VAE's 4: set clip.width to 12 or 16"),
    ],
)
def test_clips_that_do_not_fit_are_told(change, sentence):
    with pytest.raises(InputError, match=sentence):
        module().training_step(change(batch()), 0)


@pytest.mark.parametrize("option", [{"encode_window": 6}, {"decode_window": 0}, {"export_dtype": "int8"}])
def test_bad_options_are_named(option):
    with pytest.raises(InputError, match=next(iter(option))):
        module(**option)


# --- training


def test_it_learns_and_stays_causal_and_chunked_equals_whole(tmp_path):
    learner = module()
    run = fit(tmp_path, learner, 1, val_check_interval=1)
    before = run.callback_metrics["psnr"].item()
    learner = module()
    run = fit(tmp_path, learner, 40, val_check_interval=40)
    logged = {name: value.item() for name, value in run.callback_metrics.items()}
    assert logged["psnr"] > before + 0.5
    assert {"psnr_moving", "train/kl", "train/reconstruction"} <= logged.keys()
    pixels = batch().video.transpose(1, 2).float() / 127.5 - 1
    learner.eval()
    with torch.no_grad():
        moments = learner.vae.encode(pixels)
        for frame in (1, 5):
            changed = pixels.clone()
            changed[:, :, frame:] = 1
            same = 1 + (frame - 1) // 4
            other = learner.vae.encode(changed)
            assert torch.equal(other[:, :, :same], moments[:, :, :same])
            assert not torch.equal(other[:, :, same], moments[:, :, same])
            latents, changed = moments[:, :2], moments[:, :2].clone()
            changed[:, :, same:] = 1
            video, other = learner.vae.decode(latents), learner.vae.decode(changed)
            assert torch.equal(video[:, :, :frame], other[:, :, :frame])
            assert not torch.equal(video[:, :, frame], other[:, :, frame])
        raw, chunked = learner._round_trip(pixels)
        torch.testing.assert_close(raw, moments[:, :2], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(chunked, learner.vae.decode(raw).clamp(-1, 1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("adversarial_from", [None, 2], ids=["plain", "adversarial"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, adversarial_from):
    def keep(folder):
        return [ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1, filename="{step}"), NaNGuard()]

    settings = {"enable_checkpointing": True, "gradient_clip_val": 0.5, "limit_val_batches": 0}
    whole = module(adversarial_from)
    fit(tmp_path, whole, 6, callbacks=keep(tmp_path / "whole"), **settings)
    torch.manual_seed(99)  # another process has other generators
    resumed = module(adversarial_from)
    torch.nn.init.ones_(resumed.vae.quant_conv.conv.weight)
    path = str(tmp_path / "whole/step=3.ckpt")
    run = trainer(tmp_path, 6, callbacks=keep(tmp_path / "again"), **settings)
    run.fit(resumed, datamodule=Data(), ckpt_path=path)
    assert run.global_step == 6
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())
    last = [torch.load(tmp_path / name / "step=6.ckpt")["optimizer_states"][0] for name in ("whole", "again")]
    for index, state in last[0]["state"].items():
        assert all(torch.equal(value, last[1]["state"][index][name]) for name, value in state.items())


def test_the_adversarial_game_begins_at_its_step_and_moves_both_networks(tmp_path):
    learner, plain = module(adversarial_from=3), module()
    start = weights(learner)
    fit(tmp_path, learner, 3, limit_val_batches=0, callbacks=[NaNGuard()])
    fit(tmp_path, plain, 3, limit_val_batches=0)
    for name, value in weights(learner).items():
        if name.startswith("vae."):
            assert torch.equal(value, plain.state_dict()[name])
        else:  # neither a gradient nor weight decay, and no moments
            assert torch.equal(value, start[name])
    learner = module(adversarial_from=0)
    run = fit(tmp_path, learner, 3, limit_val_batches=0, callbacks=[NaNGuard()], gradient_clip_val=1.0)
    assert run.global_step == 3  # one step for both networks
    assert {"train/adversarial", "train/discriminator"} <= run.callback_metrics.keys()
    moved = [name for name, value in weights(learner).items() if not torch.equal(value, start[name])]
    assert any(name.startswith("adversarial.") for name in moved)


def test_one_backward_pass_gives_the_discriminator_its_own_loss_and_no_more():
    learner = module(adversarial_from=0)
    learner.training_step(batch(), 0).backward()
    own = {name: weight.grad.clone() for name, weight in learner.adversarial.named_parameters()}
    learner.zero_grad()
    pixels = learner._pixels(batch())
    posterior = DiagonalGaussian.from_moments(learner.vae.encode(pixels))
    noise = torch.stack([torch.randn(2, 3, 4, 4, generator=g) for g in learner._generators(batch(), 0)])
    with torch.no_grad():
        decoded = learner.vae.decode(posterior.sample(noise))
    learner.adversarial(decoded, pixels)[1].backward()
    for name, weight in learner.adversarial.named_parameters():
        torch.testing.assert_close(own[name], weight.grad, atol=1e-6, rtol=1e-4)


def test_each_network_is_clipped_by_its_own_norm():
    learner = module(adversarial_from=0)
    for weight in learner.parameters():
        weight.grad = torch.ones_like(weight)
    learner.configure_gradient_clipping(None, 0.5)
    for network in (learner.vae, learner.adversarial):
        norm = torch.cat([weight.grad.flatten() for weight in network.parameters()]).norm()
        assert norm.item() == pytest.approx(0.5, rel=1e-3)


def test_a_gradient_that_is_no_number_ends_the_run(tmp_path):
    learner = module(adversarial_from=0)
    with torch.no_grad():
        next(learner.adversarial.parameters()).fill_(math.nan)
    before = weights(learner.vae)
    with pytest.raises(InputError, match="the loss is nan at step 0"):
        fit(tmp_path, learner, 2, limit_val_batches=0, callbacks=[NaNGuard()])
    assert all(torch.equal(value, before[name]) for name, value in learner.vae.state_dict().items())


# --- evaluation and export


class Judge(EvaluationCallback):
    """Keeps what it sees."""

    def start(self, trainer, module):
        self.seen: list[Generation] = []

    def update(self, generation):
        self.seen.append(generation)


def test_callbacks_see_the_round_trip_and_what_is_exported_makes_it(tmp_path):
    learner, judge = module(), Judge()
    export = ExportPretrained(str(tmp_path / "vae"))
    run = fit(tmp_path, learner, 4, val_check_interval=4, callbacks=[judge, export])
    (seen,) = judge.seen
    codec = CausalVideoCodec.from_pretrained(tmp_path / "vae", encode_window=4, decode_window=1)
    pixels = seen.reference.video.float() / 127.5 - 1
    latents = codec.encode(pixels)
    torch.testing.assert_close(codec.decode(latents).add(1).div(2), seen.video, atol=1e-5, rtol=1e-4)
    real = seen.reference.video / 255
    psnr = psnr_scores(seen.video[0], real[0], real[0, 0])["psnr"]
    assert run.callback_metrics["psnr"].item() == pytest.approx(psnr, abs=1e-3) and len(real) == 2
    # the moments are those of clips that count, and of the weights that were written
    own = latents[:1]
    for part in (own[:, :, :1], own[:, :, 1:]):
        assert part.mean().item() == pytest.approx(0, abs=1e-4)
        assert part.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert all(torch.equal(value, codec.vae.state_dict()[name]) for name, value in learner.vae.state_dict().items())


@pytest.mark.parametrize("settings", [{"val_check_interval": 2}, {"limit_val_batches": 0}], ids=["earlier", "never"])
def test_the_exported_statistics_are_those_of_the_last_weights(tmp_path, settings):
    learner = module()
    callbacks = [EMA(0.9), ExportPretrained(str(tmp_path / "vae"))]
    fit(tmp_path, learner, 3, callbacks=callbacks, **settings)
    codec = CausalVideoCodec.from_pretrained(tmp_path / "vae")
    held_out = Data().on_after_batch_transfer(clips(2, seed=77), 0)
    raw = codec.posterior(held_out.video[:1].float() / 127.5 - 1).mean
    expected = VideoLatentStatistics.of(raw).normalisation()
    assert list(vars(codec.normalisation).values()) == pytest.approx(list(vars(expected).values()), abs=1e-5)
    assert learner.training


def test_checkpoints_carry_the_statistics_and_without_them_nothing_is_exported(tmp_path):
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    learner = module()
    fit(tmp_path, learner, 3, val_check_interval=1, callbacks=[keep], enable_checkpointing=True)
    fresh = module()
    with pytest.raises(InputError, match="no validation has run before this checkpoint"):
        fresh.save_pretrained(tmp_path / "vae")
    stored = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    fresh.on_load_checkpoint(stored)
    fresh.load_state_dict(stored["state_dict"])
    fresh.save_pretrained(tmp_path / "vae")
    assert CausalVideoCodec.from_pretrained(tmp_path / "vae").normalisation == fresh.normalisation


# --- the shipped experiments


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def test_the_quickstart_trains_exports_and_its_vae_is_syncphonys_codec(tmp_path, rendered, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["avsync"])
    few = [f"--data.root={rendered}", "--data.num_train=4", "--data.num_test=2", "--trainer.enable_progress_bar=false"]
    given = {
        "trainer.max_steps": 2,
        "trainer.val_check_interval": 1,
        "callbacks.checkpoint.init_args.every_n_train_steps": 2,
        "model.adversarial": "components.objectives.adversarial.AdversarialLoss",
        "model.adversarial.init_args.discriminator": "components.objectives.adversarial.PatchDiscriminator",
        "model.adversarial.init_args.discriminator.init_args.width": 4,
        "model.adversarial.init_args.start_step": 1,
    }
    options = [f"--{name}={value}" for name, value in given.items()]
    quickstart = str(PACKAGE_ROOT / "configs/quickstart_vae.yaml")
    assert main(["fit", "--config", quickstart, *few, *options]) == 0
    codec = CausalVideoCodec.from_pretrained("weights/quickstart_vae")
    assert (codec.spatial_factor, codec.temporal_factor, codec.latent_channels) == (4, 8, 16)
    last = "runs/quickstart_vae/version_0/checkpoints/last.ckpt"
    again = [*options[4:], "--ckpt_path", last]
    assert main(["export", "--config", quickstart, *few, *again, "--folder", "exported"]) == 0
    stored = CausalVideoCodec.from_pretrained("exported").vae.state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in codec.vae.state_dict().items())

    # pre-training of a backbone on its latents: 16 channels in 2x2 patches
    small = {
        "model.codec": "components.codecs.video.causal_vae.codec.CausalVideoCodec.from_pretrained",
        "model.codec.init_args.folder": "weights/quickstart_vae",
        "model.dit.init_args.backbone.init_args.in_channels": 64,
        "model.sampler.init_args.video_steps": "[1,1,1]",
        "clip.num_frames": 17,
        "data.batch_size": 4,
        "data.val_batch_size": 2,
        "trainer.max_steps": 1,
        "trainer.val_check_interval": 1,
        "callbacks.export": "null",
    }
    backbone = str(PACKAGE_ROOT / "configs/quickstart_backbone.yaml")
    options = [f"--{name}={value}" for name, value in small.items()]
    assert main(["fit", "--config", backbone, *few, *options]) == 0


def test_the_full_size_is_the_published_one_on_the_meta_device():
    with torch.device("meta"):  # shapes alone; no clips are needed either
        learner = AVSyncCLI(
            model_class=L.LightningModule,
            datamodule_class=L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            run=False,
            args=["--config", str(PACKAGE_ROOT / "configs/syncphony/video_vae.yaml"), "--trainer.logger=false"],
        ).model
    assert isinstance(learner, VideoVAEModule)
    assert sum(weight.numel() for weight in learner.vae.parameters()) == pytest.approx(335.4e6, rel=1e-3)
    assert all(weight.requires_grad for weight in learner.parameters())
    keys = PACKAGE_ROOT / "tests/golden/pyramid_flow/full_size_keys_causal_video_vae.json"
    published = json.loads(keys.read_text())["config"]
    assert learner.vae.config == {name: published[name] for name in learner.vae.config}
