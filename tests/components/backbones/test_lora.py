"""Adapters start as nothing, train alone, and leave the plain weights that do what they did."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from components.backbones.harmony.checkpoint import load_harmony, save_harmony
from components.backbones.harmony.lora import adapt_tower, plain_tensors, trains_beside_frozen
from components.backbones.harmony.model import HarmonyTransformer, part_of
from components.backbones.lora import LoRAConfig, dropout_drawn_from, is_adapter, plain_name
from components.errors import InputError
from components.weights.whole_folder import whole_folder
from tests.tiny_harmony import audio_tower, inputs, tiny_harmony, tiny_interaction, video_tower
from tests.tiny_syncphony import generator

FFN = ("ffn.net.0.proj", "ffn.net.2")


def adapted(config: LoRAConfig, *sides: str, moved: bool = True, **how) -> HarmonyTransformer:
    """``moved`` gives B values that matter, as training does."""
    model = tiny_harmony(trained=True, **how)
    for side in sides:
        adapt_tower(model, side, config)
    for name, parameter in model.named_parameters():
        if moved and ".lora_B." in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator(len(name)))
        parameter.requires_grad_(part_of(name) not in sides or trains_beside_frozen(name))
    return model


def outputs(model: HarmonyTransformer) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return model(**inputs())


def bfloat16(model: HarmonyTransformer) -> HarmonyTransformer:
    """Both towers in bfloat16, the interaction in float32."""
    for name, parameter in model.named_parameters():
        if part_of(name) != "interaction":
            parameter.data = parameter.data.bfloat16()
    return model


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_fresh_adapters_change_no_bit(precision: torch.dtype):
    model, config = tiny_harmony(trained=True), LoRAConfig(2, targets=("to_q", "to_out.0", *FFN))
    if precision == torch.bfloat16:
        bfloat16(model)
    before, names = outputs(model), {name: value.clone() for name, value in model.state_dict().items()}
    for side in ("video", "audio"):
        adapt_tower(model, side, config)
    assert all(torch.equal(mine, golden) for mine, golden in zip(outputs(model), before, strict=True))
    held = {plain_name(name): value for name, value in model.state_dict().items() if not is_adapter(name)}
    assert held.keys() == names.keys()
    assert all(torch.equal(value, names[name]) and value.dtype == names[name].dtype for name, value in held.items())
    adapters = {name: p for name, p in model.named_parameters() if is_adapter(name)}
    assert {p.dtype for p in adapters.values()} == {torch.float32}
    per_block = 2 * (2 + 2 + 2)  # A and B of both attentions' queries and outputs and of two feed-forward layers
    assert len(adapters) == 2 * len(model.layers) * per_block


def test_targets_are_ends_of_names():
    model = adapted(LoRAConfig(2, targets=("attn1.to_q", "to_v")), "video")
    found = {name for name, _ in model.layers[0].named_parameters() if is_adapter(name)}
    assert {name.partition(".lora_")[0] for name in found} == {
        "video_block.attn1.to_q",
        "video_block.attn1.to_v",
        "video_block.attn2.to_v",
    }


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_merged_weights_do_what_the_adapters_did(tmp_path: Path, precision: torch.dtype):
    model = adapted(LoRAConfig(2, alpha=3.0, targets=("to_k", *FFN)), "video")
    if precision == torch.bfloat16:
        for name, parameter in model.named_parameters():
            if part_of(name) == "video" and not is_adapter(name):
                parameter.data = parameter.data.bfloat16()
    with whole_folder(tmp_path / "whole") as partial:
        save_harmony(model, partial)
    loaded = load_harmony(str(tmp_path / "whole"), dtype=None)
    assert loaded.state_dict().keys() == tiny_harmony().state_dict().keys()
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}, "an adapted tower is written as it can be run"
    layer = "layers.1.video_block.attn2.to_k"
    parts = model.state_dict()
    update = parts[f"{layer}.lora_B.default.weight"] @ parts[f"{layer}.lora_A.default.weight"]
    assert_close(loaded.state_dict()[f"{layer}.weight"], parts[f"{layer}.base_layer.weight"].float() + 1.5 * update)
    tolerance = 5e-2 if precision == torch.bfloat16 else 1e-5
    for mine, golden, fresh in zip(*map(outputs, (loaded, model, tiny_harmony(trained=True))), strict=True):
        assert_close(mine, golden.float(), atol=tolerance, rtol=tolerance)
        # without the adapters it would be further off than by any rounding
        assert (mine - fresh).abs().max() > 2 * (mine - golden.float()).abs().max()


def test_what_was_trained_is_written_beside_the_frozen_tower(tmp_path: Path):
    model = adapted(LoRAConfig(2), "video")
    with whole_folder(tmp_path / "trained") as partial:
        save_harmony(model, partial, only_trained=True)
    with pytest.raises(InputError, match="give the video tower it was trained beside"):
        load_harmony(str(tmp_path / "trained"))
    frozen = tiny_harmony(trained=True)
    tower = video_tower()
    kept = HarmonyTransformer(tower, audio_tower(), tiny_interaction())
    kept.load_state_dict(frozen.state_dict())
    for i, layer in enumerate(kept.layers):
        tower.blocks.insert(i, layer.video_block)
    loaded = load_harmony(str(tmp_path / "trained"), video=tower)
    plain = plain_tensors(model)
    assert all(torch.equal(value, plain[name]) for name, value in loaded.state_dict().items())


def test_activations_can_be_computed_again():
    gradients = []
    for checkpointed in (False, True):
        model = adapted(LoRAConfig(2, dropout=0.3), "video", "audio", checkpoint_activations=checkpointed)
        model.train()
        with dropout_drawn_from(3, torch.device("cpu")):
            v_v, v_a = model(**inputs())
        torch.rand(7)  # what is drawn in between must not matter
        (v_v.square().mean() + v_a.square().mean()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert {part_of(name) for name in gradients[0]} == {"video", "audio", "interaction"}
    for name, golden in gradients[0].items():
        assert_close(gradients[1][name], golden, msg=name)


def test_dropout_is_drawn_from_its_seed_and_leaves_other_draws_alone():
    model = adapted(LoRAConfig(2, dropout=0.5), "video").train()
    before = torch.random.get_rng_state()

    def drawn(seed: int) -> torch.Tensor:
        with dropout_drawn_from(seed, torch.device("cpu")):
            return outputs(model)[0]

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank of LoRA is 0: give at least 1"),
        ({"alpha": 0.0}, "alpha of LoRA is 0.0: give a number above 0, or null"),
        ({"dropout": 1.0}, "dropout of LoRA is 1.0: give a probability from 0 to below 1"),
        ({"targets": ()}, "targets of LoRA is empty: name linear layers"),
        ({"targets": ("to_q", "query", "norm_q")}, r"names \['query', 'norm_q'\]: .* attn1.to_q, .* ffn.net.2; give"),
        ({"targets": ("q",)}, r"names \['q'\]"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        adapt_tower(tiny_harmony(), "video", LoRAConfig(**settings))


def test_shapes_alone_can_be_adapted():
    with torch.device("meta"):
        model = tiny_harmony()
        adapt_tower(model, "video", LoRAConfig())
    assert all(p.is_meta for p in model.parameters())
