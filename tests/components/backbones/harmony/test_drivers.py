"""A driving modality is computed once: the same latents, fewer FLOPs, and nothing where it would not be exact."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from components.backbones.harmony.drivers import DriverFeatures
from components.backbones.harmony.frame_band import BandConfig
from components.backbones.harmony.model import HarmonyTransformer
from components.guidance.sync_cfg import SyncCFG
from components.samplers.joint_sampler import JointSampler
from components.schedules.flow_schedule import FlowSchedule
from tests.components.samplers.test_joint_sampler import AUDIO, VIDEO, conditions, starts
from tests.tiny_harmony import inputs, tiny_harmony, tiny_interaction

STEPS = 3


def model(**changes) -> HarmonyTransformer:
    return tiny_harmony(tiny_interaction(driver_isolated=True, **changes), trained=True).requires_grad_(False)


def sampled(model: HarmonyTransformer, task: str, keep: bool, guidance: SyncCFG) -> tuple[list[Tensor], int]:
    """Latents of both modalities and the FLOPs they took."""
    begin = starts()
    clean = {"audio_to_video": {"audio": torch.ones(2, *AUDIO)}, "video_to_audio": {"video": torch.ones(2, *VIDEO)}}
    if task != "joint":
        begin.pop("audio_noise" if task == "audio_to_video" else "video_noise")
    sampler = JointSampler(STEPS, FlowSchedule("euler", 3.0), guidance=guidance, keep_drivers=keep)
    with FlopCounterMode(display=False) as counter:
        latents = sampler.sample(model, conditions(), **begin, **clean.get(task, {}))
    return list(latents), counter.get_total_flops()


@pytest.mark.parametrize("task", ["joint", "audio_to_video", "video_to_audio"])
@pytest.mark.parametrize("guidance", ["none", "sync", "text+sync"])
@pytest.mark.parametrize("manner", [{"style_kv": "own"}, {"style_kv": "shared", "gate": "both"}, {"style": False}])
def test_the_same_latents_for_less(task, guidance, manner):
    dual, guide = model(**manner), SyncCFG(guidance, sync_sigmas=(0.0, 0.9))  # the first step runs other branches
    (kept, less), (anew, all_of_it) = (sampled(dual, task, keep, guide) for keep in (True, False))
    for one, other in zip(kept, anew, strict=True):
        torch.testing.assert_close(one, other, atol=5e-6, rtol=1e-5)
    if task == "joint" and guidance == "none":
        assert less == all_of_it, "nothing drives"
    else:
        assert less < 0.95 * all_of_it


def test_the_sound_of_a_video_runs_the_video_tower_once():
    dual = model()
    calls = [0, 0]
    for i, tower in enumerate(("video_block", "audio_block")):
        block = getattr(dual.layers[0], tower)
        block.attn1.to_q.register_forward_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    sampled(dual, "video_to_audio", True, SyncCFG("none"))
    assert calls == [1, STEPS]


def test_what_is_kept_is_read():
    """A later pass with another driver would show it: it hears the first one."""
    dual, given = model(), inputs(2)
    given |= {"t_v": torch.zeros(2), "first_frame": None}
    drivers = dual.driver_features(2, {"video": [0, 1]})
    assert isinstance(drivers, DriverFeatures)
    with torch.no_grad():
        first = dual(**given, drivers=drivers)
        again = dual(**(given | {"z_v": torch.randn_like(given["z_v"])}), drivers=drivers)
        other = dual(**(given | {"z_v": torch.randn_like(given["z_v"])}))
    assert again[0] is None, "no row of the video runs"
    torch.testing.assert_close(again[1], first[1], atol=5e-6, rtol=1e-5)
    assert not torch.allclose(other[1], first[1], atol=1e-3)


def test_a_driver_that_listens_is_computed_in_every_step():
    listening = tiny_harmony(tiny_interaction(), trained=True).requires_grad_(False)
    assert listening.driver_features(2, {"video": [0]}) is None
    assert model().driver_features(2, {"video": []}) is None
    guide = SyncCFG("sync")
    (kept, one), (anew, other) = (sampled(listening, "joint", keep, guide) for keep in (True, False))
    assert one == other
    for mine, theirs in zip(kept, anew, strict=True):
        assert torch.equal(mine, theirs)


def test_windows_are_those_of_the_whole_batch():
    dual = tiny_harmony(tiny_interaction(driver_isolated=True, band=BandConfig(0.0, rope="tower")), trained=True)
    guide = replace(SyncCFG("sync"), video_sync_scale=3.0)
    (kept, _), (anew, _) = (sampled(dual.requires_grad_(False), "joint", keep, guide) for keep in (True, False))
    for one, other in zip(kept, anew, strict=True):
        torch.testing.assert_close(one, other, atol=5e-6, rtol=1e-5)
