"""Speaking faces and struck things: mouths follow voices, voices belong to speakers, and silence is there, too."""

import json
import logging
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contracts import ClipBatch
from components.errors import InputError
from components.media.reader import probe
from components.metrics.cyclesync.matching import count_matches
from components.metrics.cyclesync.onsets import OnsetDetector
from datamodules import procedural_speech
from datamodules.procedural.speech_faces import MAX_SPEAKERS, face_of, opening
from datamodules.procedural.speech_sounds import (
    FIRST_S,
    MIN_DISTANCE_S,
    TAIL_S,
    Syllable,
    draw_utterance,
    loudness,
    most_syllables,
    render_speech,
    transcript,
    voice_of,
)
from datamodules.procedural_clips import SMALL_CLIPS
from datamodules.procedural_speech import Plan, ProceduralSpeech, plan_of
from datamodules.reading.clip_dataset import Clip
from datamodules.speech_clips import SpeechClips
from tests.datamodules.conftest import clip_of

RATE, FPS, FRAMES = 16000, 24.0, 49


def speech(root: Path, **more: Any) -> ProceduralSpeech:
    chosen = {
        "num_train": 24,
        "num_test": 12,
        "num_speakers": 4,
        "silent_share": 0.125,
        "still_share": 0.125,
        "batch_size": 4,
        "val_batch_size": 12,
    }
    clip = clip_of(more, **vars(SMALL_CLIPS))
    return ProceduralSpeech(str(root), clip=clip, **{**chosen, **more})


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> ProceduralSpeech:
    data = speech(tmp_path_factory.mktemp("speech"))
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def batch(rendered: ProceduralSpeech) -> ClipBatch:
    """The whole test split."""
    found: ClipBatch = next(iter(rendered.val_dataloader()))
    return found


def training_clips(data: ProceduralSpeech, mood: str) -> list[tuple[Plan, Clip]]:
    plans = plan_of(data.rendering, "train")
    return [(plan, data.dataset("train").parts[0][plan.index]) for plan in plans if plan.mood == mood]


def mouth_darkness(video: torch.Tensor) -> torch.Tensor:
    """Share of dark pixels where the mouth is: ``[T]`` of ``[T, 3, H, W]``."""
    return (video[:, :, 18:29, 8:24].float().amax(dim=1) < 100).float().mean(dim=(1, 2))


# --- the files ---------------------------------------------------------------------------------------------------


def test_the_folder_is_a_manifest_of_speech(rendered: ProceduralSpeech) -> None:
    plain = SpeechClips(str(rendered.root), clip=SMALL_CLIPS)
    assert plain.records("train") == rendered.records("train")
    assert plain.records("test") == rendered.records("val") == rendered.records("test")
    assert len(plain.records("train")) == 24
    info = probe(plain.records("train")[0].path)
    assert (info.num_frames, info.fps, info.height, info.width, info.sample_rate) == (FRAMES, FPS, 32, 32, RATE)
    assert info.duration_s == pytest.approx(FRAMES / FPS, abs=1e-3)
    settings = json.loads((rendered.folder / "manifest.json").read_text())
    assert settings["num_speakers"] == 4 and settings["strike_share"] == 0.25


def test_batches(batch: ClipBatch) -> None:
    assert batch.video.shape == (12, FRAMES, 3, 32, 32)
    assert batch.video.dtype == torch.uint8
    assert batch.audio.shape == (12, round(FRAMES / FPS * RATE))
    assert batch.reference_audio is not None and batch.reference_lengths is not None
    assert batch.reference_audio.shape == (12, 2 * RATE)
    assert batch.transcripts is not None and batch.onsets is not None
    struck = [not words for words in batch.transcripts]
    assert sum(struck) == 3
    for clip in range(12):
        assert bool(batch.reference_lengths[clip] == 0) is struck[clip]
        assert batch.reference_audio[clip].any() != struck[clip]
        assert len(batch.onsets[clip]) >= 1
        if struck[clip]:
            assert batch.captions[clip] in ("a bouncing ball", "a mallet striking a bar")
        else:
            assert batch.captions[clip].endswith(("face with black hair", "face with white hair"))
            syllables = batch.transcripts[clip].split()
            assert len(syllables) == len(batch.onsets[clip])
            assert all(len(text) == 2 and text[0] in "bmtk" and text[1] in "aioe" for text in syllables)
    assert {batch.captions[clip] for clip in range(12) if struck[clip]} == {
        "a bouncing ball",
        "a mallet striking a bar",
    }


