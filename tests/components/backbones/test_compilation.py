"""Compiled blocks give what eager ones give, under the same names, and other lengths are not compiled anew for long."""

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from jsonargparse import ArgumentParser
from torch import Tensor
from torch._dynamo.utils import counters
from torch.distributed.device_mesh import init_device_mesh

from components.backbones.compilation import CompileConfig
from components.backbones.harmony.model import HarmonyTransformer
from components.backbones.lora import LoRAConfig, add_adapters
from components.backbones.sharding import whole
from components.backbones.syncphony.model import SyncphonyDiT
from components.errors import InputError
from components.samplers.pyramid_sampler import Conditions, PyramidSampler
from components.samplers.sampling_noise import ClipNoise
from tests.tiny_harmony import AUDIO_CHANNELS, inputs, tiny_harmony, tiny_interaction
from tests.tiny_syncphony import (
    FPS,
    TEMPORAL_FACTOR,
    audio_features,
    column_sounds,
    generator,
    latents,
    model_columns,
    text_features,
    tiny_dit,
    training_columns,
)

pytestmark = pytest.mark.gate

TRACED = CompileConfig(backend="eager")  # traced and guarded like any other, but the graphs are run as they are
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def num_graphs() -> int:
    return counters["stats"]["unique_graphs"]


def training_step(dit: SyncphonyDiT, units: tuple[int, ...], num_latents: int, columns: int = 4) -> list[Tensor]:
    """Gradients of a step whose columns reach as far as ``units`` say; of the last ``columns`` of four."""
    training = training_columns(latents(4, num_latents), units)[-columns:]
    sounds = column_sounds(training, dit, audio_features(4, 2.5))
    outputs = dit(model_columns(training, text_features(4)), sounds)
    sum(out.square().mean() for out in outputs).backward()
    gradients = [p.grad for p in dit.parameters() if p.grad is not None]
    dit.zero_grad()
    return gradients


def short_step(dit: SyncphonyDiT, more: int) -> list[Tensor]:
    """A step of one column, ``more`` latent frames longer than the shortest."""
    return training_step(dit, (3 + more, 3 + more, 3 + more), 4 + more, columns=1)


def test_steps_of_all_lengths_share_graphs():
    """Also where the backward pass runs the blocks again; blocks of a kind share graphs in any case."""
    eager, compiled = (tiny_dit(checkpoint_activations=True, compile=c) for c in (None, TRACED))
    graphs = []
    for more in (0, 1, 3, 4):
        for mine, golden in zip(*(short_step(dit, more) for dit in (compiled, eager)), strict=True):
            torch.testing.assert_close(mine, golden, **CLOSE)
        graphs.append(num_graphs())
    # pieces around the attentions: 4 of a joint block, 2 of a single one, 2 of the last; once more for all lengths
    assert graphs[0] == 8 and graphs[1:] == [graphs[1]] * 3 and graphs[1] <= 16, graphs


@pytest.mark.slow
def test_steps_of_four_columns_share_graphs():
    eager, compiled = (tiny_dit(compile=c) for c in (None, TRACED))
    graphs = []
    for units, num_latents in (((4, 4, 3), 5), ((3, 3, 2), 5), ((6, 5, 5), 7), ((7, 7, 6), 8), ((5, 5, 5), 8)):
        for mine, golden in zip(*(training_step(d, units, num_latents) for d in (compiled, eager)), strict=True):
            torch.testing.assert_close(mine, golden, **CLOSE)
        graphs.append(num_graphs())
    assert graphs[0] == 8 and graphs[2:] == [graphs[2]] * 3 and graphs[2] <= 24, graphs


