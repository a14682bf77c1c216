"""Small AVSync classifiers: a random one that hears and sees something, and one that has learnt a little."""

import torch
from torch import nn

from components.metrics.avsync_classifier.model import AVSyncClassifier
from components.metrics.imagebind.mel import imagebind_mel
from components.metrics.imagebind.pictures import clip_normalised
from tests.components.metrics.imagebind.colours_and_pitches import sound_of, video_of


def small_classifier(seed=0):
    """Scores of different clips differ by about 1."""
    torch.manual_seed(seed)
    net = AVSyncClassifier((4, 4, 6, 8))
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            # PyTorch's own start shrinks differences layer by layer
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return net.eval()


def taught_classifier(steps=300):
    """One whose head has learnt that red goes with a low pitch and blue with a high one, from all pairs."""
    colours = ("red", "blue")
    net = small_classifier()
    with torch.no_grad():
        videos = [clip_normalised(video_of([colour], 12.0, side=(224, 224))) for colour in colours]
        seen = [net.video_encoder(video.transpose(0, 1)[None]) for video in videos]
        heard = [net.audio_encoder(imagebind_mel(sound_of([colour] * 2)[None])[:, None]) for colour in colours]
    pairs = [(sound, video) for sound in heard for video in seen]
    both = [torch.cat(column) for column in zip(*pairs, strict=True)]
    belong = torch.tensor([1.0, 0.0, 0.0, 1.0])
    optimizer = torch.optim.Adam(net.head.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(net.head(*both), belong).backward()
        optimizer.step()
    return net
