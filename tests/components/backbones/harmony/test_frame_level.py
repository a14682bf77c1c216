"""Frame-level attention: one function in three ways, windows that hold, shared time, silent beginnings."""

import pytest
import torch

from components.backbones.harmony.frame_band import BandConfig, TokenShape, frame_bands, wan_axis_dims
from components.backbones.harmony.interaction import FrameLevelAttention
from components.backbones.harmony.style_alignment import StyleAlignment
from components.backbones.rope import rotary_table
from tests.tiny_harmony import CLOCK

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
CPU = torch.device("cpu")
SHAPE = TokenShape((5, 2, 3), 26)
VIDEO_DIM, AUDIO_DIM, WIDTH, HEADS = 16, 12, 48, 2


def layer(to_video: bool, gate: str = "source") -> FrameLevelAttention:
    """A trained layer: its output projection is not zero any more."""
    torch.manual_seed(3)
    dims = (VIDEO_DIM, AUDIO_DIM) if to_video else (AUDIO_DIM, VIDEO_DIM)
    trained = FrameLevelAttention(*dims, WIDTH, HEADS, gate)
    for parameter in (
        trained.to_out.weight,
        trained.to_out.bias,
        *(() if gate == "none" else trained.gate.parameters()),
    ):
        torch.nn.init.normal_(parameter, std=0.3)
    return trained