def test_arguments_decide_every_byte(rendered: ProceduralSpeech, tmp_path: Path) -> None:
    def contents(data: ProceduralSpeech) -> dict[str, bytes]:
        return {str(p.relative_to(data.folder)): p.read_bytes() for p in data.folder.rglob("*") if p.is_file()}

    again = speech(tmp_path, seed=9, batch_size=1, reference_s=None)  # arguments that are not the rendering's
    again.prepare_data()
    assert again.folder.name == rendered.folder.name
    assert contents(again) == contents(rendered)
    for change in ({"render_seed": 1}, {"num_speakers": 3}, {"strike_share": 0.3}, {"fps": 25.0}, {"variety": 1.0}):
        assert speech(tmp_path, **change).folder != again.folder
    longer = speech(tmp_path, num_test=16)
    longer.prepare_data()
    longer_files = contents(longer)
    for name, content in contents(again).items():
        assert name in ("manifest.json", "speech.jsonl") or longer_files[name] == content


def test_the_second_use_renders_nothing(rendered: ProceduralSpeech, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("rendered again")

    monkeypatch.setattr(procedural_speech, "_render", fail)
    again = speech(rendered.folder.parent)
    again.prepare_data()
    assert len(again.records("train")) == 24


def test_an_interrupted_rendering_is_not_taken_for_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, count = procedural_speech._render_recording, 0

    def stop_at_three(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    small = {"num_train": 2, "num_test": 4, "num_speakers": 1}
    monkeypatch.setattr(procedural_speech, "_render_recording", stop_at_three)
    data = speech(tmp_path, **small)
    with pytest.raises(KeyboardInterrupt):
        data.prepare_data()
    with pytest.raises(InputError, match=r"is not rendered yet; call prepare_data\(\) first"):
        data.setup("fit")
    monkeypatch.undo()
    threads = [threading.Thread(target=speech(tmp_path, **small).prepare_data) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(data.records("test")) == 4
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [data.folder.name]


# --- sound and picture -------------------------------------------------------------------------------------------


def test_mouths_open_when_and_as_far_as_voices_are_loud(batch: ClipBatch) -> None:
    """From the decoded files: correlation of mouth and loudness, and the frame in which each mouth opens."""
    assert batch.transcripts is not None and batch.onsets is not None
    lags, correlations = [], []
    samples = torch.arange(FRAMES + 1).mul(RATE / FPS).round().long()
    for clip, words in enumerate(batch.transcripts):
        if not words:
            continue
        mouth = mouth_darkness(batch.video[clip])
        level = torch.stack([batch.audio[clip, a:b].square().mean().sqrt() for a, b in pairwise(samples.tolist())])
        both = torch.stack([level - level.mean(), mouth - mouth.mean()])
        shifts = {
            shift: float(torch.corrcoef(torch.stack([both[0, 3:-3], both[1].roll(-shift)[3:-3]]))[0, 1])
            for shift in range(-3, 4)
        }
        assert max(shifts, key=lambda shift: shifts[shift]) == 0
        correlations.append(shifts[0])
        for onset in batch.onsets[clip]:
            heard = int(onset * FPS)
            assert mouth[heard + 1 : heard + 3].max() > mouth[heard - 1] + 0.02
            lags.append(int(mouth[heard - 2 : heard + 3].diff().argmax()) - 1)  # 0: in the frame of the onset
    assert len(lags) >= 27
    assert np.mean(correlations) > 0.75
    assert set(lags) <= {0, 1}
    assert lags.count(0) > len(lags) / 3


def test_the_opening_is_the_mean_loudness_of_each_frame() -> None:
    syllables = [Syllable(0.5, "b", "a", 0.1, 0.8)]
    opened = opening(24, 24.0, syllables)
    assert opened[:12].max() == 0
    assert opened[12] == pytest.approx(0.8, abs=0.03)
    assert opened[13] == pytest.approx(0.8, abs=0.01)
    assert 0 < opened[16] < 0.4
    late = opening(24, 24.0, [replace(syllables[0], time_s=0.5 + 0.5 / 24)])
    assert late[12] == pytest.approx(0.4, abs=0.05)  # half of the frame
    assert np.array_equal(opening(24, 24.0, []), np.zeros(24))


def test_onsets_are_found_in_the_decoded_sound(batch: ClipBatch) -> None:
    assert batch.onsets is not None
    found = OnsetDetector()(batch.audio, batch.sample_rate)
    matched = sum(count_matches(list(true), times, [0.05])[0] for true, times in zip(batch.onsets, found, strict=True))
    assert matched == sum(map(len, batch.onsets)) == sum(map(len, found))


def test_strikes_are_seen_when_they_are_heard(batch: ClipBatch) -> None:
    assert batch.transcripts is not None and batch.onsets is not None
    checked = 0
    for clip, words in enumerate(batch.transcripts):
        if words:
            continue
        steps = (batch.video[clip, 1:].float() - batch.video[clip, :-1].float()).abs().mean(dim=(1, 2, 3))
        for onset in batch.onsets[clip]:
            frame = int(np.ceil(onset * FPS))
            assert abs(int(steps[frame - 4 : frame + 3].argmax()) - 3) <= 1
            checked += 1
    assert checked >= 3


# --- voices ------------------------------------------------------------------------------------------------------


def test_the_reference_is_another_utterance_of_the_same_speaker(rendered: ProceduralSpeech) -> None:
    """In both splits, by the sound itself: it is one of the speaker's other files, never the clip's own."""
    for split in ("train", "val"):
        dataset = rendered.dataset(split).parts[0]
        utterances = {
            record.id: (record.speaker, dataset[index].audio)
            for index, record in enumerate(dataset.records)
            if record.transcript is not None
        }
        for index, record in enumerate(dataset.records):
            if record.transcript is None:
                continue
            clip = dataset[index]
            assert clip.reference is not None
            scores = {}
            for name, (_, audio) in utterances.items():
                # the slot is 0.04 s shorter than the utterance, so it lies at most that much later
                spectrum = torch.fft.rfft(audio, 65536).conj() * torch.fft.rfft(clip.reference, 65536)
                peak = torch.fft.irfft(spectrum).max()
                scores[name] = float(peak / (audio.norm() * clip.reference.norm()))
            best = max(scores, key=lambda name: scores[name])
            assert scores[best] > 0.95
            assert best != record.id
            assert utterances[best][0] == record.speaker


def test_speakers_and_syllables_differ_in_their_spectra() -> None:
    """A nearest mean of few bands, of the burst and of the vowel, tells what is said."""
    rng = np.random.default_rng(0)
    bands = np.digitize(np.fft.rfftfreq(2048, 1 / RATE), np.geomspace(90, 7600, 24))

    def spectrum(consonant: str, vowel: str, speaker: int) -> np.ndarray:
        sound = render_speech([Syllable(0.0, consonant, vowel, 0.08, 1.0)], voice_of(speaker, 8), 3200, RATE, rng)
        parts = []
        for first, last in ((0, 480), (480, 2000)):
            power = np.square(np.abs(np.fft.rfft(sound[first:last] * np.hanning(last - first), 2048)))
            parts.append(np.log(np.bincount(bands, power) + 1e-2))
        return np.concatenate(parts)

    texts = [(c, v) for c in "bmtk" for v in "aioe"]
    for speaker in (0, 3, 7):
        known = {text: np.mean([spectrum(*text, speaker) for _ in range(6)], axis=0) for text in texts}
        heard = {text: spectrum(*text, speaker) for text in texts}
        right = 0
        for text, sound in heard.items():
            distances = {other: np.square(sound - mean).sum() for other, mean in known.items()}
            right += min(distances, key=lambda other: distances[other]) == text
        assert right >= 15
    pitches = [voice_of(speaker, 8).pitch_hz for speaker in range(8)]
    assert all(b / a > 1.1 for a, b in pairwise(pitches))
    scales = sorted(voice_of(speaker, 8).formant_scale for speaker in range(8))
    assert scales[0] >= 0.85 and scales[-1] <= 1.2 and scales[-1] - scales[0] > 0.25


def test_every_speaker_has_a_face_of_its_own() -> None:
    assert len({face_of(speaker).caption for speaker in range(MAX_SPEAKERS)}) == MAX_SPEAKERS
    assert face_of(6).caption == "an orange face with black hair"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), duration_s=st.floats(1.0, 5.0))
def test_utterances(seed: int, duration_s: float) -> None:
    syllables = draw_utterance(duration_s, np.random.default_rng(seed))
    times = [syllable.time_s for syllable in syllables]
    assert 3 <= len(times) <= most_syllables(duration_s) <= 6
    assert times[0] >= FIRST_S
    assert times[-1] <= duration_s - TAIL_S + 1e-9
    assert all(b - a >= MIN_DISTANCE_S - 1e-9 for a, b in pairwise(times))
    assert transcript(syllables).split() == [syllable.text for syllable in syllables]
    levels = loudness(np.linspace(0, duration_s, 2000), syllables)
    assert levels.min() >= 0
    assert levels.max() <= 1
    assert levels[0] == 0 and levels[-1] < 0.02


# --- silence and stillness ---------------------------------------------------------------------------------------


def test_silent_and_still_clips(rendered: ProceduralSpeech, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "avsync.data"):
        silent, still = training_clips(rendered, "silent"), training_clips(rendered, "still")
    assert not caplog.records  # silence on purpose is no news
    assert len(silent) == len(still) == 3
    spoken = {record.path for record in rendered.records("train") if record.transcript is not None}
    captions = {record.caption for record in rendered.records("train") if record.transcript is not None}
    for mood, found in (("silent", silent), ("still", still)):
        for plan, clip in found:
            record = rendered.records("train")[plan.index]
            assert clip.onsets == () and clip.transcript is None
            assert record.speaker is None  # or it would be a reference
            if plan.speaker is not None:
                assert clip.caption in captions
                assert record.reference in spoken and clip.reference_length == 2 * RATE
                assert mouth_darkness(clip.video).max() < 0.09
            else:
                assert clip.reference_length == 0
            level = float(clip.audio.square().mean().sqrt())
            steps = (clip.video[1:].float() - clip.video[:-1].float()).abs()
            if mood == "silent":
                assert not clip.audio.any()
            else:
                assert 0.005 < level < 0.04
                assert steps.mean() < 0.3 and steps.max() < 40
    assert {plan.mood for plan in plan_of(rendered.rendering, "test")} == {"sounding"}


@settings(max_examples=60, deadline=None)
@given(strike=st.floats(0, 1), silent=st.floats(0, 0.3), still=st.floats(0, 0.3), num=st.integers(1, 200))
def test_shares(rendered: ProceduralSpeech, strike: float, silent: float, still: float, num: int) -> None:
    asked = replace(rendered.rendering, num_train=num, strike_share=strike, silent_share=silent, still_share=still)
    plans = plan_of(asked, "train")
    assert abs(sum(plan.mood == "silent" for plan in plans) - silent * num) <= 1
    sounding = [plan for plan in plans if plan.mood == "sounding"]
    struck = [plan for plan in sounding if plan.scene is not None]
    assert abs(len(struck) - strike * len(sounding)) <= 1
    speakers = [plan.speaker for plan in sounding if plan.speaker is not None]
    assert speakers == [turn % 4 for turn in range(len(speakers))]
    assert plan_of(replace(asked, num_train=num + 7), "train")[:num] == plans


# --- arguments ---------------------------------------------------------------------------------------------------


def test_other_rates_and_sizes(tmp_path: Path) -> None:
    data = speech(
        tmp_path,
        height=48,
        width=64,
        fps=25.0,
        num_frames=41,
        sample_rate=22050,
        num_train=2,
        num_test=4,
        num_speakers=1,
    )
    data.prepare_data()
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert batch.video.shape == (4, 41, 3, 48, 64)
    assert batch.audio.shape == (4, round(41 / 25 * 22050))


def test_all_strikes_and_no_strikes(tmp_path: Path) -> None:
    struck = speech(tmp_path, strike_share=1.0, num_train=2, num_test=2)
    struck.prepare_data()
    struck.setup("validate")
    batch = next(iter(struck.val_dataloader()))
    assert batch.transcripts is None and not batch.reference_lengths.any()
    plans = plan_of(speech(tmp_path, strike_share=0.0).rendering, "train")
    assert all(plan.speaker is not None for plan in plans)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_train": 0}, "num_train is 0; at least 1 is needed"),
        ({"num_speakers": 17}, "num_speakers is 17; there are faces for 16"),
        ({"strike_share": 1.5}, r"strike_share is 1\.5; it must lie between 0 and 1"),
        ({"width": 33}, r"width is 33; H\.264 needs even sizes"),
        ({"num_frames": 17}, r"17 frames at 24 fps have no room for 3 syllables; raise clip.num_frames"),
        ({"num_test": 6}, r"num_test is 6, which gives 5 utterances to 4 speakers; each needs two"),
        ({"reference_s": 0.0}, r"reference_s is 0\.0; it must be positive"),
    ],
)
def test_wrong_arguments(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        speech(tmp_path, **change)
