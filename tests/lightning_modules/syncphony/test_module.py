"""The Syncphony module: what it trains, saves, resumes, generates and refuses."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from components.backbones.pyramid_flow.checkpoint import pretrained_backbone
from components.backbones.syncphony.model import SyncphonyDiT
from components.codecs.video.pixel import PixelCodec
from components.contracts import ClipBatch, Generation, clip_generator
from components.encoders.audio.log_mel import LogMelEncoder
from components.encoders.text.hashed_words import HashedWords
from components.errors import InputError
from components.objectives.motion_aware import MotionAwareLoss
from components.objectives.pyramid_columns import TrainingColumn
from components.samplers.pyramid_sampler import PyramidSampler
from components.schedules.pyramid_schedule import PyramidSchedule
from lightning_modules.syncphony.module import SyncphonyModule
from tests.lightning_modules.tiny_module import FPS, RATE, TinyData, clips, tiny_dit, tiny_module, trainer
from tests.tiny_syncphony import POOLED_DIM, VARIANTS, generator, randomise, tiny_backbone

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def trainable(module: SyncphonyModule) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def step_loss(module: SyncphonyModule, batch: ClipBatch, batch_idx: int = 0) -> torch.Tensor:
    """The training step without a Trainer to log into."""
    module.log = module.log_dict = lambda *_args, **_kwargs: None  # type: ignore[method-assign]
    return module.training_step(batch, batch_idx)


# --- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_lowers_the_loss_on_a_fixed_batch(variant: str):
    """The same clips, noise and prefix lengths every time."""
    module = tiny_module(tiny_dit(variant, 1), text_dropout=0.0)
    optimizer = module.configure_optimizers()
    losses = []
    for _ in range(30):
        loss = step_loss(module, clips(position=0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.85 * losses[0]


def test_gradients_and_optimizer_hold_late_blocks_and_audio_layers_only():
    module = tiny_module()
    step_loss(module, clips()).backward()
    names = {name for name, p in module.named_parameters() if p.grad is not None}
    assert names == set(trainable(module))
    parts = ("dit.audio_embedder.", "dit.audio_layers.", "dit.backbone.single_transformer_blocks.")
    assert names == {name for name, _ in module.named_parameters() if name.startswith(parts)}

    optimizer = module.configure_optimizers()
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in module.parameters() if p.requires_grad)
    decayed, not_decayed = optimizer.param_groups
    assert decayed["weight_decay"] > 0 and all(p.ndim > 1 for p in decayed["params"])
    assert not_decayed["weight_decay"] == 0 and all(p.ndim == 1 for p in not_decayed["params"])


def test_a_scheduler_is_stepped_every_step():
    module = tiny_module(lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
    configured = module.configure_optimizers()
    assert configured["lr_scheduler"]["interval"] == "step"
    assert configured["lr_scheduler"]["scheduler"].optimizer is configured["optimizer"]


def test_encoders_stay_in_evaluation_mode():
    module = tiny_module()
    module.train()
    assert module.dit.training and module.dit.audio_layers is not None and module.dit.audio_layers.training
    assert not any(part.training for part in (module.codec, module.text_encoder, module.audio_encoder))
    module.eval()
    module.train(True)
    assert not module.codec.training
    assert not module.eval().dit.training


def test_the_loss_is_a_function_of_position_and_seed():
    module = tiny_module()
    before = torch.random.get_rng_state()
    first = step_loss(module, clips(position=8))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(step_loss(module, clips(position=8), batch_idx=5), first)  # the position decides, not the index
    assert torch.equal(step_loss(module, clips(), batch_idx=2), first)  # without positions the index does
    assert not torch.equal(step_loss(module, clips(position=12)), first)
    other = tiny_module(noise_seed=1)
    assert not torch.equal(step_loss(other, clips(position=8)), first)


@pytest.mark.parametrize("seed", [2**31 - 1, 2**32 - 1])
def test_any_seed_will_do(seed: int):
    assert step_loss(tiny_module(noise_seed=seed), clips()).isfinite()


def test_seeds_differ_in_the_bits_a_cpu_generator_uses():
    modules = [tiny_module(noise_seed=seed) for seed in range(3)]
    low = {module._seed(call) & 0xFFFFFFFF for module in modules for call in range(100)}
    assert len(low) == 300


def test_what_is_logged_adds_up():
    module = tiny_module(loss=MotionAwareLoss(0.5))
    logged: dict[str, torch.Tensor] = {}
    module.log = lambda *_args, **_kwargs: None  # type: ignore[method-assign]
    module.log_dict = lambda values, **_kwargs: logged.update(values)  # type: ignore[method-assign]
    loss = module.training_step(clips(), 0)
    assert logged["train/loss"] is loss
    torch.testing.assert_close(loss.detach(), logged["train/base"] + 0.5 * logged["train/motion"])
    for part in ("base", "motion"):
        stages = [logged[f"train/{part}_stage{s}"] for s in range(3)]
        mean = (stages[0] + 2 * stages[1] + stages[2]) / 4  # columns stand at stages 0, 1, 1, 2
        torch.testing.assert_close(mean, logged[f"train/{part}"])


def test_text_dropout_replaces_prompts_by_the_empty_one():
    prompts: list[list[str]] = []
    for probability in (0.0, 1.0):
        module = tiny_module(text_dropout=probability)
        hook = module.text_encoder.register_forward_pre_hook(lambda _m, args: prompts.append(list(args[0])))
        step_loss(module, clips())
        hook.remove()
    assert prompts == [["a ball", "a face"] * 2, [""] * 4]


def test_every_prefix_from_the_shortest_on_is_trained():
    lengths: set[int] = set()
    module = tiny_module()
    draw = module.pyramid.draw
    module.pyramid.draw = lambda *given: lengths.update(given[1]) or draw(*given)  # type: ignore[method-assign]
    for call in range(3):
        step_loss(module, clips(), call)
    assert lengths == {2, 3, 4}  # image-to-video never predicts frame 0


def test_prepared_latents_and_features_are_used_as_they_are():
    module, batch = tiny_module(), clips()
    expected = step_loss(module, batch)
    prepared = replace(
        batch,
        video_latents=module.codec.encode(batch.video.float() / 127.5 - 1),
        audio_features=module.audio_encoder(batch.audio, batch.sample_rate),
        video=torch.zeros_like(batch.video),
        audio=torch.zeros_like(batch.audio),
    )
    torch.testing.assert_close(step_loss(module, prepared), expected)


def test_only_the_frames_that_a_column_reads_are_encoded(monkeypatch: pytest.MonkeyPatch):
    module, batch = tiny_module(), clips(batch=8)
    encode, seen = module.codec.encode, []
    monkeypatch.setattr(module.codec, "encode", lambda video: seen.append(tuple(video.shape[:2])) or encode(video))
    frames = batch.video.shape[1]
    for step in range(4):
        seen.clear()
        step_loss(module, batch, step)
        assert sum(num for num, _ in seen) == 8  # every clip once
        # a quarter of the clips in the finest stage and the others: one is long where the other is short
        assert len(seen) <= 2 and sum(num * length for num, length in seen) < 8 * frames


def test_pretraining_without_sound():
    module = tiny_module(
        tiny_dit(first_late_block=0, audio_dim=None, train_embedders=True, train_head=True), audio_encoder=None
    )
    step_loss(module, clips()).backward()
    assert all(p.grad is not None for p in module.dit.parameters())


# --- checkpoints and resumption ------------------------------------------------------------------------------------


def test_a_checkpoint_holds_trainable_weights_and_comes_back(tmp_path: Path):
    module = tiny_module()
    run = trainer(tmp_path, 2)
    run.fit(module, TinyData())
    run.save_checkpoint(tmp_path / "two.ckpt")
    stored = torch.load(tmp_path / "two.ckpt", weights_only=False)
    assert stored["state_dict"].keys() == trainable(module).keys()
    assert set(stored["frozen"]) == {"backbone", "codec", "text_encoder", "audio_encoder"}
    assert all(len(part["sha256"]) == 64 and part["name"] for part in stored["frozen"].values())

    fresh = tiny_module()
    frozen = {name: p.detach().clone() for name, p in fresh.named_parameters() if not p.requires_grad}
    assert any(not torch.equal(p, trainable(module)[name]) for name, p in trainable(fresh).items())
    trainer(tmp_path, 2).fit(fresh, TinyData(), ckpt_path=tmp_path / "two.ckpt")
    assert all(torch.equal(p, trainable(module)[name]) for name, p in trainable(fresh).items())
    assert all(torch.equal(p, frozen[name]) for name, p in fresh.named_parameters() if name in frozen)


def test_a_run_on_other_frozen_weights_does_not_start(tmp_path: Path):
    run = trainer(tmp_path, 1)
    run.fit(tiny_module(), TinyData())
    run.save_checkpoint(tmp_path / "one.ckpt")
    other = tiny_module(tiny_dit(seed=1))
    for act in (trainer(tmp_path, 2).fit, trainer(tmp_path, 2, limit_val_batches=1).validate):
        with pytest.raises(InputError, match=r"checkpoint '.*/one.ckpt' was trained on top of other frozen weights"):
            act(other, TinyData(), ckpt_path=tmp_path / "one.ckpt")
    with pytest.raises(InputError, match="does not fit this model: missing"):
        trainer(tmp_path, 2).fit(tiny_module(tiny_dit(first_late_block=1)), TinyData(), ckpt_path=tmp_path / "one.ckpt")


def saved(module: SyncphonyModule) -> dict[str, Any]:
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


def test_other_frozen_weights_are_refused():
    checkpoint = saved(tiny_module(tiny_dit(seed=0)))
    other = tiny_module(tiny_dit(seed=1))
    digests = [part["sha256"][:12] for part in (checkpoint["frozen"]["backbone"], saved(other)["frozen"]["backbone"])]
    with pytest.raises(InputError, match=r"other frozen weights: its backbone was .*{}.*loads .*{}".format(*digests)):
        other.on_load_checkpoint(checkpoint)
    one_value = tiny_module(tiny_dit(seed=0))
    with torch.no_grad():
        one_value.dit.backbone.blocks[0].ff.net[2].bias[3] += 1e-6
    with pytest.raises(InputError, match="other frozen weights"):
        one_value.on_load_checkpoint(checkpoint)
    with pytest.raises(InputError, match="its text_encoder was HashedWords"):
        encoder = HashedWords(POOLED_DIM)
        encoder.register_buffer("another", torch.zeros(1))
        tiny_module(tiny_dit(seed=0), text_encoder=encoder).on_load_checkpoint(checkpoint)
    for part in checkpoint["frozen"].values():  # the same weights by another name, such as one without hf://
        part["name"] = f"once/{part['name']}"
    tiny_module(tiny_dit(seed=0)).on_load_checkpoint(checkpoint)
    del checkpoint["frozen"]
    with pytest.raises(InputError, match="does not say which frozen weights"):
        tiny_module(tiny_dit(seed=0)).on_load_checkpoint(checkpoint)


def test_wrong_keys_and_shapes_are_named():
    module = tiny_module()
    good = saved(module)
    module.on_load_checkpoint(copy.deepcopy(good))
    missing = {"state_dict": dict(good["state_dict"])}
    del missing["state_dict"]["dit.audio_layers.0.to_q.weight"]
    with pytest.raises(InputError, match=r"missing \['dit.audio_layers.0.to_q.weight'\], unexpected \[\]"):
        module.on_load_checkpoint(missing)
    unexpected = {"state_dict": {**good["state_dict"], "dit.extra": torch.zeros(1)}}
    with pytest.raises(InputError, match=r"unexpected \['dit.extra'\]"):
        module.on_load_checkpoint(unexpected)
    shape = {"state_dict": {**good["state_dict"], "dit.audio_layers.0.to_q.bias": torch.zeros(3)}}
    with pytest.raises(InputError, match=r"of another shape \['dit.audio_layers.0.to_q.bias'\]"):
        module.on_load_checkpoint(shape)
    with pytest.raises(InputError, match="missing"):  # another split of the same backbone
        tiny_module(tiny_dit(first_late_block=1)).on_load_checkpoint(copy.deepcopy(good))


def test_a_resumed_run_is_bit_equal_to_one_that_never_stopped(tmp_path: Path):
    def scheduled() -> SyncphonyModule:
        return tiny_module(lr_scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)))

    whole, first, second = scheduled(), scheduled(), scheduled()
    trainer(tmp_path, 5).fit(whole, TinyData())
    run = trainer(tmp_path, 2)
    run.fit(first, TinyData())
    run.save_checkpoint(tmp_path / "part.ckpt")
    resumed = trainer(tmp_path, 5)
    resumed.fit(second, TinyData(), ckpt_path=tmp_path / "part.ckpt")
    assert resumed.global_step == 5
    expected = trainable(whole)
    assert all(torch.equal(p, expected[name]) for name, p in trainable(second).items())
    assert any(not torch.equal(p, expected[name]) for name, p in trainable(first).items())


def test_validation_in_inference_mode_does_not_disturb_training(tmp_path: Path):
    """`validate` runs in `torch.inference_mode`; `fit` afterwards must work and be what it is without."""
    plain, validated = tiny_module(), tiny_module()
    trainer(tmp_path, 2).fit(plain, TinyData())
    trainer(tmp_path, 2, limit_val_batches=1).validate(validated, TinyData(), verbose=False)
    trainer(tmp_path, 2).fit(validated, TinyData())
    assert all(torch.equal(p, trainable(plain)[name]) for name, p in trainable(validated).items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_saving_the_transformer_merges_the_late_blocks(variant: str, tmp_path: Path):
    module = tiny_module(tiny_dit(variant, 1))
    randomise(module.dit.backbone, 9)
    module.save_pretrained(tmp_path / "model")
    back = pretrained_backbone(str(tmp_path / "model")).state_dict()
    assert all(torch.equal(value, back[key]) for key, value in module.dit.backbone.state_dict().items())


# --- generation --------------------------------------------------------------------------------------------------


class Outputs(L.Callback):
    """Keeps what the validation step hands to callbacks."""

    def __init__(self) -> None:
        self.outputs: list[Generation] = []

    def on_validation_batch_end(self, _trainer: Any, _module: Any, outputs: Any, *_: Any) -> None:
        self.outputs.append(outputs)


def test_validation_gives_the_generation_and_its_variants(tmp_path: Path):
    watch = Outputs()
    module = tiny_module(random_audio=True, variants=["w0", "off_sync"])
    run = trainer(tmp_path, 1, limit_val_batches=1, callbacks=[watch])
    run.validate(module, TinyData(), verbose=False)
    (generation,) = watch.outputs
    batch = clips(2, seed=77)
    assert list(generation.variants) == ["w0", "off_sync"]
    everything = [generation, *generation.variants.values()]
    for one in everything:
        assert one.video.shape == batch.video.shape and one.video.dtype == torch.float32
        assert one.fps == FPS and one.sample_rate == RATE and torch.equal(one.audio, batch.audio)
        assert float(one.video.min()) >= 0 and float(one.video.max()) <= 1
        image = module.codec.decode(module.codec.encode(batch.video[:, :1].float() / 127.5 - 1))
        torch.testing.assert_close(one.video[:, :1], (image / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)
    videos = [one.video for one in everything]
    assert all((a - b).abs()[:, 1:].max() > 1e-3 for i, a in enumerate(videos) for b in videos[:i])


def test_a_clip_is_generated_the_same_in_any_batch_and_for_any_global_seed():
    module = tiny_module(random_audio=True).eval()
    batch = clips(4)

    def part(index: list[int]) -> ClipBatch:
        return replace(
            batch,
            ids=[batch.ids[i] for i in index],
            video=batch.video[index],
            audio=batch.audio[index],
            captions=[batch.captions[i] for i in index],
            video_ids=[batch.video_ids[i] for i in index],
        )

    before = torch.random.get_rng_state()
    together = module.generate(part([0, 1, 2]))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(123)
    assert torch.equal(module.generate(part([0, 1, 2])), together)
    torch.testing.assert_close(module.generate(part([1])), together[1:2], atol=1e-3, rtol=0)
    torch.testing.assert_close(module.generate(part([2, 0])), together[[2, 0]], atol=1e-3, rtol=0)
    assert (tiny_module(module.dit, noise_seed=5).eval().generate(part([1])) - together[1:2]).abs().max() > 1e-2


def test_only_the_first_frame_of_the_video_is_read():
    module, batch = tiny_module(random_audio=True).eval(), clips(2)
    changed = batch.video.clone()
    changed[:, 1:] = 0
    assert torch.equal(module.generate(batch), module.generate(replace(batch, video=changed)))


def test_the_sound_decides_the_length_where_only_an_image_is_given():
    module, batch = tiny_module().eval(), clips(2, frames=9)
    for samples, frames in ((6000, 9), (5000, 7), (2000, 3)):  # 9, 7.5 and 3 frames of sound
        image = replace(batch, video=batch.video[:, :1], audio=batch.audio[:, :samples])
        assert module.generate(image).shape == (2, frames, 3, 16, 16)
    with pytest.raises(InputError, match=r"sound of clip0_0 lasts 0\.06 s"):
        module.generate(replace(batch, video=batch.video[:, :1], audio=batch.audio[:, :1000]))


def test_a_prompt_suffix_is_appended_and_the_negative_prompt_used():
    module = tiny_module(prompt_suffix=", sharp", negative_prompt="blurry").eval()
    prompts: list[list[str]] = []
    module.text_encoder.register_forward_pre_hook(lambda _m, args: prompts.append(list(args[0])))
    module.generate(clips(2))
    assert prompts == [["a ball, sharp", "a face, sharp"], ["blurry", "blurry"]]


def test_generation_is_seeded_by_the_clips_name():
    first, second = (torch.randn(4, generator=clip_generator(name, 0)) for name in ("a", "b"))
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.randn(4, generator=clip_generator("a", 0)))


def dit_for(codec: PixelCodec) -> SyncphonyDiT:
    return SyncphonyDiT(tiny_backbone("miniflux", codec.latent_channels, POOLED_DIM), 2, 8)


def test_a_latents_sound_follows_the_frame_rate_of_the_clips_and_the_codec():
    """Latent 1 of two frames lasts from 1/24 to 3/24 s at 24 fps, from 1/12 to 3/12 s at 12; of four, to 5/24 s."""
    for fps, factor, first, last in ((24.0, 2, 1 / 24, 3 / 24), (12.0, 2, 1 / 12, 3 / 12), (24.0, 4, 1 / 24, 5 / 24)):
        codec = PixelCodec(temporal_factor=factor)
        module = tiny_module(dit_for(codec), codec=codec)
        batch = replace(clips(4, frames=17), fps=fps, audio=torch.randn(4, 2 * RATE, generator=generator(0)))
        context = module.encode_conditions(batch).conditions.audio
        assert context is not None and module.audio_encoder is not None
        centers = module.audio_encoder(batch.audio, RATE).centers_s()
        expected = ((centers >= first - 1e-6) & (centers < last - 1e-6)).nonzero().flatten()
        windows = context.windows
        assert len(expected) >= 4 and torch.equal(windows.index[1][windows.audible[0, 1]], expected)
        assert step_loss(module, batch).isfinite()
    losses = [step_loss(tiny_module(random_audio=True), replace(clips(), fps=fps)) for fps in (24.0, 25.0)]
    assert not torch.equal(*losses)


def test_clips_differ_in_length_by_the_codecs_temporal_factor():
    assert tiny_module().frame_step == 2
    codec = PixelCodec(temporal_factor=4)
    assert tiny_module(dit_for(codec), codec=codec).frame_step == 4


# --- mistakes ----------------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown variant": ({"variants": ["w0", "w3"]}, r"\['w3'\]"),
    "sound without encoder": ({"audio_encoder": None}, "audio_dim and audio_encoder"),
    "encoder without sound": ({"dit": {"audio_dim": None}}, "audio_dim and audio_encoder"),
    "another audio width": ({"audio_encoder": LogMelEncoder(num_mels=5)}, "audio_dim is 8 but .* gives 10"),
    "another text width": ({"text_encoder": HashedWords(WORDS := 17)}, f"width {WORDS} .* takes 10 and 10"),
    "channels": ({"codec": PixelCodec(2, 4)}, "codec has 48 latent channels .* takes 12: .* in_channels to 192"),
    "late block": ({"dit": {"first_late_block": 6}}, "first_late_block is 6 but the backbone has 5 blocks"),
    "negative late block": ({"dit": {"first_late_block": -1}}, "first_late_block is -1"),
    "frozen precision": ({"dit": {"frozen_dtype": "float8"}}, "frozen_dtype is 'float8'"),
    "export precision": ({"export_dtype": "int8"}, "export_dtype is 'int8'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_misconfigurations_are_named(name: str):
    settings, message = MISTAKES[name]
    settings = dict(settings)
    with pytest.raises(InputError, match=message):
        tiny_module(tiny_dit(**settings.pop("dit", {})), **settings)


def test_channels_of_the_other_variant_are_counted_its_own_way():
    with pytest.raises(InputError, match="set the backbone's in_channels to 48"):
        tiny_module(tiny_dit("mmdit"), codec=PixelCodec(2, 4))


def test_clips_at_another_sample_rate_are_refused():
    with pytest.raises(InputError, match="16000 Hz but got audio at 8000 Hz"):
        step_loss(tiny_module(), replace(clips(), sample_rate=8000))


def test_sizes_that_cannot_be_divided_are_named():
    with pytest.raises(InputError, match=r"height 20 .* multiple of 16; .* to 16 or 32"):
        step_loss(tiny_module(), clips(size=20))


def test_a_length_that_is_no_whole_number_of_latents_is_named():
    with pytest.raises(InputError, match=r"clips of 6 frames .* set clip.num_frames to 5 or 7"):
        step_loss(tiny_module(), clips(frames=6))


def test_a_batch_that_cannot_be_dealt_to_the_columns_is_named():
    with pytest.raises(InputError, match=r"batch of 6 clips is not a multiple of 4 columns: .* batch_size"):
        step_loss(tiny_module(), clips(6))


def test_small_batches_cover_the_columns_together(tmp_path: Path):
    """One clip at a time and four accumulated: every step has each column once, at prefixes of one length."""
    drawn: list[tuple[list[int], list[int]]] = []
    module = tiny_module()
    build = module.pyramid.build

    def recorded(latents: Tensor, units: list[int], *given: Any) -> list[TrainingColumn]:
        columns = build(latents, units, *given)
        drawn.append((units, [column.stage for column in columns]))
        return columns

    module.pyramid.build = recorded  # type: ignore[method-assign]
    batches = [replace(clips(1, position=index, seed=index), captions=["a ball"]) for index in range(8)]
    loader = DataLoader(batches, batch_size=None)
    trainer(tmp_path, 2, accumulate_grad_batches=4).fit(module, loader)
    assert [stages for _, stages in drawn] == [[0], [1], [1], [2]] * 2
    units = [units for units, _ in drawn]
    assert units[:4] == [units[0]] * 4 and units[4:] == [units[4]] * 4 and units[0] != units[4]
    with pytest.raises(InputError, match=r"batch of 1 clips .* accumulate_grad_batches"):
        trainer(tmp_path, 1, accumulate_grad_batches=2).fit(module, loader)


def test_batches_of_three_share_a_length_with_those_that_cover_the_columns_with_them(tmp_path: Path):
    lengths: list[list[int]] = []
    module = tiny_module()
    build = module.pyramid.build

    def recorded(latents: Tensor, units: list[int], *given: Any) -> list[TrainingColumn]:
        lengths.append(units)
        return build(latents, units, *given)

    module.pyramid.build = recorded  # type: ignore[method-assign]
    batches = [replace(clips(3, position=3 * index, seed=index), captions=["a ball"] * 3) for index in range(8)]
    trainer(tmp_path, 2, accumulate_grad_batches=4).fit(module, DataLoader(batches, batch_size=None))
    assert lengths[:4] == [lengths[0]] * 4 and lengths[4:] == [lengths[4]] * 4 and lengths[0] != lengths[4]


def test_nothing_to_train_is_said():
    module = tiny_module(tiny_dit(first_late_block=5, audio_dim=None), audio_encoder=None)
    with pytest.raises(InputError, match="nothing to train"):
        module.configure_optimizers()


def test_sampler_and_training_must_mean_the_same_pyramid():
    with pytest.raises(InputError, match=r"pyramid has 3 stages .* sampler has 2 stages"):
        tiny_module(sampler=PyramidSampler(PyramidSchedule(2), video_steps=(1, 1), image_steps=(1, 1)))
    with pytest.raises(InputError, match=r"frames_per_unit 1 but .* frames_per_unit 2"):
        tiny_module(sampler=PyramidSampler(frames_per_unit=2))