@torch.no_grad()
def sampled(dit: SyncphonyDiT, num_latents: int) -> Tensor:
    """Two clips guided by text and sound, every stage of every unit in two steps; units hand on what they know."""
    conditions = Conditions(
        text=text_features(2),
        negative_text=text_features(2, seed=1),
        audio=dit.encode_audio(audio_features(2, 2.5), num_latents, FPS, TEMPORAL_FACTOR),
    )
    noise = ClipNoise([generator(seed) for seed in (1, 2)])
    shape = (2, 4, num_latents, 8, 16)
    return PyramidSampler(video_steps=(2, 2, 2)).sample(dit, conditions, shape, noise, image_latent=latents(2, 1))


@pytest.mark.slow
def test_units_stages_and_steps_of_sampling_share_graphs():
    eager, compiled = (tiny_dit(compile=c) for c in (None, TRACED))
    graphs = []
    for num_latents in (5, 7):
        torch.testing.assert_close(sampled(compiled, num_latents), sampled(eager, num_latents), **CLOSE)
        graphs.append(num_graphs())
    assert 0 < graphs[0] == graphs[1] <= 40, graphs  # 48 and 72 forward passes of lengths of their own


def harmony_step(model: HarmonyTransformer, extra: int) -> list[Tensor]:
    """Gradients of a step on sounds that are ``extra`` latents longer than the tiny ones."""
    given = inputs()
    more = torch.randn(2, AUDIO_CHANNELS, extra, generator=generator(3))
    given["z_a"] = torch.cat([given["z_a"], more], dim=2)
    sum(velocity.square().mean() for velocity in model(**given)).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return gradients


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["none", "selective", "full"])
def test_harmonys_steps_of_all_lengths_share_graphs(policy: str):
    config = CompileConfig(backend="aot_eager", fullgraph=True)
    eager, compiled = (tiny_harmony(trained=True, checkpoint_activations=policy, compile=c) for c in (None, config))
    graphs = []
    for extra in (0, 4, 9) if policy == "none" else (0,):
        for mine, golden in zip(*(harmony_step(m, extra) for m in (compiled, eager)), strict=True):
            torch.testing.assert_close(mine, golden, **CLOSE)
        graphs.append(num_graphs())
    # one for all layers but the last, whose reference has no reader, and both once more for all lengths
    assert graphs[0] == 2 and graphs[-1] <= 4, graphs


@pytest.mark.slow
@torch.no_grad()
def test_under_autocast_a_layer_is_still_one_graph():
    config = CompileConfig(backend="eager", fullgraph=True)
    eager, compiled = (tiny_harmony(trained=True, compile=c) for c in (None, config))
    exact = eager(**inputs())
    with torch.autocast("cpu", torch.bfloat16):
        golden, mine = eager(**inputs()), compiled(**inputs())
    assert num_graphs() == 2
    for one, other, truth in zip(mine, golden, exact, strict=True):
        assert (one - truth).norm() < 1.2 * (other - truth).norm(), "as near to float32 as the eager model"


def test_names_are_those_of_the_eager_model_and_copies_are_eager():
    for make in (tiny_dit, tiny_harmony):
        eager, compiled = make(), make(compile=TRACED)
        assert [name for name, _ in compiled.named_modules()] == [name for name, _ in eager.named_modules()]
        assert compiled.state_dict().keys() == eager.state_dict().keys()
        compiled.load_state_dict(eager.state_dict())
    # a copy that shared what is compiled would run the weights of the original
    assert all(part._compiled_call_impl is None for part in copy.deepcopy(compiled).modules())


@pytest.mark.slow
@torch.no_grad()
def test_features_of_a_driving_video_are_kept_between_graphs():
    """The first pass runs both towers, later ones the sound's alone."""
    isolated = tiny_interaction(driver_isolated=True)
    eager, compiled = (tiny_harmony(isolated, trained=True, compile=c) for c in (None, TRACED))
    given, graphs = {**inputs(), "t_v": torch.zeros(2)}, []
    drivers = [model.driver_features(2, {"video": [0, 1]}) for model in (eager, compiled)]
    for timestep in (800.0, 500.0, 200.0, 100.0):
        given["t_a"] = torch.full((2,), timestep)
        golden, mine = (m(**given, drivers=kept)[1] for m, kept in zip((eager, compiled), drivers, strict=True))
        torch.testing.assert_close(mine, golden, **CLOSE)
        graphs.append(num_graphs())
    assert 0 < graphs[0] < graphs[1] == graphs[-1] <= 24, graphs


