import io
import wave

import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from callbacks.report.tensorboard import add_clip, add_sound
from tests.callbacks.jumping_squares import FRAMES, render


def test_clips_and_sounds_arrive_in_tensorboard(tmp_path):
    video = (render((10, 20)) * 255).to(torch.uint8)
    audio = torch.linspace(-2, 2, 8000)
    with SummaryWriter(str(tmp_path)) as writer:
        add_clip(writer, "clips/a", video, fps=24.0, step=5)
        add_sound(writer, "clips/a", audio, 8000, step=5)
    events = EventAccumulator(str(tmp_path)).Reload()
    (picture,), (sound,) = events.Images("clips/a"), events.Audio("clips/a")
    assert (picture.step, picture.width, picture.height) == (5, 32, 32)
    with Image.open(io.BytesIO(picture.encoded_image_string)) as gif:
        assert gif.n_frames >= 2 and gif.info["loop"] == 0
        total = 0
        for frame in range(gif.n_frames):  # frames without a change are drawn once, for longer
            gif.seek(frame)
            total += gif.info["duration"]
        assert abs(total - 1000 * FRAMES / 24) < 100, "it plays at the speed of the clip"
        gif.seek(0)
        shown = torch.tensor(list(gif.convert("RGB").getdata())).view(32, 32, 3).permute(2, 0, 1)
        assert (shown - video[0]).abs().float().mean() < 4
    with wave.open(io.BytesIO(sound.encoded_audio_string)) as track:
        assert track.getframerate() == 8000 and track.getnframes() == 8000
