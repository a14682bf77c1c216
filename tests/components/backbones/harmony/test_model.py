"""What the dual tower promises: towers as they were, tasks as rows, a reference that pads and drops without trace."""

import copy

import pytest
import torch
from torch.testing import assert_close

from components.backbones.harmony.audio_tower import ConvStem
from components.backbones.harmony.frame_band import BandConfig
from components.backbones.harmony.layer import HarmonyLayer
from components.backbones.harmony.model import HarmonyTransformer
from components.backbones.wan.model import StreamInputs, rotary_grid, run_block, video_rope, wan_text
from components.backbones.wan.normed_heads import RotaryTable
from components.contracts import TextFeatures
from components.errors import InputError
from components.media.clock import LatentClock
from tests.tiny_harmony import (
    AUDIO_CHANNELS,
    CHANNELS,
    CLOCK,
    NUM_AUDIO,
    NUM_REFERENCE,
    NUM_VIDEO,
    audio_tower,
    inputs,
    rows_of,
    text,
    tiny_harmony,
    tiny_interaction,
    video_tower,
)
from tests.tiny_syncphony import randomise

CPU = torch.device("cpu")
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
OUT = ("v_v", "v_a")


def stock(tower):
    """diffusers' own model with the weights of ``tower`` (linear stem)."""
    from diffusers import WanTransformer3DModel

    config = {key: value for key, value in tower.config.items() if key not in ("text_len", "stem", "channels")}
    channels = tower.proj_out.out_features // (tower.patch_size[1] * tower.patch_size[2])
    config.update(in_channels=channels, out_channels=channels, patch_size=tower.patch_size)
    config.pop("transcript_dim", None), config.pop("rope_scale", None)
    model = WanTransformer3DModel(**config, rope_max_seq_len=64)
    own = {"null_reference", "reference_segment", "transcript_type"}
    weights = {k: v for k, v in tower.state_dict().items() if k not in own and "transcript" not in k}
    model.load_state_dict(weights, strict=True)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_per_frame_is_the_stock_block_per_token(dtype):
    torch.manual_seed(0)
    tower = video_tower().to(dtype)
    grid, rope = (4, 3, 5), video_rope((4, 3, 5), 24, CPU)
    hidden = torch.randn(2, 60, 48, dtype=dtype).requires_grad_()
    context, modulation = torch.randn(2, 7, 48, dtype=dtype), torch.randn(2, 4, 6, 48, dtype=dtype)
    mine = run_block(tower.blocks[0], hidden, StreamInputs(context, modulation, modulation[:, 0, 0], rope))
    per_token = modulation.repeat_interleave(grid[1] * grid[2], dim=1)
    golden = tower.blocks[0](hidden, context, per_token, (rope.cos, rope.sin))
    assert torch.equal(mine, golden)
    weight = torch.randn_like(mine)
    gradients = [torch.autograd.grad((out * weight).sum(), hidden, retain_graph=True)[0] for out in (mine, golden)]
    assert_close(*gradients)


def test_positions_are_the_stock_ones():
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    cos, sin = WanRotaryPosEmbed(24, (1, 2, 2), 64)(torch.empty(1, 8, 5, 6, 8))
    table = video_rope((5, 3, 4), 24, CPU)
    assert torch.equal(table.cos, cos)
    assert torch.equal(table.sin, sin)


