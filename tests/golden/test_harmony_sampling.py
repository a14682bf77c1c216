"""Schedules, solvers and the video tower's sampling against diffusers' schedulers and Wan pipelines."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.backbones.harmony.model import HarmonyTransformer
from components.backbones.wan.model import WanTower
from components.codecs.video.wan import WanVideoCodec
from components.contracts import TextFeatures
from components.guidance.sync_cfg import SyncCFG
from components.samplers.joint_sampler import JointConditions, JointSampler, ModalityText
from components.schedules.flow_schedule import FlowSchedule
from tests.public_folders.harmony_codecs import stored, write_diffusers_folder


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    root = metafunc.config.getoption("--golden-dir") / "harmony"
    if "schedule_case" in metafunc.fixturenames:
        found = [
            (file, name)
            for file in sorted(root.glob("schedulers*.safetensors"))
            for name in sorted({key.rsplit(".", 1)[0] for key in load_file(file) if key.endswith(".final")})
        ]
        metafunc.parametrize("schedule_case", found, ids=[f"{file.stem}-{name}" for file, name in found])
    if "pipeline" in metafunc.fixturenames:
        files = sorted(root.glob("ti2v_pipeline*.safetensors"))
        metafunc.parametrize("pipeline", files, ids=[file.stem for file in files])


def facts_of(file: Path) -> dict:
    return json.loads(file.with_suffix(".json").read_text())


def test_schedules_and_trajectories(schedule_case: tuple[Path, str]):
    file, name = schedule_case
    facts, tensors = facts_of(file), load_file(file)
    case = stored(tensors, f"{name}.")
    solver, steps, shift = name.split("_")
    trajectory = FlowSchedule(solver, float(shift)).start(int(steps))
    torch.testing.assert_close(trajectory.timesteps.double(), case["timesteps"], atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(trajectory.sigmas.double(), case["sigmas"], atol=1e-7, rtol=1e-6)
    x = tensors["x_init"]
    for i, timestep in enumerate(trajectory.timesteps):
        x = trajectory.step(i, facts["a"] * x + facts["b"] * timestep / 1000, x)
    torch.testing.assert_close(x, case["final"], atol=1e-5, rtol=1e-5)


def full(tokens: torch.Tensor) -> TextFeatures:
    return TextFeatures(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))


@pytest.mark.parametrize("task", ["i2v", "t2v"])
def test_video_tower_alone_samples_as_the_pipelines_do(pipeline: Path, task: str, tmp_path: Path):
    facts, case = facts_of(pipeline), load_file(pipeline)
    config = {key: value for key, value in facts["transformer_config"].items() if key != "rope_max_seq_len"}
    tower = WanTower(**config, text_len=None)
    tower.load_state_dict(stored(case, "w."), strict=True)
    model = HarmonyTransformer(video=tower)

    image = None
    if task == "i2v":
        vae = pipeline.with_name("wan22_vae_tiny.safetensors")
        write_diffusers_folder(
            tmp_path / "vae", "AutoencoderKLWan", facts_of(vae)["config"], stored(load_file(vae), "w.")
        )
        with torch.no_grad():
            image = WanVideoCodec(tmp_path).encode(case["in.image"].unsqueeze(1) * 2 - 1)
    text = ModalityText(full(case["in.prompt_embeds"]), negative=full(case["in.negative_prompt_embeds"]))
    guidance = SyncCFG("text", video_text_scale=facts["guidance_scale"])
    sampler = JointSampler(facts["steps"], FlowSchedule("unipc", facts["flow_shift"]), guidance=guidance)
    video, audio = sampler.sample(model, JointConditions(text, image=image), video_noise=case["in.latents"])
    assert audio is None
    torch.testing.assert_close(video, case[f"out.{task}_latents"], atol=1e-4, rtol=1e-4)
    if image is not None:
        assert torch.equal(video[:, :, :1], image), "the first frame is kept exactly"