@pytest.mark.slow
def test_adapters_are_compiled_with_the_layers_that_they_adapt():
    eager, compiled = (tiny_harmony(compile=c) for c in (None, TRACED))
    for model in (eager, compiled):
        torch.manual_seed(0)
        for layer in model.layers:
            add_adapters(layer.video_block, LoRAConfig(2))
    assert [name for name, _ in compiled.named_parameters()] == [name for name, _ in eager.named_parameters()]
    for mine, golden in zip(*(harmony_step(m, 0) for m in (compiled, eager)), strict=True):
        torch.testing.assert_close(mine, golden, **CLOSE)
    assert num_graphs() == 2


def test_without_the_switch_and_without_values_nothing_is_compiled():
    with torch.device("meta"):
        shapes = tiny_harmony(compile=TRACED)
    assert all(part._compiled_call_impl is None for m in (tiny_dit(), shapes) for part in m.modules())


def test_the_command_line_takes_defaults_and_single_settings():
    parser = ArgumentParser()
    parser.add_argument("--compile", type=CompileConfig | None, default=None)
    for given, wanted in (
        ([], None),
        (["--compile={}"], CompileConfig()),
        (["--compile.dynamic=true"], {"dynamic": True}),
    ):
        expected = CompileConfig(**wanted) if isinstance(wanted, dict) else wanted
        assert parser.instantiate(parser.parse_args(given)).compile == expected


def test_settings_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"compile\.backend is 'inducktor': give one of .*inductor"):
        CompileConfig(backend="inducktor")
    with pytest.raises(InputError, match=r"compile\.mode is max-autotune, which is inductor's, but"):
        CompileConfig(mode="max-autotune", backend="aot_eager")
    with pytest.raises(InputError, match=r"compile\.fullgraph is true, but attention"):
        tiny_dit(compile=CompileConfig(backend="eager", fullgraph=True))
    with pytest.raises(InputError, match=r"compile\.fullgraph is true, but with interaction\.driver_isolated"):
        tiny_harmony(tiny_interaction(driver_isolated=True), compile=CompileConfig(backend="eager", fullgraph=True))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler, and no-such-compiler is not installed"):
        CompileConfig()


@pytest.mark.slow
def test_inductor_gives_the_gradients_of_the_eager_model():
    eager, compiled = (tiny_dit(compile=c) for c in (None, CompileConfig()))
    for mine, golden in zip(*(training_step(d, (4, 4, 3), 5) for d in (compiled, eager)), strict=True):
        torch.testing.assert_close(mine, golden, **CLOSE)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*complex operators")  # they would stay outside of its kernels
        eager, compiled = (tiny_harmony(trained=True, compile=c) for c in (None, CompileConfig()))
        for mine, golden in zip(*(harmony_step(m, 0) for m in (compiled, eager)), strict=True):
            torch.testing.assert_close(mine, golden, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_dit, tiny_harmony])
def test_a_sharded_block_is_compiled_behind_its_gathered_weights(make: Callable[..., SyncphonyDiT], tmp_path: Path):
    eager, compiled = make(), make(compile=TRACED)
    run = short_step if make is tiny_dit else harmony_step
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        compiled.shard(init_device_mesh("cpu", (1,)), torch.device("cpu"))
        assert compiled.state_dict().keys() == eager.state_dict().keys()
        for mine, golden in zip(*(run(m, 0) for m in (compiled, eager)), strict=True):
            torch.testing.assert_close(whole(mine), golden, **CLOSE)
    finally:
        dist.destroy_process_group()
    assert num_graphs()
