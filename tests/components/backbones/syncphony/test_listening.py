"""Frames of one size are one run, whichever clips they belong to; padding is told apart from sound."""

import torch

from components.backbones.pyramid_flow.column import token_layout
from components.backbones.syncphony.audio_windows import AudioTimeline
from components.backbones.syncphony.listening import Listening
from tests.tiny_syncphony import FPS, TEMPORAL_FACTOR, audio_features

CPU = torch.device("cpu")


def test_neighbouring_clips_of_one_resolution_are_one_run():
    windows = AudioTimeline().windows(audio_features(2, 2.0), 5, 16, FPS, TEMPORAL_FACTOR)
    layout = token_layout(((2, 1, 2), (1, 1, 2), (1, 2, 4), (1, 2, 4)), 3, CPU)
    listening = Listening.of(layout, windows)
    assert listening.runs == ((3, 2), (2, 8)) and listening.frames == [3, 2] and listening.first_frame == 0
    assert listening.rope.shape == (2, 22, 8) and listening.hears.shape == (2, 22, 1) and listening.hears.all()
    width = windows.index.shape[1]
    assert [allowed.shape for allowed in listening.allowed] == [(6, 1, 1, width), (4, 1, 1, width)]
    assert torch.equal(listening.allowed[1].reshape(2, 2, width), windows.audible[:, 3:5])


def test_a_frame_without_sound_may_see_all_and_hears_nothing():
    audio = audio_features(2, 2.0)
    audio.mask[0, 19:35] = False  # all of latent 2 in row 0
    windows = AudioTimeline().windows(audio, 4, 16, FPS, TEMPORAL_FACTOR)
    listening = Listening.of(token_layout(((1, 1, 2), (2, 2, 4)), 0, CPU, first_frame=1), windows)
    assert listening.first_frame == 1 and listening.runs == ((1, 2), (2, 8))
    assert listening.allowed[1][0].all()  # no row of a softmax is empty
    hears = listening.hears[..., 0]
    assert hears[1].all() and hears[0].tolist() == [True] * 2 + [False] * 8 + [True] * 8