def streams(rows: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return (
        torch.randn(rows, 5 * 6, VIDEO_DIM, generator=generator),
        torch.randn(rows, 26, AUDIO_DIM, generator=generator),
    )


def run(attention: FrameLevelAttention, query, source, band) -> torch.Tensor:
    noise = torch.linspace(-1, 1, query.shape[-1]), torch.linspace(1, -1, source.shape[-1])
    rows = tuple(n.expand(len(query), -1) for n in noise)
    return attention(query, *attention.keys_values(source), band, rows)


def both_ways(config: BandConfig) -> list[torch.Tensor]:
    video, audio = streams()
    bands = frame_bands(CLOCK, "linear", config, SHAPE, WIDTH // HEADS, CPU)
    return [run(layer(True), video, audio, bands[0]), run(layer(False), audio, video, bands[1])]


@pytest.mark.parametrize("rope", ["temporal", "tower", "none"])
@pytest.mark.parametrize("half_window", [0.0, 1.0, None])
def test_three_kernels_are_one_function(half_window, rope):
    with torch.no_grad():
        banded, gather, flex = (
            both_ways(BandConfig(half_window, kernel, rope)) for kernel in ("banded", "gather", "flex")
        )
    for expected, *others in zip(banded, gather, flex, strict=True):
        for other in others:
            torch.testing.assert_close(other, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["banded", "gather"])
@pytest.mark.parametrize("time_map", ["linear", "causal"])
@pytest.mark.parametrize("half_window", [0.0, 1.0])
def test_nothing_outside_the_window_has_any_influence(half_window, time_map, kernel):
    """Both directions: a changed source token moves exactly the queries whose window holds it."""
    relation = CLOCK.relation(5, 26, half_window, time_map)
    bands = frame_bands(CLOCK, time_map, BandConfig(half_window, kernel), SHAPE, WIDTH // HEADS, CPU)
    video, audio = streams()
    to_video, to_audio = layer(True), layer(False)
    with torch.no_grad():
        before = run(to_video, video, audio, bands[0]), run(to_audio, audio, video, bands[1])
        for token in range(0, 26, 3):
            changed = audio.clone()
            changed[:, token] += torch.randn(AUDIO_DIM)
            moved = (run(to_video, video, changed, bands[0]) != before[0]).any(-1).unflatten(1, (5, 6))
            assert torch.equal(moved, relation[:, token, None].expand(2, 5, 6))
        for latent in range(5):
            changed = video.clone()
            changed[:, latent * 6 + 4] += torch.randn(VIDEO_DIM)
            moved = (run(to_audio, audio, changed, bands[1]) != before[1]).any(-1)
            assert torch.equal(moved, relation[latent].expand(2, 26))


@pytest.mark.parametrize("kernel", ["banded", "gather", "flex"])
def test_a_token_with_an_empty_window_receives_the_bias_alone(kernel):
    """A sound that outlasts its video: with the causal map its last tokens have empty windows."""
    shape = TokenShape((3, 2, 3), 26)
    lonely = ~CLOCK.relation(3, 26, 0.5, "causal").any(dim=0)
    assert lonely.any()
    assert not lonely.all()
    bands = frame_bands(CLOCK, "causal", BandConfig(0.5, kernel), shape, WIDTH // HEADS, CPU)
    video, audio = streams()
    to_audio = layer(False)
    with torch.no_grad():
        out = run(to_audio, audio, video[:, :18], bands[1])
    assert torch.equal(out[:, lonely], to_audio.to_out.bias.expand_as(out[:, lonely]))
    assert not (out[:, ~lonely] == to_audio.to_out.bias).all(dim=-1).any()


@pytest.mark.parametrize("rope", ["temporal", "tower"])
def test_the_two_units_of_the_clock_differ_for_audio_queries_alone(rope):
    with torch.no_grad():
        video_unit, query_unit = (both_ways(BandConfig(1.0, "banded", rope, unit)) for unit in ("video", "query"))
    assert torch.equal(video_unit[0], query_unit[0])
    assert not torch.allclose(video_unit[1], query_unit[1])
    with torch.no_grad():
        assert torch.equal(both_ways(BandConfig(1.0, "banded", rope))[1], query_unit[1])  # as published


def test_for_audio_queries_video_latents_stand_on_the_audios_steps():
    """The paper's i' = i T_a / T_v: audio token j stands at j, and video latent i where the audio has its moment."""
    shape = TokenShape((8, 1, 1), 40)
    _, to_audio = frame_bands(CLOCK, "linear", BandConfig(), shape, 128, CPU)
    audio_at, video_at = torch.arange(40.0).double(), torch.arange(8.0).double() * 40 / 8
    for table, at in ((to_audio.query_rope, audio_at), (to_audio.key_rope, video_at)):
        assert torch.equal(table[:, :, 0], rotary_table(at[:, None], [44]))


def test_rotation_aligns_equal_times():
    """With equal contents everywhere, a query's heaviest key is the one at its own time."""
    shape = TokenShape((8, 1, 1), 40)
    to_video, _ = frame_bands(CLOCK, "linear", BandConfig(None), shape, 128, CPU)
    from components.backbones.harmony.interaction import _rotated

    ones = torch.ones(1, 1, 8, 128)
    q, k = _rotated(ones, to_video.query_rope), _rotated(torch.ones(1, 1, 40, 128), to_video.key_rope)
    assert torch.equal((q @ k.transpose(-1, -2))[0, 0].argmax(dim=1), torch.arange(8) * 5)
    assert torch.equal(q[..., 44:], ones[..., 44:]), "only the time channels rotate"


def test_rope_axes_are_wans():
    assert wan_axis_dims(128) == (44, 42, 42)
    assert wan_axis_dims(24) == (8, 8, 8)


def test_bands_are_built_once_and_stay_float32():
    arguments = (CLOCK, "linear", BandConfig(), TokenShape((31, 2, 2), 157), 128, CPU)
    to_video, to_audio = frame_bands(*arguments)
    assert frame_bands(*arguments)[0] is to_video
    assert to_video.query_rope.dtype == to_audio.key_rope.dtype == torch.float32


@pytest.mark.parametrize("gate", ["none", "source", "both"])
def test_a_fresh_layer_says_nothing_and_can_learn(gate):
    fresh = FrameLevelAttention(VIDEO_DIM, AUDIO_DIM, WIDTH, HEADS, gate)
    video, audio = streams()
    band, _ = frame_bands(CLOCK, "linear", BandConfig(), SHAPE, WIDTH // HEADS, CPU)
    out = run(fresh, video, audio, band)
    assert torch.equal(out, torch.zeros_like(out))
    out.sum().backward()
    assert fresh.to_out.weight.grad.abs().sum() > 0


def test_the_gate_listens_to_the_noise_it_is_told_to():
    video, audio = streams()
    band, _ = frame_bands(CLOCK, "linear", BandConfig(), SHAPE, WIDTH // HEADS, CPU)
    noise = torch.randn(2, VIDEO_DIM), torch.randn(2, AUDIO_DIM)
    for gate, from_query, from_source in (("none", False, False), ("source", False, True), ("both", True, True)):
        trained = layer(True, gate)
        keys_values = trained.keys_values(audio)
        at = trained(video, *keys_values, band, noise)
        assert (not torch.equal(at, trained(video, *keys_values, band, (noise[0] + 1, noise[1])))) == from_query
        assert (not torch.equal(at, trained(video, *keys_values, band, (noise[0], noise[1] + 1)))) == from_source


@pytest.mark.parametrize("own", [None, VIDEO_DIM])
def test_style_alignment_reads_the_whole_video_and_starts_silent(own):
    style = StyleAlignment(AUDIO_DIM, WIDTH, HEADS, own)
    video, audio = streams()
    frames = layer(False)

    def aligned(video):
        return style(audio[:, :4], *(style.keys_values(video) or frames.keys_values(video)))

    assert not aligned(video).any()
    torch.nn.init.normal_(style.to_out.weight)
    with torch.no_grad():
        before = aligned(video)
        for token in (0, 13, 29):
            changed = video.clone()
            changed[:, token] += torch.randn(VIDEO_DIM)
            assert (aligned(changed) != before).any(-1).all()
    # keys and values of its own only where they are asked for
    assert bool(style.keys_values(video)) == (own is not None)


def test_a_negative_window_is_refused():
    with pytest.raises(ValueError, match="half_window is -1"):
        BandConfig(-1)
