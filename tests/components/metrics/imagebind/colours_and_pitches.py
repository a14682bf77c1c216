"""A small embedding model that knows what it does: colours, pitches and the names of colours in one space."""

import torch
from torch import nn

from components.contracts import ClipBatch, Generation
from components.metrics.imagebind.embedding import EmbeddingModel
from components.metrics.scorers import real_clips

RATE = 16_000
COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}
PITCHES = {"red": 200.0, "green": 1000.0, "blue": 5000.0}


class ColoursAndPitches(EmbeddingModel):
    """Red goes with sound below 500 Hz, green with that up to 2 kHz, blue with what is above, and all with words."""

    image_size = 8

    def __init__(self):
        super().__init__()
        self.space = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.space.weight.copy_(torch.eye(3))

    def pictures(self, frames):
        assert frames.shape[1:] == (3, 8, 8)
        return self.space(frames.mean(dim=(2, 3)))

    def sounds(self, waveform):
        power = torch.fft.rfft(waveform).abs().square()
        hertz = torch.arange(power.shape[1]) * RATE / waveform.shape[1]
        bands = [(hertz < 500), (hertz >= 500) & (hertz < 2000), (hertz >= 2000)]
        return self.space(torch.stack([power[:, band].sum(dim=1) for band in bands], dim=1).sqrt())

    def texts(self, prompts):
        return self.space(torch.tensor([[float(colour in prompt) for colour in COLOURS] for prompt in prompts]))

    def identity(self):
        return {"model": "colours and pitches"}


def video_of(colours, fps=24.0, seconds_each=1.0, side=(20, 32)):
    """``[T, 3, H, W]`` that shows one colour after the other."""
    frames = [torch.tensor(COLOURS[colour]).view(3, 1, 1).expand(3, *side) for colour in colours]
    return torch.stack(frames).repeat_interleave(round(fps * seconds_each), dim=0)


def sound_of(colours, rate=RATE, seconds_each=1.0):
    """``[S]`` of one pitch after the other."""
    seconds = torch.arange(round(rate * seconds_each)) / rate
    return torch.cat([0.5 * torch.sin(2 * torch.pi * PITCHES[colour] * seconds) for colour in colours])


def clips(*pairs, fps=24.0, rate=RATE, captions=None, **batch):
    """Clips of (colours seen, colours heard), one second each, with the colours seen as caption."""
    video = torch.stack([video_of(seen, fps) for seen, _ in pairs])
    names = [f"clip{index}" for index in range(len(pairs))]
    given = ClipBatch(
        ids=names,
        video=(255 * video).round().to(torch.uint8),
        fps=fps,
        audio=torch.stack([sound_of(heard, rate) for _, heard in pairs]),
        sample_rate=rate,
        captions=captions or [" ".join(seen) for seen, _ in pairs],
        **{"video_ids": names, **batch},
    )
    return real_clips(given)


def with_sound(generation: Generation, audio) -> Generation:
    """The same pictures beside another sound."""
    return Generation(
        video=generation.video,
        fps=generation.fps,
        audio=audio,
        sample_rate=generation.sample_rate,
        reference=generation.reference,
    )
