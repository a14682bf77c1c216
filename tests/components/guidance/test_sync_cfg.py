"""SyncCFG: the paper's formula, what is off costs nothing, windows, and mistakes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.errors import InputError
from components.guidance.sync_cfg import SyncCFG

SCALES = st.floats(-2, 8)


def velocities() -> dict:
    values = torch.randn(4, 2, 6, 17, generator=torch.Generator().manual_seed(0)).double()
    return dict(zip(("joint", "negative", "silent", "still"), values, strict=True))


@given(SCALES, SCALES)
def test_the_papers_formulas(s_v: float, s_a: float):
    v = velocities()
    guidance = SyncCFG("sync", video_sync_scale=s_v, audio_sync_scale=s_a)
    video = v["silent"] + s_v * (v["joint"] - v["silent"])
    audio = v["still"] + s_a * (v["joint"] - v["still"])
    torch.testing.assert_close(guidance.video(0.5, True).combine(v), video)
    torch.testing.assert_close(guidance.audio(0.5, True).combine(v), audio)


@given(SCALES, SCALES)
def test_text_and_sync_add_up(g: float, s: float):
    v = velocities()
    guided = SyncCFG("text+sync", video_text_scale=g, video_sync_scale=s).video(0.5, True).combine(v)
    text = v["negative"] + g * (v["joint"] - v["negative"])
    torch.testing.assert_close(guided, text + (s - 1) * (v["joint"] - v["silent"]))


def test_scale_one_is_the_joint_prediction_itself():
    v = velocities()
    off = SyncCFG("text+sync", 1.0, 1.0, 1.0, 1.0)
    for modality in (off.video(0.5, True), off.audio(0.5, True), SyncCFG("none").video(0.5, True)):
        assert modality.combine({"joint": v["joint"]}) is v["joint"]
        assert modality.branches() == set()
    assert not off.guides_text
    assert not off.guides_sync


@pytest.mark.parametrize(
    ("guidance", "branches"),
    [
        ("none", set()),
        ("text", {"negative"}),
        ("sync", {"silent", "still"}),
        ("text+sync", {"negative", "silent", "still"}),
    ],
)
def test_branches_of_every_choice(guidance: str, branches: set):
    cfg = SyncCFG(guidance)
    assert cfg.video(0.5, True).branches() | cfg.audio(0.5, True).branches() == branches
    assert cfg.video(0.5, False).branches() == branches & {"negative"}, "no anchor, no sync guidance"
    assert cfg.guides_text == ("negative" in branches)
    assert cfg.guides_sync == ("silent" in branches)


def test_windows_are_per_correction_and_include_their_ends():
    cfg = SyncCFG(sync_sigmas=(0.3, 0.8), text_sigmas=(0.0, 0.5))
    assert cfg.video(0.3, True).branches() == {"negative", "silent"}
    assert cfg.video(0.8, True).branches() == {"silent"}
    assert cfg.audio(0.81, True).branches() == set()
    assert cfg.audio(0.2, True).branches() == {"negative"}


def test_anchors_that_take_the_negative_prompts_need_them():
    assert SyncCFG("sync", anchor_text="negative").guides_text
    assert not SyncCFG("sync").guides_text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance": "both"}, "guidance is 'both': give none, text, sync or text"),
        ({"anchor_text": "empty"}, "anchor_text is 'empty'"),
        ({"sync_sigmas": (0.8, 0.3)}, r"sync_sigmas is \[0.8, 0.3\]"),
        ({"text_sigmas": (0.0, 2.0)}, "text_sigmas"),
    ],
)
def test_mistakes_are_named(settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        SyncCFG(**settings)
