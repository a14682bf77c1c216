"""What trains, what attends to the sound, and that nothing else changes: the promises of Syncphony's transformer."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from components.backbones.pyramid_flow.column import Column
from components.backbones.syncphony.audio_cross_attention import AudioContext
from components.backbones.syncphony.audio_windows import AudioTimeline, latent_spans_s
from components.backbones.syncphony.listening import Listening
from components.backbones.syncphony.model import SyncphonyDiT
from components.contracts import AudioFeatures
from components.errors import InputError
from tests.tiny_syncphony import (
    AUDIO_DIM,
    FPS,
    NUM_BLOCKS,
    SPLITS,
    TEMPORAL_FACTOR,
    VARIANTS,
    BlockOutputs,
    audio_features,
    column_sounds,
    generator,
    latents,
    model_columns,
    text_features,
    tiny_backbone,
    tiny_dit,
    training_columns,
)

SECONDS = 49 / 24  # five latents take 33 / 24 s; the sound goes on behind them
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def inputs(dit: SyncphonyDiT, batch: int = 4) -> tuple[list[Column], list[AudioContext]]:
    """Columns at stages 0, 1, 1, 2 with history and padded text, and their sound."""
    training = training_columns(latents(batch))
    sounds = column_sounds(training, dit, audio_features(batch, SECONDS))
    return model_columns(training, text_features(batch)), sounds


def silent_columns(batch: int = 4) -> list[Column]:
    return model_columns(training_columns(latents(batch)), text_features(batch))


def all_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("variant", "first_late"), SPLITS)
@torch.no_grad()
def test_fresh_audio_layers_leave_the_backbone_bit_for_bit(variant: str, first_late: int):
    dit = tiny_dit(variant, first_late, random_audio=False)
    assert all_equal(dit(*inputs(dit)), tiny_backbone(variant)(silent_columns()))


@torch.no_grad()
def test_audio_layers_change_video_tokens_alone():
    dit = tiny_dit("miniflux", 0)
    columns, sounds = inputs(dit)
    states = [dit.backbone.embed(column) for column in columns]
    heard = [(sound, Listening.of(state.layout, sound.windows)) for state, sound in zip(states, sounds, strict=True)]
    given = [state.tokens.clone() for state in states]
    for before, after in zip(given, dit._add_audio(0, states, columns, heard), strict=True):
        m = after.layout.num_text
        assert m and torch.equal(after.tokens[:, :m], before[:, :m])
        assert (after.tokens[:, m:] - before[:, m:]).abs().amax(dim=-1).min() > 1e-3


@pytest.mark.parametrize(("variant", "first_late"), SPLITS)
@torch.no_grad()
def test_off_sync_is_the_backbone_bit_for_bit(variant: str, first_late: int):
    dit = tiny_dit(variant, first_late)
    plain = tiny_backbone(variant)(silent_columns())
    assert all_equal(dit(*inputs(dit), off_sync=True), plain)
    assert all_equal(dit(silent_columns(), off_sync=True), plain)
    in_sync = dit(*inputs(dit))
    if first_late == NUM_BLOCKS[variant]:
        assert all_equal(in_sync, plain)  # no late block, so there is no audio layer
    else:
        assert all((a - b).abs().max() > 1e-2 for a, b in zip(in_sync, plain, strict=True))


@pytest.mark.parametrize(("variant", "first_late"), SPLITS)
@torch.no_grad()
def test_without_audio_dim_it_is_the_backbone(variant: str, first_late: int):
    dit = SyncphonyDiT(tiny_backbone(variant), first_late, audio_dim=None)
    assert dit.audio_embedder is None and dit.audio_layers is None
    assert dit.encode_audio(audio_features(4, SECONDS), 5, FPS, TEMPORAL_FACTOR) is None
    assert all_equal(dit(silent_columns()), tiny_backbone(variant)(silent_columns()))


@pytest.mark.parametrize(("variant", "first_late"), SPLITS)
def test_gradients_reach_late_blocks_and_audio_layers_and_nothing_else(variant: str, first_late: int):
    dit = tiny_dit(variant, first_late)
    with BlockOutputs(dit.backbone) as states:
        out = dit(*inputs(dit))
    if first_late == NUM_BLOCKS[variant]:
        assert not any(p.requires_grad for p in dit.backbone.parameters())
        assert not any(x.requires_grad for x in out)
        return
    sum(x.square().mean() for x in out).backward()
    late = {id(p) for block in dit.backbone.blocks[first_late:] for p in block.parameters()}
    audio = {id(p) for part in (dit.audio_layers, dit.audio_embedder) if part is not None for p in part.parameters()}
    for name, p in dit.named_parameters():
        assert (p.grad is not None) == (id(p) in late | audio), name
        assert p.requires_grad == (id(p) in late | audio), name
        if id(p) in audio and not name.endswith("to_k.bias"):
            assert (p.grad != 0).any(), name
    for i, recorded in enumerate(states):
        assert len(recorded) == 4
        for state in recorded:
            assert (state.tokens.grad_fn is None) == (i < first_late)
            assert state.condition.grad_fn is None


def test_fresh_audio_layers_learn_from_the_first_step():
    """Their output projection is zero, but its gradient is not."""
    dit = tiny_dit(random_audio=False)
    sum(x.square().mean() for x in dit(*inputs(dit))).backward()
    assert dit.audio_layers is not None
    for layer in dit.audio_layers:
        assert (layer.to_out.weight.grad != 0).any() and (layer.to_out.bias.grad != 0).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_head_and_embedders_train_when_asked(variant: str):
    dit = tiny_dit(variant, 1, train_head=True)
    head = {
        f"backbone.{part}.{n}"
        for part in ("norm_out", "proj_out")
        for n, _ in dit.backbone.get_submodule(part).named_parameters()
    }
    assert head
    frozen = {n for n, p in dit.named_parameters() if not p.requires_grad}
    assert not frozen & head and any("embedder" in n for n in frozen)

    dit = tiny_dit(variant, 0, train_embedders=True, train_head=True)
    assert all(p.requires_grad for p in dit.parameters())
    sum(x.square().mean() for x in dit(*inputs(dit))).backward()
    assert all(p.grad is not None for p in dit.parameters())


def test_frozen_parts_in_bfloat16_save_memory_and_stay_close():
    exact, half = tiny_dit(first_late_block=3), tiny_dit(first_late_block=3, frozen_dtype="bfloat16")
    trainable = {n for n, p in exact.named_parameters() if p.requires_grad}
    for name, p in half.named_parameters():
        keeps = name in trainable or name.startswith(("backbone.norm_out", "backbone.proj_out"))
        assert p.dtype == (torch.float32 if keeps else torch.bfloat16), name
    outs = half(*inputs(half))
    for mine, wanted in zip(outs, exact(*inputs(exact)), strict=True):
        assert mine.dtype == torch.float32
        assert (mine - wanted).norm() < 0.05 * wanted.norm()
    sum(x.square().mean() for x in outs).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in half.parameters() if p.requires_grad)


@pytest.mark.parametrize("frozen_dtype", ["float32", "bfloat16"])
def test_autocast_runs_it_in_bfloat16(frozen_dtype: str):
    exact, dit = tiny_dit(), tiny_dit(frozen_dtype=frozen_dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outs = dit(*inputs(dit))
        sum(x.float().square().mean() for x in outs).backward()
    for mine, wanted in zip(outs, exact(*inputs(exact)), strict=True):
        assert (mine - wanted).norm() < 0.1 * wanted.norm()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in dit.parameters() if p.requires_grad)


# --- which sound reaches which frame, through the whole model -----------------------------------------------------


def one_clip(dit: SyncphonyDiT, audio: AudioFeatures) -> tuple[list[Column], list[AudioContext]]:
    """Five latent frames as one clip at one resolution: frame l has the tokens ``3 + 8 l .. 3 + 8 l + 7``."""
    clip = latents(2, 5, size=(4, 8))
    context = dit.encode_audio(audio, 5, FPS, TEMPORAL_FACTOR)
    assert context is not None
    return [Column([clip], torch.tensor([400.0, 20.0]), text_features(2))], [context]


def with_other_sound(audio: AudioFeatures, token: int) -> AudioFeatures:
    tokens = audio.tokens.clone()
    tokens[:, token] = torch.randn(AUDIO_DIM, generator=generator(token))
    return replace(audio, tokens=tokens)


def after_every_block(dit: SyncphonyDiT, audio: AudioFeatures) -> list[Tensor]:
    with BlockOutputs(dit.backbone) as states, torch.no_grad():
        dit(*one_clip(dit, audio))
    return [recorded[0].tokens for recorded in states]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("token", "latent"), [(0, 0), (2, 1), (18, 1), (19, 2), (34, 2), (35, 3), (68, 4), (69, None)])
def test_a_sound_changes_its_own_frame_and_later_ones_only(variant: str, token: int, latent: int | None):
    """Latent l attends to its own span (look-ahead 0); frames before it and text stay bit-identical in every block."""
    dit = tiny_dit(variant, 1)
    audio = audio_features(2, SECONDS)
    before, after = after_every_block(dit, audio), after_every_block(dit, with_other_sound(audio, token))
    assert torch.equal(before[0], after[0])  # the early block has no audio layer
    for a, b in zip(before[1:], after[1:], strict=True):
        if latent is None:
            assert torch.equal(a, b)
        else:
            first = 3 + 8 * latent
            assert torch.equal(a[:, 3:first], b[:, 3:first])
            assert (a[:, first : first + 8] - b[:, first : first + 8]).abs().amax() > 1e-4
    if latent is not None and latent > 0:
        assert torch.equal(before[-1][:, :3], after[-1][:, :3])  # text attends to frame 0 only
    if latent is not None and latent < 4:
        assert not torch.equal(before[-1][:, -8:], after[-1][:, -8:])  # through self-attention


@pytest.mark.parametrize(("back", "ahead"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1), (0.06, 0.03)])
def test_reach_is_respected_to_the_token(back: float, ahead: float):
    """With one late block only, a frame changes iff the token lies in its window: no way through other frames."""
    dit = tiny_dit("miniflux", 4, timeline=AudioTimeline(look_back_s=back, look_ahead_s=ahead))
    spans = latent_spans_s(5, FPS, TEMPORAL_FACTOR).tolist()
    base = audio_features(2, SECONDS)
    layer = dit.audio_layers[0]

    def change_by_sound(audio: AudioFeatures) -> Tensor:
        recorded: list[Tensor] = []
        hook = layer.register_forward_hook(lambda _m, _i, changes: recorded.extend(changes))
        with torch.no_grad():
            dit(*one_clip(dit, audio))
        hook.remove()
        return recorded[0]

    before = change_by_sound(base)
    for token in (0, 1, 2, 3, 13, 14, 17, 18, 19, 20, 34, 35, 39, 40):
        after = change_by_sound(with_other_sound(base, token))
        for latent, (start, end) in enumerate(spans):
            audible = start - back <= (token + 0.5) / 50 < end + ahead
            place = slice(8 * latent, 8 * latent + 8)
            moved = (before[:, place] - after[:, place]).abs()
            assert (moved.amax() > 1e-3) if audible else (moved == 0).all(), (token, latent)


def test_the_noisy_frame_never_changes_history():
    dit = tiny_dit("miniflux", 2)
    for column, sound in zip(*inputs(dit), strict=True):
        shape = column.clips[-1].shape
        noisy = [*column.clips[:-1], torch.randn(shape, generator=generator(9))]
        recorded = []
        for clips in (column.clips, noisy):
            with BlockOutputs(dit.backbone) as states, torch.no_grad():
                dit([replace(column, clips=clips)], [sound])
            recorded.append([state[0] for state in states])
        for a, b in zip(*recorded, strict=True):
            current = a.layout.num_current
            assert torch.equal(a.tokens[:, :-current], b.tokens[:, :-current])
            assert not torch.equal(a.tokens[:, -current:], b.tokens[:, -current:])


# --- twins -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "first_late"), SPLITS)
@torch.no_grad()
def test_twins_share_the_prefix_and_equal_separate_calls(variant: str, first_late: int):
    dit = tiny_dit(variant, first_late)
    ours = inputs(dit, batch=12)
    twins = torch.tensor([2, 0])
    with BlockOutputs(dit.backbone) as states:
        outs = dit(*ours, off_sync_twins=twins)
    for i, recorded in enumerate(states):
        assert [state.tokens.shape[0] for state in recorded] == [3 if i < first_late else 5] * 4
    in_sync, off_sync = dit(*ours), dit(*ours, off_sync=True)
    for out, on, off in zip(outs, in_sync, off_sync, strict=True):
        torch.testing.assert_close(out[:3], on, **CLOSE)
        torch.testing.assert_close(out[3:], off[twins], **CLOSE)


@pytest.mark.parametrize("variant", ["miniflux", "mmdit"])
@pytest.mark.parametrize("first_late", [0, 2])
def test_without_gradients_tokens_are_changed_in_place_and_come_out_the_same(variant: str, first_late: int):
    dit = tiny_dit(variant, first_late)
    columns, sounds = inputs(dit, batch=12)
    clips = [[clip.clone() for clip in column.clips] for column in columns]
    for twins in (None, torch.tensor([2, 0])):
        expected = dit(columns, sounds, off_sync_twins=twins)
        for _ in range(2):  # nothing that was given has changed
            with torch.no_grad():
                found = dit(columns, sounds, off_sync_twins=twins)
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    for column, before in zip(columns, clips, strict=True):
        assert all(torch.equal(clip, was) for clip, was in zip(column.clips, before, strict=True))


def test_a_step_changes_trainable_parameters_and_leaves_the_rest_bit_for_bit():
    dit = tiny_dit("mmdit", 1)
    before = {name: p.detach().clone() for name, p in dit.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in dit.parameters() if p.requires_grad], lr=1e-3)
    sum(x.square().mean() for x in dit(*inputs(dit))).backward()
    optimizer.step()
    for name, p in dit.named_parameters():
        assert torch.equal(p, before[name]) is not p.requires_grad, name


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first_late", [-1, 6, 100])
def test_first_late_block_out_of_range(first_late: int):
    with pytest.raises(InputError, match=rf"first_late_block is {first_late} but the backbone has 5 blocks"):
        SyncphonyDiT(tiny_backbone("miniflux"), first_late, AUDIO_DIM)


def test_unknown_frozen_dtype():
    with pytest.raises(InputError, match="frozen_dtype is 'float16'"):
        SyncphonyDiT(tiny_backbone("miniflux"), 2, AUDIO_DIM, frozen_dtype="float16")


def test_a_model_with_audio_layers_needs_sound():
    dit = tiny_dit()
    with pytest.raises(ValueError, match="only run off-sync"):
        dit(silent_columns())


@pytest.mark.parametrize("variant", VARIANTS)
def test_rounding_of_timesteps_is_a_switch(variant: str):
    clips = latents(4)
    columns = model_columns(training_columns(clips), text_features(4))
    exact = [replace(column, timesteps=torch.full_like(column.timesteps, 641.3)) for column in columns]
    rounded = [replace(column, timesteps=torch.full_like(column.timesteps, 640.0)) for column in columns]
    plain, switched = (tiny_dit(variant, bfloat16_timesteps=switch).eval() for switch in (False, True))
    with torch.no_grad():
        for wanted, got in zip(plain(rounded, off_sync=True), switched(exact, off_sync=True), strict=True):
            assert torch.equal(wanted, got)
        assert not torch.equal(plain(exact, off_sync=True)[0], plain(rounded, off_sync=True)[0])