def test_each_tower_alone_is_the_stock_model():
    given = inputs(reference=False, transcript=False)
    video, audio = video_tower(), audio_tower(rope_scale=1.0, transcript_dim=None)
    stock_video, stock_audio = stock(video), stock(audio)
    model = HarmonyTransformer(video, audio)
    frames = given["t_v"][:, None].repeat(1, NUM_VIDEO)
    frames[1, 0] = 0
    with torch.no_grad():
        v_v, nothing = model(**given, first_frame=torch.tensor([False, True]), active=["video"])
        assert nothing is None
        tokens = frames.repeat_interleave(6, dim=1)
        assert_close(v_v, stock_video(given["z_v"], tokens, wan_text(given["text_v"], 8)).sample, atol=2e-6, rtol=1e-5)
        nothing, v_a = model(**given, active=["audio"])
        assert nothing is None
        golden = stock_audio(given["z_a"][..., None, None], given["t_a"], wan_text(given["text_a"], 8)).sample
        assert_close(v_a, golden.flatten(2), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("gate", ["none", "both"])
@pytest.mark.parametrize("style_kv", ["shared", "own"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_interaction_leaves_the_towers_bit_for_bit(style_kv, gate, dtype):
    model = tiny_harmony(tiny_interaction(style_kv=style_kv, gate=gate)).to(dtype)
    given = inputs()
    with torch.no_grad():
        joint = model(**given)
        alone = model(**given, active=["video"])[0], model(**given, active=["audio"])[1]
    for together, by_itself in zip(joint, alone, strict=True):
        assert torch.equal(together, by_itself)


def test_a_trained_interaction_couples_both_ways():
    model, given = tiny_harmony(trained=True), inputs()
    with torch.no_grad():
        joint = model(**given)
        for i, modality in enumerate(("video", "audio")):
            assert not torch.allclose(joint[i], model(**given, active=[modality])[i], atol=1e-3)


def test_shapes_and_missing_parts():
    model, given = tiny_harmony(), inputs(3)
    v_v, v_a = model(**given)
    assert v_v.shape == given["z_v"].shape
    assert v_a.shape == given["z_a"].shape
    with pytest.raises(ValueError, match="audio is active but lacks timesteps"):
        model(**{**given, "t_a": None})
    with pytest.raises(ValueError, match="audio is active but lacks a clock"):
        model(**{**given, "clock": None})
    with pytest.raises(ValueError, match="video is active but lacks its tower"):
        HarmonyTransformer(audio=audio_tower())(**given)
    with pytest.raises(ValueError, match="5x6 cannot be cut into 2x2"):
        model(**{**given, "z_v": torch.randn(3, CHANNELS, NUM_VIDEO, 5, 6)})
    with pytest.raises(InputError, match="3 layers and the audio tower 2"):
        HarmonyTransformer(video_tower(), audio_tower(num_layers=2))
    with pytest.raises(InputError, match="neither"):
        HarmonyTransformer()
    with pytest.raises(InputError, match="attention_backend is 'nonsense'"):
        tiny_harmony(attention_backend="nonsense")
    with pytest.raises(InputError, match=r"attention_backend is 'xformers': .*install"):
        tiny_harmony(attention_backend="xformers")
    with pytest.raises(ValueError, match="timesteps are per frame"):
        video_tower(patch_size=(2, 2, 2))
    with pytest.raises(ValueError, match="takes no transcript"):
        HarmonyTransformer(audio=audio_tower(transcript_dim=None))(**given, active=["audio"])


def test_the_three_tasks_are_rows_of_one_forward():
    """Joint, audio-driven and video-driven rows with their own pairs of timesteps."""
    model, given = tiny_harmony(trained=True), inputs(3)
    given["t_v"], given["t_a"] = torch.tensor([600.0, 600.0, 0.0]), torch.tensor([600.0, 0.0, 600.0])
    given["first_frame"] = torch.tensor([True, False, False])
    with torch.no_grad():
        batched = model(**given)
        for row in range(3):
            single = model(**rows_of(given, [row]))
            for together, alone in zip(batched, single, strict=True):
                assert_close(together[row : row + 1], alone, atol=5e-6, rtol=1e-5)


def test_a_given_first_frame_counts_as_clean_and_every_latent_may_have_its_own_timestep():
    model, given = tiny_harmony(trained=True), inputs()
    frames = given["t_v"][:, None].repeat(1, NUM_VIDEO)
    frames[:, 0] = torch.tensor([0.0, frames[1, 0]])
    with torch.no_grad():
        flagged = model(**given, first_frame=torch.tensor([True, False]))
        spelled_out = model(**{**given, "t_v": frames})
        plain = model(**given)
    for a, b in zip(flagged, spelled_out, strict=True):
        assert torch.equal(a, b)
    assert not torch.allclose(flagged[0][0], plain[0][0])
    assert_close(flagged[0][1], plain[0][1], atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("half_window", [0.0, 1.0])
def test_one_layer_carries_nothing_beyond_the_window(half_window):
    """With self-attention out of the way, a changed token reaches the other stream inside its window only."""
    torch.manual_seed(1)
    config = tiny_interaction(band=BandConfig(half_window), style=False)
    model = tiny_harmony(config, trained=True)
    coupling = model._coupling(*streams_of(model, inputs(1)), CLOCK)
    relation = CLOCK.relation(NUM_VIDEO, NUM_AUDIO, half_window, "linear")
    interaction = model.layers[0].interaction
    video, audio = torch.randn(1, NUM_VIDEO * 6, 48), torch.randn(1, NUM_REFERENCE + NUM_AUDIO, 24)
    noise = torch.randn(1, 48), torch.randn(1, 24)
    with torch.no_grad():
        before = interaction(video, audio, noise, coupling)
        for token in range(NUM_AUDIO):
            changed = audio.clone()
            changed[:, NUM_REFERENCE + token] += torch.randn(24)
            moved = (interaction(video, changed, noise, coupling)[0] != before[0]).any(-1).unflatten(1, (NUM_VIDEO, 6))
            assert torch.equal(moved, relation[None, :, token, None].expand_as(moved))
        for latent in range(NUM_VIDEO):
            changed = video.clone()
            changed[:, 6 * latent + 2] += torch.randn(48)
            moved = (interaction(changed, audio, noise, coupling)[1] != before[1]).any(-1)
            assert not moved[:, :NUM_REFERENCE].any()
            assert torch.equal(moved[0, NUM_REFERENCE:], relation[latent])
        changed = audio.clone()
        changed[:, :NUM_REFERENCE] += 1.0
        assert torch.equal(interaction(video, changed, noise, coupling)[0], before[0]), (
            "video never hears the reference"
        )


def streams_of(model, given):
    video = model._video_stream(given["z_v"], given["t_v"], None, given["text_v"])[1]
    arguments = (given["z_a"], given["z_r"], given["t_a"], given["text_a"], given["transcript"], given["ref_len"])
    return video, model._audio_stream(*arguments, CLOCK, NUM_VIDEO)[1]


def test_style_changes_the_reference_alone_and_is_absent_in_the_last_layer():
    model = tiny_harmony(trained=True)
    assert [layer.interaction.style is not None for layer in model.layers] == [True, True, False]
    coupling = model._coupling(*streams_of(model, inputs(1)), CLOCK)
    video, audio = torch.randn(1, NUM_VIDEO * 6, 48), torch.randn(1, NUM_REFERENCE + NUM_AUDIO, 24)
    noise = torch.randn(1, 48), torch.randn(1, 24)
    interaction = model.layers[0].interaction
    with torch.no_grad():
        with_style = interaction(video, audio, noise, coupling)
        interaction.style = None
        without = interaction(video, audio, noise, coupling)
    assert torch.equal(with_style[0], without[0])
    assert torch.equal(with_style[1][:, NUM_REFERENCE:], without[1][:, NUM_REFERENCE:])
    assert torch.equal(without[1][:, :NUM_REFERENCE], audio[:, :NUM_REFERENCE])
    assert not (with_style[1] == audio)[:, :NUM_REFERENCE].all(-1).any()


@pytest.mark.parametrize("stem", ["linear", "conv"])
def test_padding_of_reference_and_transcript_leaves_no_trace(stem):
    model, given = tiny_harmony(trained=True, stem=stem), inputs(3)
    padded = dict(given)
    padded["z_r"] = torch.cat([given["z_r"], torch.full((3, AUDIO_CHANNELS, 4), 7.0)], dim=2)
    for i, length in enumerate(given["ref_len"]):
        padded["z_r"][i, :, length:] = 9.0
    words = given["transcript"]
    padded["transcript"] = TextFeatures(
        torch.cat([words.tokens, torch.full((3, 5, words.tokens.shape[2]), 3.0)], dim=1),
        torch.cat([words.mask, torch.zeros(3, 5, dtype=torch.bool)], dim=1),
    )
    with torch.no_grad():
        for one, other in zip(model(**given), model(**padded), strict=True):
            assert_close(one, other, **CLOSE)
        cut = dict(rows_of(given, [1]))
        cut["z_r"] = cut["z_r"][:, :, : cut.pop("ref_len").item()]
        mask = cut["transcript"].mask[0]
        cut["transcript"] = TextFeatures(cut["transcript"].tokens[:, mask], cut["transcript"].mask[:, mask])
        for one, other in zip(model(**given), model(**cut), strict=True):
            assert_close(one[1:2], other, **CLOSE)


def test_a_dropped_reference_shows_the_null_token_alone():
    model, given = tiny_harmony(trained=True), inputs(2)
    given["ref_len"] = torch.tensor([0, 4])
    loud = {**given, "z_r": given["z_r"].clone()}
    loud["z_r"][0] = 50.0
    with torch.no_grad():
        here, there = model(**given), model(**loud)
        nobody = rows_of(given, [0])
        del nobody["z_r"]
        unheard = model(**nobody)
        without = model(**{key: value for key, value in nobody.items() if key != "ref_len"})
        model.audio.null_reference.add_(torch.randn(24))
        renamed = model(**given)
    for i in range(2):
        assert torch.equal(here[i], there[i]), "what was dropped is not heard"
        assert_close(here[i][:1], unheard[i], **CLOSE)
        assert not torch.allclose(unheard[i], without[i], atol=1e-3), "no segment is not the null token"
        assert not torch.allclose(here[i][:1], renamed[i][:1], atol=1e-3)
        assert_close(here[i][1:], renamed[i][1:], **CLOSE)


def test_scene_padding_is_zeroed_and_attended_as_in_wan():
    model, given = tiny_harmony(trained=True), inputs()
    messy = {**given, "text_v": TextFeatures(given["text_v"].tokens.clone(), given["text_v"].mask)}
    messy["text_v"].tokens[~given["text_v"].mask] = 5.0
    longer = text(2)
    longer = TextFeatures(torch.cat([longer.tokens, longer.tokens], 1), torch.cat([longer.mask, ~longer.mask], 1))
    with torch.no_grad():
        assert torch.equal(model(**given)[0], model(**messy)[0])
        with pytest.raises(InputError, match="a prompt has 12 tokens but text_len of the tower is 8: shorten"):
            model(**{**given, "text_v": longer})
    assert wan_text(given["text_v"], 8).shape == (2, 8, 16)
    assert not wan_text(given["text_v"], 8)[0, 3:].any()


def test_padding_of_texts_leaves_no_trace_where_no_length_is_given():
    """A clip's prompts do not feel those of its batch; the released model's padding to a length is attended to."""
    torch.manual_seed(0)
    model = HarmonyTransformer(video_tower(text_len=None), audio_tower(text_len=None), tiny_interaction())
    randomise(model, seed=5)
    for transcript in (True, False):
        given = inputs(transcript=transcript)
        alone = rows_of(given, [0])
        for name in ("text_v", "text_a"):
            assert given[name].mask[0].sum() < given[name].mask.shape[1]
            kept = int(given[name].mask[0].sum())
            alone[name] = TextFeatures(alone[name].tokens[:, :kept], alone[name].mask[:, :kept])
        for one, all_rows in zip(model(**alone), model(**given), strict=True):
            torch.testing.assert_close(one, all_rows[:1])


def test_audio_positions_follow_the_video_unless_told_otherwise():
    """Both spellings of T_v / T_a agree, with the video tower active or not; the reference stands before zero."""
    tower, scale = audio_tower(), NUM_VIDEO / NUM_AUDIO
    table = tower.rope(NUM_REFERENCE, NUM_AUDIO, NUM_VIDEO, CPU)
    time = torch.arange(-NUM_REFERENCE, NUM_AUDIO, dtype=torch.float64) * scale
    nowhere = torch.zeros(1, dtype=torch.float64)
    golden = rotary_grid([time, nowhere, nowhere], 12, CPU)
    assert torch.equal(table.cos, golden.cos)
    assert torch.equal(table.sin, golden.sin)
    assert table.sin[0, 0, 0, 0] < 0
    assert CLOCK.num_video_latents(NUM_AUDIO) == NUM_VIDEO
    fixed = audio_tower(rope_scale=0.19676).rope(0, 157, 31, CPU)
    assert fixed.cos[0, 10, 0, 0].item() == pytest.approx(torch.cos(torch.tensor(1.9676)).item(), abs=1e-6)


def test_rates_matter_to_the_causal_map_and_to_sounds_alone():
    """The linear map counts latents and tokens; a sound alone stands on the clock of the video it would have."""
    given, faster = inputs(), LatentClock(48.0, 4, 31.25)
    for time_map, matters in (("linear", False), ("causal", True)):
        model = tiny_harmony(trained=True, time_map=time_map)
        with torch.no_grad():
            one, other = model(**given), model(**{**given, "clock": faster})
            assert torch.equal(one[0], other[0]) != matters
            alone, other = (model(**{**given, "clock": c}, active=["audio"])[1] for c in (CLOCK, faster))
        assert not torch.equal(alone, other)


def test_gradients_reach_what_trains():
    model, given = tiny_harmony(trained=True), inputs()
    given["ref_len"] = torch.tensor([NUM_REFERENCE, 0])
    v_v, v_a = model(**given)
    (v_v.square().mean() + v_a.square().mean()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_fresh_interaction_trains_first_where_it_was_zero():
    model = tiny_harmony()
    sum(v.square().mean() for v in model(**inputs())).backward()
    for layer in model.layers:
        assert layer.interaction.video_from_audio.to_out.weight.grad.any()
        assert layer.interaction.audio_from_video.to_out.weight.grad.any()
        if layer.interaction.style is not None:
            assert layer.interaction.style.to_out.weight.grad.any()


@pytest.mark.parametrize("driver", ["video", "audio"])
def test_a_driver_can_be_isolated_and_detached(driver):
    """Row 0 is driven by one side, row 1 is joint."""
    given, other = inputs(), "z_a" if driver == "video" else "z_v"
    given["t_v" if driver == "video" else "t_a"][0] = 0.0
    side = 0 if driver == "video" else 1

    def change(model):
        louder = {**given, other: given[other] + torch.randn_like(given[other])}
        with torch.no_grad():
            return (model(**given)[side] != model(**louder)[side]).flatten(1).any(1).tolist()

    assert change(tiny_harmony(trained=True)) == [True, True]
    assert change(tiny_harmony(tiny_interaction(driver_isolated=True), trained=True)) == [False, True]

    clean = "z_v" if driver == "video" else "z_a"
    latents = given[clean].clone().requires_grad_()
    model = tiny_harmony(tiny_interaction(driver_isolated=True, detach_driver=True, style=False), trained=True)
    model(**{**given, clean: latents})[1 - side].sum().backward()
    assert latents.grad.flatten(1).any(1).tolist() == [False, True]


def test_towers_may_differ_in_precision():
    """A frozen video tower in bfloat16 beside an audio tower and an interaction that train in float32."""
    model, exact, given = tiny_harmony(trained=True), tiny_harmony(trained=True), inputs()
    model.video.to(torch.bfloat16)
    for layer in model.layers:
        layer.video_block.to(torch.bfloat16)
    v_v, v_a = model(**given)
    assert (v_v.dtype, v_a.dtype) == (torch.bfloat16, torch.float32)
    for mine, golden in zip((v_v, v_a), exact(**given), strict=True):
        assert (mine.float() - golden).norm() < 0.1 * golden.norm()
    v_a.square().mean().backward()
    assert model.layers[0].interaction.style.to_q.weight.grad.dtype == torch.float32


def test_activation_checkpointing_changes_nothing():
    given, gradients = inputs(), []
    for again in (False, True):
        model = tiny_harmony(trained=True, checkpoint_activations=again)
        sum(v.square().mean() for v in model(**given)).backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_tables_first_made_in_inference_mode_serve_training():
    model, given = tiny_harmony(), inputs()
    odd = {**given, "z_v": torch.randn(2, CHANNELS, NUM_VIDEO, 6, 10)}  # a shape no other test has
    with torch.inference_mode():
        model(**odd)
    sum(v.square().mean() for v in model(**odd)).backward()
    assert model.layers[0].video_block.attn1.to_q.weight.grad.any()


def test_a_layer_compiles_as_one_graph():
    model, given = tiny_harmony(trained=True), inputs()
    with torch.no_grad():
        eager = model(**given)
        model.layers[0].compile(fullgraph=True, backend="aot_eager")
        for one, other in zip(model(**given), eager, strict=True):
            assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_the_meta_device_builds_shapes_only():
    with torch.device("meta"):
        model = tiny_harmony()
    assert all(p.is_meta for p in model.parameters())
    assert not list(model.buffers()), "nothing that to_empty would leave undefined"
    assert model.state_dict().keys() == tiny_harmony().state_dict().keys()


def test_full_size_parameters():
    """Public TI2V-5B, its mirror for audio, and the interaction in the sizes of the reference design."""
    from components.backbones.harmony.audio_tower import AudioTower
    from components.backbones.harmony.interaction import DecoupledInteraction, InteractionConfig
    from components.backbones.wan.model import WanTower

    def millions(module):
        return sum(p.numel() for p in module.parameters()) / 1e6

    with torch.device("meta"):
        assert sum(p.numel() for p in WanTower().parameters()) == 4_999_787_712
        conv = AudioTower(stem="conv", transcript_dim=None)
        assert millions(conv.patch_embedding) == pytest.approx(528.9, abs=0.1)
        assert millions(conv) == pytest.approx(5527.6, abs=0.1)
        ours = {"gate": "source", "style_kv": "shared"}
        sizes = ((1024, 8, {}, 1.12), (3072, 24, {}, 3.37), (1024, 8, ours, 0.94), (3072, 24, ours, 2.82))
        for width, heads, manner, billions in sizes:
            config = InteractionConfig(width, heads, **manner)
            layers = [DecoupledInteraction(3072, 3072, config, i == 29) for i in range(30)]
            assert sum(map(millions, layers)) / 1000 == pytest.approx(billions, abs=0.01)


def test_the_interaction_costs_a_sixteenth_of_the_video_tower():
    """Counted at 704 x 1280 x 121 with a reference of 5 s, on two layers of full width."""
    from torch.utils.flop_counter import FlopCounterMode

    from components.backbones.harmony.audio_tower import AudioTower
    from components.backbones.harmony.interaction import InteractionConfig
    from components.backbones.wan.model import WanTower

    teraflops = {}
    with torch.device("meta"), torch.no_grad():
        model = HarmonyTransformer(WanTower(2), AudioTower(num_layers=2), InteractionConfig())
        words = TextFeatures(torch.empty(1, 512, 4096), torch.ones(1, 512, dtype=torch.bool))
        sound, time = torch.empty(1, 20, 157), torch.empty(1)
        video = torch.empty(1, 48, 31, 44, 80)
        for active in (("video",), ("audio",), ("video", "audio")):
            with FlopCounterMode(display=False) as counter:
                model(video, sound, sound, t_v=time, t_a=time, text_v=words, text_a=words, clock=CLOCK, active=active)
            teraflops[active] = counter.get_total_flops() / 1e12
    assert teraflops[("video",)] == pytest.approx(2 * 17.23, rel=0.01)
    interaction = teraflops[("video", "audio")] - teraflops[("video",)] - teraflops[("audio",)]
    assert 0.05 < interaction / teraflops[("video",)] < 0.065  # 1 of 2 layers has a style alignment, in full 29 of 30


def test_yaml_reaches_every_part():
    """Towers by class or by loader, the interaction's settings, the map of times."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(HarmonyTransformer, "model")
    size = "num_layers: 1, num_attention_heads: 1, attention_head_dim: 12, ffn_dim: 8, text_dim: 4, freq_dim: 8"
    yaml = f"""
model:
  class_path: components.backbones.harmony.HarmonyTransformer
  init_args:
    video:
      class_path: components.backbones.wan.WanTower
      init_args: {{{size}, in_channels: 2, out_channels: 2}}
    audio:
      class_path: components.backbones.harmony.AudioTower
      init_args: {{{size}, channels: 3, stem: conv, transcript_dim: null}}
    interaction: {{width: 12, num_heads: 1, style_kv: own, band: {{half_window: null, kernel: gather}}}}
    time_map: causal
"""
    model = parser.instantiate_classes(parser.parse_string(yaml)).model
    assert model.interaction_config == tiny_interaction(width=12, style_kv="own", band=BandConfig(None, "gather"))
    assert model.time_map == "causal"
    assert isinstance(model.audio.patch_embedding, ConvStem)

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(HarmonyTransformer, "model")
    loader = "components.backbones.wan.wan_tower"
    with torch.device("meta"):
        video = f"--model.video={loader}", "--model.video.folder=Wan-AI/Wan2.2-TI2V-5B", "--model.video.text_len=8"
        arguments = parser.parse_args(["--model=components.backbones.harmony.HarmonyTransformer", *video])
        model = parser.instantiate_classes(arguments).model
    assert model.video.text_len == 8
    assert len(model.layers) == 30


def test_layers_hold_the_blocks_and_nothing_is_registered_twice():
    model = tiny_harmony()
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(names)) == len(model.state_dict())
    assert all(isinstance(layer, HarmonyLayer) for layer in model.layers)
    assert not model.video.blocks
    assert not model.audio.blocks


def test_a_gated_conv_stem_sees_neighbours_and_stops_at_the_end_of_the_sound():
    torch.manual_seed(0)
    stem = ConvStem(6, 24)
    latents = torch.randn(1, 6, 30)
    changed = latents.clone()
    changed[:, :, 15] += 1.0
    moved = (stem(changed) != stem(latents)).any(1)[0].nonzero().flatten()
    assert moved.tolist() == list(range(6, 25)), "three convolutions of 7"
    real = torch.arange(30)[None] >= 10
    assert_close(stem(latents, real)[:, :, 10:], stem(latents[:, :, 10:]), atol=1e-6, rtol=1e-5)


def test_tables_survive_the_casts_of_mixed_precision():
    """FSDP casts the tensors of dataclasses to bfloat16; rotary tables and masks must come through untouched."""
    from torch.distributed.utils import _apply_to_tensors

    rope = video_rope((2, 3, 4), 24, CPU)
    given = StreamInputs(torch.randn(1, 2, 48), torch.randn(1, 1, 6, 48), torch.randn(1, 48), rope)
    cast = _apply_to_tensors(lambda x: x.bfloat16() if x.is_floating_point() else x, given)
    assert cast.context.dtype == torch.bfloat16
    assert isinstance(cast.rope, RotaryTable)
    assert cast.rope.cos.dtype == torch.float32
    leaves, _ = torch.utils._pytree.tree_flatten(given)
    assert any(leaf is given.modulation for leaf in leaves)


def test_copies_and_pickles_are_independent():
    model = tiny_harmony(trained=True)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert all(p.any() for p in model.parameters())
