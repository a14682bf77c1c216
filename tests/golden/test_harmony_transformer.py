"""Both towers against diffusers' Wan and Ovi's audio tower: outputs, inner values, gradients, tables, full keys."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from components.backbones.harmony import ovi_audio_tower
from components.backbones.harmony.audio_tower import AudioTower, audio_rope
from components.backbones.harmony.model import HarmonyTransformer
from components.backbones.rope import rotary_table, rotate, wan_axis_dims
from components.backbones.wan.checkpoint import diffusers_key
from components.backbones.wan.model import StreamInputs, WanTower, run_block, video_rope
from components.contracts import TextFeatures
from components.media.clock import LatentClock

CPU = torch.device("cpu")
CLOCK = LatentClock(24.0, 4, 31.25)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    root = metafunc.config.getoption("--golden-dir") / "harmony"

    def over(fixture: str, paths: list) -> None:
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, paths, ids=[f"harmony/{path.name}" for path in paths])

    files = {file: keys_of(file) for file in sorted(root.glob("*.safetensors"))}
    over("wan_file", [file for file, keys in files.items() if "in.timestep_frames" in keys])
    over("ovi_file", [file for file, keys in files.items() if "w.blocks.0.modulation.modulation" in keys])
    over("rope_file", [file for file, keys in files.items() if any(re.match(r"\d+x\d+\.positions", k) for k in keys)])
    described = {file: json.loads(file.read_text()) for file in sorted(root.glob("full_size_keys_*.json"))}
    over("keys_file", [file for file, facts in described.items() if "WanTransformer" in str(facts.get("class"))])


def keys_of(file: Path) -> set[str]:
    with safe_open(file, "pt") as stored:
        return set(stored.keys())


def config_of(file: Path) -> dict:
    return json.loads(file.with_suffix(".json").read_text())["config"]


def wan_model(file: Path) -> tuple[dict[str, torch.Tensor], HarmonyTransformer]:
    case = load_file(file)
    config = {key: value for key, value in config_of(file).items() if key != "rope_max_seq_len"}
    tower = WanTower(**config, text_len=None)
    tower.load_state_dict({key[2:]: value for key, value in case.items() if key.startswith("w.")}, strict=True)
    return case, HarmonyTransformer(video=tower)


def text_of(case: dict[str, torch.Tensor]) -> TextFeatures:
    tokens = case["in.encoder_hidden_states"]
    return TextFeatures(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))


def run(model: HarmonyTransformer, case: dict[str, torch.Tensor], timesteps: str, **also) -> torch.Tensor:
    latents, text = case["in.hidden_states"], text_of(case)
    return model(latents, None, t_v=case[timesteps], text_v=text, active=["video"], **also)[0]


def test_outputs_for_every_kind_of_timestep(wan_file):
    case, model = wan_model(wan_file)
    with torch.no_grad():
        torch.testing.assert_close(run(model, case, "in.timestep_frames"), case["out.sample_tokens"], **CLOSE)
        torch.testing.assert_close(run(model, case, "in.timestep_vec"), case["out.sample_vec"], **CLOSE)
        given = (case["in.timestep_frames"][:, 0] == 0) & (case["in.timestep_vec"] != 0)
        spread = case["in.timestep_vec"][:, None].expand_as(case["in.timestep_frames"]).clone()
        spread[given, 0] = 0
        if torch.equal(spread, case["in.timestep_frames"]):
            flagged = run(model, case, "in.timestep_vec", first_frame=given)
            torch.testing.assert_close(flagged, case["out.sample_tokens"], **CLOSE)


def test_intermediates(wan_file):
    case, model = wan_model(wan_file)
    tower = model.video
    with torch.no_grad():
        grid = tower.grid(case["in.hidden_states"])
        rope = video_rope(grid, tower.head_dim, CPU)
        assert torch.equal(rope.cos, case["mid.rope_cos"])
        assert torch.equal(rope.sin, case["mid.rope_sin"])
        hidden = tower.embed(case["in.hidden_states"])
        torch.testing.assert_close(hidden, case["mid.patch_embedding"], **CLOSE)
        embedding, modulation, context = tower.condition(case["in.timestep_frames"], text_of(case))
        torch.testing.assert_close(context, case["mid.text_proj"], **CLOSE)
        for i, layer in enumerate(model.layers):
            hidden = run_block(layer.video_block, hidden, StreamInputs(context, modulation, embedding[:, -1], rope))
            torch.testing.assert_close(hidden, case[f"mid.block_{i}"], **CLOSE)


def test_gradients(wan_file):
    case, model = wan_model(wan_file)
    case["in.hidden_states"].requires_grad_()
    (run(model, case, "in.timestep_frames") * case["in.grad_weight"]).sum().backward()
    first = model.layers[0].video_block.attn1.to_q.weight.grad
    torch.testing.assert_close(case["in.hidden_states"].grad, case["out.grad_hidden_states"], **CLOSE)
    torch.testing.assert_close(first, case["out.grad_block0_to_q_weight"], atol=1e-4, rtol=1e-4)


def test_ovis_audio_tower_through_the_importer(ovi_file, tmp_path: Path):
    """bfloat16 reference, stem included; the context is padded with zeros after encoding."""
    case, config = load_file(ovi_file), config_of(ovi_file)
    facts = json.loads(ovi_file.with_suffix(".json").read_text())
    save_file({key[2:]: value for key, value in case.items() if key.startswith("w.")}, tmp_path / "ovi.safetensors")
    tower = ovi_audio_tower(
        str(tmp_path / "ovi.safetensors"),
        transcript_dim=None,
        rope_scale=config["scale"],
        text_len=facts["context_zero_padded_to"],
        head_dim=config["dim"] // config["num_heads"],
    )
    latents, tokens = case["in.latents"].float().T[None], case["in.context"].float()[None]
    text = TextFeatures(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
    with torch.no_grad():
        assert apart(tower.embed_target(latents), case["mid.patch_embedding"]) < 0.01
        model = HarmonyTransformer(audio=tower)
        _, velocity = model(None, latents, t_a=case["in.t"], text_a=text, clock=CLOCK, active=["audio"])
    assert apart(velocity[0].T, case["out.sample"]) < 0.02


def apart(mine: torch.Tensor, golden: torch.Tensor) -> float:
    """Relative L2 distance."""
    return ((mine - golden.float()).norm() / golden.float().norm()).item()


def test_temporal_rope_tables(rope_file):
    case = load_file(rope_file)
    facts = json.loads(rope_file.with_suffix(".json").read_text())
    for name, pair in facts["pairs"].items():
        positions = CLOCK.audio_positions(pair["T_v"], pair["T_a"], "linear")
        torch.testing.assert_close(positions, case[f"{name}.positions"])
        num_rotated = 2 * case[f"{name}.cos"].shape[1]
        table = rotary_table(positions[:, None], [num_rotated])
        for mine, golden in zip(table, (case[f"{name}.cos"], case[f"{name}.sin"]), strict=True):
            torch.testing.assert_close(mine.double(), golden, atol=1e-7, rtol=0)
        head_dim = case["apply.in"].shape[-1]
        assert wan_axis_dims(head_dim)[0] == num_rotated
        tower = audio_rope(0, pair["T_a"], pair["T_v"] / pair["T_a"], head_dim, CPU)
        torch.testing.assert_close(tower.cos[0, :, 0, :num_rotated:2].double(), case[f"{name}.cos"], atol=1e-7, rtol=0)
        torch.testing.assert_close(tower.sin[0, :, 0, :num_rotated:2].double(), case[f"{name}.sin"], atol=1e-7, rtol=0)
        assert bool((tower.cos[..., num_rotated:] == 1).all())
        assert not tower.sin[..., num_rotated:].any()


def test_rope_application(rope_file):
    case = load_file(rope_file)
    facts = json.loads(rope_file.with_suffix(".json").read_text())
    head_dim = case["apply.in"].shape[-1]
    time, *_ = wan_axis_dims(head_dim)
    table = torch.stack([case["ovi_config.cos"], case["ovi_config.sin"]]).float()
    candidates = {"ovi_config": table}
    candidates |= {n: torch.stack([case[f"{n}.cos"], case[f"{n}.sin"]]).float() for n in facts["pairs"]}
    x, golden = case["apply.in"].transpose(1, 2), case["apply.out"].transpose(1, 2)
    fits = [
        name
        for name, table in candidates.items()
        if table.shape[1] == x.shape[2] and torch.equal(rotate(x[..., :time], table).bfloat16(), golden[..., :time])
    ]
    assert len(fits) == 1
    assert torch.equal(x[..., time:], golden[..., time:])

    grid = tuple(facts["apply3d_grid"])
    rope = video_rope(grid, head_dim, CPU)
    table = torch.stack([rope.cos, rope.sin])[:, 0, :, 0, ::2]
    mine = rotate(case["apply3d.in"].transpose(1, 2), table).transpose(1, 2)
    assert torch.equal(mine.bfloat16(), case["apply3d.out"])


def test_full_size_keys(keys_file):
    golden = json.loads(keys_file.read_text())
    config = {key: value for key, value in golden["config"].items() if key != "added_kv_proj_dim"}
    with torch.device("meta"):
        tower = WanTower(**config)
    assert {key: list(value.shape) for key, value in tower.state_dict().items()} == golden["keys"]
    assert len(golden["keys"]) == golden["num_tensors"]
    assert sum(p.numel() for p in tower.parameters()) == golden["num_parameters"]
    assert sum(p.numel() for p in tower.blocks[0].parameters()) == golden["params_per_block"]
    renamed = {key: diffusers_key(theirs) for key, theirs in originals(golden).items()}
    assert all(key == mine for key, mine in renamed.items())
    with torch.device("meta"):
        twin = AudioTower(transcript_dim=None)
    blocks = {key for key in golden["keys"] if key.startswith(("blocks.", "condition_embedder."))}
    assert all(list(twin.state_dict()[key].shape) == golden["keys"][key] for key in blocks)


def originals(golden: dict) -> dict[str, str]:
    """Every tensor's name in the original release, by the pack's own table read backwards."""
    table = golden["original_to_diffusers_substring_renames"]
    names = {}
    for key in golden["keys"]:
        theirs = key
        for original, ours in reversed(table):
            if " " in original:
                theirs = re.sub(r"^(blocks\.\d+)\.scale_shift_table$", r"\1.modulation", theirs)
            elif original != "head.modulation" or theirs == ours:
                theirs = theirs.replace(ours, original)
        names[key] = theirs
    return names
