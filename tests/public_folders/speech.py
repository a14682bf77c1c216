"""Small real speech clips: each voice is a tone of its own pitch, each utterance a loudness of its own."""

import json
from fractions import Fraction
from pathlib import Path

import av
import torch

from components.media.writer import write_mp4, write_wav

FPS, RATE = 25, 16_000


def pitch(speaker: int) -> float:
    """The frequency in Hz by which a voice is known."""
    return 250.0 + 125.0 * speaker


def utterance(speaker: int, index: int, seconds: float) -> torch.Tensor:
    """The sound of one utterance: ``[S]``, amplitude ``0.1 * (index + 1)``."""
    times = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return (0.1 * (index + 1) * torch.sin(2 * torch.pi * pitch(speaker) * times)).float()


def write_speech(path: Path, speaker: int, index: int, seconds: float = 2.0, sound: bool = True) -> None:
    """Writes an utterance as ``.wav``, as ``.m4a`` (AAC) or as a 25 fps ``.mp4``.

    Frame k of a picture has the grey level ``4 * (k mod 60)``.
    """
    audio = utterance(speaker, index, seconds)
    if path.suffix == ".wav":
        write_wav(path, audio, RATE)
        return
    if path.suffix == ".m4a":
        write_m4a(path, audio)
        return
    grey = (torch.arange(round(seconds * FPS)) % 60 * 4).to(torch.uint8)
    video = grey[:, None, None, None].expand(-1, 3, 16, 16).contiguous()
    write_mp4(path, video, FPS, audio if sound else None, RATE, crf=4)


def write_m4a(path: Path, audio: torch.Tensor) -> None:
    """Writes float ``[S]`` as AAC in an mp4 container without picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        for begin in range(0, len(audio), 1024):
            block = audio[None, begin : begin + 1024].contiguous().numpy()
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, begin, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def heard(audio: torch.Tensor) -> tuple[int, int]:
    """Speaker and index of an utterance (a second or more of it)."""
    middle = audio[len(audio) // 4 : len(audio) // 4 + RATE // 2].double()
    spectrum = torch.fft.rfft(middle).abs()
    frequency = float(spectrum.argmax()) * RATE / len(middle)
    loudness = float(middle.square().mean().sqrt()) * 2**0.5
    return round((frequency - pitch(0)) / 125), round(loudness / 0.1) - 1


def write_manifest(folder: Path, seconds: float = 2.1, speakers: int = 2, utterances: int = 2) -> Path:
    """``speech.jsonl`` with a train and a test split: every speaker says something else in each of its clips."""
    rows = []
    for split in ("train", "test"):
        for speaker in range(speakers):
            for index in range(utterances):
                name = f"{split}_{speaker}_{index}"
                write_speech(folder / f"{name}.mp4", speaker, index, seconds)
                rows.append(
                    {
                        "id": name,
                        "video": f"{name}.mp4",
                        "caption": f"a face in front of wall {speaker}",
                        "audio_caption": "a voice in a room",
                        "transcript": f"the {['quick', 'slow'][index % 2]} fox, {speaker} times",
                        "language": "en",
                        "speaker": f"speaker {speaker}",
                        "split": split,
                    }
                )
    manifest = folder / "speech.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest
