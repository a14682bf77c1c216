"""Both transformers against the reference: outputs, intermediates, gradients, sampler calls, full-size keys."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from components.backbones.pyramid_flow.blocks import ColumnState
from components.backbones.pyramid_flow.column import Column
from components.contracts import TextFeatures
from tests.golden.dit_cases import columns_of, load_transformer, numbered, transformer_class

VARIANTS = ("miniflux", "mmdit")
CLOSE = {"atol": 5e-5, "rtol": 1e-4}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    root = metafunc.config.getoption("--golden-dir") / "pyramid_flow"

    def over(fixture: str, paths: list) -> None:
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, paths, ids=[str(p.relative_to(root)) for p in paths])

    files = [f for v in VARIANTS for f in sorted((root / v).glob("*.safetensors")) if f.name != "weights.safetensors"]
    over("grads_file", [f for f in files if f.stem.endswith("_grads")])
    over("calls_file", [f for f in files if "sample_calls" in f.stem])
    forward = [f for f in files if not f.stem.endswith("_grads") and "sample_calls" not in f.stem]
    over("forward_file", forward)
    over("detailed_file", [f for f in forward if "mid.cond_vector" in keys_of(f)])
    over("temporal_file", [f for f in forward if spans_time(f)])
    over("keys_file", sorted(f for f in root.glob("full_size_keys_*.json") if "vae" not in f.stem))


def keys_of(file: Path) -> set[str]:
    with safe_open(file, "pt") as stored:
        return set(stored.keys())


def spans_time(file: Path) -> bool:
    """Whether any column has more than one latent frame, so that the causal mask forbids something."""
    with safe_open(file, "pt") as stored:
        clips = [key for key in stored.keys() if key.startswith("in.clip.")]  # noqa: SIM118
        return any(key.endswith(".1") or stored.get_slice(key).get_shape()[2] > 1 for key in clips)


def test_forward(forward_file):
    case, model = load_file(forward_file), load_transformer(forward_file.parent)
    columns = columns_of(case)
    with torch.no_grad():
        packed = model(columns)
        for c, column in enumerate(columns):
            torch.testing.assert_close(packed[c], case[f"out.{c}"], **CLOSE)
            torch.testing.assert_close(model([column])[0], case[f"out.{c}"], **CLOSE)


def test_without_the_causal_mask(temporal_file):
    case, model = load_file(temporal_file), load_transformer(temporal_file.parent)
    columns = columns_of(case)
    model.temporal_causal = False
    with torch.no_grad():
        outputs = model(columns)
    for mine, golden in zip(outputs, numbered(case, "out_noncausal"), strict=False):
        torch.testing.assert_close(mine, golden, **CLOSE)
    assert max((mine - golden).abs().max() for mine, golden in zip(outputs, numbered(case, "out"), strict=True)) > 0.1


def test_intermediates(detailed_file):
    case, model = load_file(detailed_file), load_transformer(detailed_file.parent)
    columns = columns_of(case)
    k = len(columns)
    with torch.no_grad():
        states = [model.embed(column) for column in columns]
        for c, state in enumerate(states):
            torch.testing.assert_close(state.condition, case["mid.cond_vector"][c::k], **CLOSE)
            if f"mid.attn_allowed.{c}" in case:
                m, length = state.layout.num_text, case["in.text_mask"].shape[1]
                golden = case[f"mid.attn_allowed.{c}"].reshape(columns[c].num_rows, -1, length + num_video(state))
                keep = torch.cat([torch.arange(m), torch.arange(length, golden.shape[-1])])
                golden = golden[:, keep][:, :, keep]
                mine = torch.ones_like(golden) if state.mask is None else state.mask[:, 0].expand_as(golden)
                assert torch.equal(mine, golden)
        for i, block in enumerate(model.blocks):
            states = block(states)
            video = torch.cat([s.tokens[:, s.layout.num_text :] for s in states], dim=1)
            if f"mid.joint_block.{i}.video" in case:
                torch.testing.assert_close(video, case[f"mid.joint_block.{i}.video"], **CLOSE)
                for c, state in enumerate(states):
                    if f"mid.joint_block.{i}.text" not in case:
                        continue
                    golden = case[f"mid.joint_block.{i}.text"][c::k]
                    real = case["in.text_mask"][c::k].bool()
                    mine = torch.zeros_like(golden)
                    mine[:, : state.layout.num_text] = state.tokens[:, : state.layout.num_text]
                    torch.testing.assert_close(mine[real], golden[real], **CLOSE)


def num_video(state: ColumnState) -> int:
    return state.tokens.shape[1] - state.layout.num_text


def test_gradients(grads_file):
    case = load_file(grads_file.with_name(grads_file.name.replace("_grads", "")))
    grads = load_file(grads_file)
    norms = json.loads(grads_file.with_name(grads_file.stem.removesuffix("_grads") + "_grad_norms.json").read_text())
    model = load_transformer(grads_file.parent).train()
    outputs = model(columns_of(case))
    losses = [
        (out - t).square().flatten(1).mean(1) for out, t in zip(outputs, numbered(grads, "in.target"), strict=True)
    ]
    loss = torch.cat(losses).mean()
    torch.testing.assert_close(loss, grads["out.loss"], rtol=1e-5, atol=0)
    loss.backward()
    parameters = dict(model.named_parameters())
    for key, golden in grads.items():
        if key.startswith("grad."):
            mine = parameters[key.removeprefix("grad.")].grad
            assert (mine - golden).norm() <= 1e-3 * golden.norm(), key
    unused = set(norms["unused_parameters"])
    for name, norm in norms["grad_norm"].items():
        assert parameters[name].grad.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-7), name
    assert {n for n, p in parameters.items() if p.grad is None or not p.grad.any()} >= unused


def test_sampler_calls(calls_file):
    case, model = load_file(calls_file), load_transformer(calls_file.parent)
    text = TextFeatures(case["in.text"], case["in.text_mask"].bool(), case["in.pooled"])
    calls = sorted({m.group(0) for key in case if (m := re.match(r"unit\d+\.stage\d+", key))})
    assert calls
    for call in calls:
        column = Column(numbered(case, f"{call}.in.clip"), case[f"{call}.in.timestep"], text)
        with torch.no_grad():
            torch.testing.assert_close(model([column])[0], case[f"{call}.out"], **CLOSE)
            half = replace(
                column, clips=[c[1:] for c in column.clips], timesteps=column.timesteps[1:], text=text_row(text)
            )
            torch.testing.assert_close(model([half])[0], case[f"{call}.out"][1:], **CLOSE)


def text_row(text: TextFeatures) -> TextFeatures:
    return TextFeatures(text.tokens[1:], text.mask[1:], text.pooled[1:])


def test_full_size_keys(keys_file):
    golden = json.loads(keys_file.read_text())
    config = dict(golden["config"])
    config.setdefault("_class", "PyramidFluxTransformer" if "axes_dims_rope" in config else "PyramidDiffusionMMDiT")
    with torch.device("meta"):
        model = transformer_class(config).from_config(config)
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == golden["keys"]
    assert sum(p.numel() for p in model.parameters()) == golden["num_parameters"]
