"""Whole sampling runs against the reference: every stage of every unit, the image latent and the decoded frames."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from components.backbones.syncphony.model import SyncphonyDiT
from components.codecs.video.causal_vae.checkpoint import vae_from_config
from components.codecs.video.causal_vae.codec import CausalVideoCodec
from components.codecs.video.causal_vae.normalisation import MINIFLUX_NORMALISATION, SD3_NORMALISATION
from components.contracts import TextFeatures
from components.samplers.pyramid_sampler import Conditions, PyramidSampler
from tests.golden.dit_cases import load_transformer

CLOSE = {"atol": 5e-4, "rtol": 1e-4}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "sampling_file" in metafunc.fixturenames:
        files = sorted((metafunc.config.getoption("--golden-dir") / "pyramid_flow/sampling").glob("*.safetensors"))
        metafunc.parametrize("sampling_file", files, ids=[f"sampling/{f.name}" for f in files])


class RecordedNoise:
    """The random numbers the reference drew."""

    def __init__(self, case: dict[str, torch.Tensor]) -> None:
        self.case = case

    def initial(self, shape):
        assert tuple(shape) == tuple(self.case["in.noise"].shape)
        return self.case["in.noise"]

    def block(self, unit, stage, shape, gamma):
        noise = self.case[f"in.block_noise.unit.{unit}.stage.{stage}"]
        assert noise.shape == tuple(shape)
        return noise


def text_of(case: dict[str, torch.Tensor], name: str) -> TextFeatures:
    return TextFeatures(*(case[f"in.{name}.{part}"] for part in ("text", "text_mask", "pooled")))


@pytest.mark.parametrize("first_late_block", [0, 2])
def test_sampling(sampling_file: Path, first_late_block: int):
    case = load_file(sampling_file)
    with safe_open(sampling_file, "pt") as file:
        facts = {key: json.loads(value) if key != "mode" else value for key, value in file.metadata().items()}
    backbone = load_transformer(sampling_file.parent.parent / sampling_file.stem.split("_")[0])
    model = SyncphonyDiT(backbone, first_late_block, audio_dim=None).eval()
    sampler = PyramidSampler(
        video_steps=facts.get("video_steps_per_stage", facts["steps_per_stage"]),
        image_steps=facts["steps_per_stage"],
        video_text_scale=facts["video_guidance_scale"],
        image_text_scale=facts["guidance_scale"],
    )
    ends: list[torch.Tensor] = []
    latents = sampler.sample(
        model,
        Conditions(text_of(case, "positive"), text_of(case, "negative"), audio=None),
        shape=case["in.noise"].shape,
        noise=RecordedNoise(case),
        image_latent=case.get("out.image_latent"),
        on_stage=ends,
    )
    stages = len(facts["steps_per_stage"])
    wanted = sorted(
        (int(m[1]), int(m[2])) for key in case if (m := re.fullmatch(r"out\.unit\.(\d+)\.stage\.(\d+)", key))
    )
    assert len(ends) == len(wanted) == facts["units"] * stages
    for (unit, stage), mine in zip(wanted, ends, strict=True):
        torch.testing.assert_close(mine, case[f"out.unit.{unit}.stage.{stage}"], **CLOSE)
    torch.testing.assert_close(latents, case["out.latents"], **CLOSE)


def test_image_and_frames(sampling_file: Path):
    case = load_file(sampling_file)
    vae_folder = sampling_file.parent.parent / "vae"
    vae = vae_from_config(json.loads((vae_folder / "config.json").read_text()))
    vae.load_state_dict(load_file(vae_folder / "weights.safetensors"), strict=True)
    sd3 = sampling_file.stem.startswith("mmdit")
    codec = CausalVideoCodec(vae, SD3_NORMALISATION if sd3 else MINIFLUX_NORMALISATION)
    if "in.image_u8" in case:
        pixels = case["in.image_u8"].float() / 127.5 - 1
        if pixels.shape[-1] == 3:
            pixels = pixels.movedim(-1, -3)
        posterior = codec.posterior(pixels.reshape(1, 1, *pixels.shape[-3:]))
        latent = codec.normalisation.normalise(posterior.sample(case["in.posterior_noise"]))
        torch.testing.assert_close(latent, case["out.image_latent"], atol=5e-5, rtol=1e-4)
    golden = case["out.frames_u8"]
    frames = codec.decode(case["out.latents"][:, :, : codec.num_latents(golden.shape[0])])
    mine = (frames * 127.5 + 127.5).clamp(0, 255).to(torch.uint8)[0].movedim(1, -1)
    difference = (mine.int() - golden.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3
