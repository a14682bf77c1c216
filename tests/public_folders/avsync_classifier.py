"""ASVA's AVSync classifier as its checkpoint is unpacked: three diffusers folders with pickled weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from components.metrics.avsync_classifier.model import PARTS, AVSyncClassifier

CLASSES = {"audio_encoder": "AudioConv2DNet", "video_encoder": "VideoR2Plus1DNet", "head": "FCHead"}


def write_avsync_classifier(folder: Path, seed: int = 0) -> AVSyncClassifier:
    """A random classifier at its true size, also written into ``folder``."""
    torch.manual_seed(seed)
    classifier = AVSyncClassifier()
    for part in PARTS:
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps({"_class_name": CLASSES[part], "pretrained": False}))
        torch.save(classifier.get_submodule(part).state_dict(), folder / part / "diffusion_pytorch_model.bin")
    return classifier.eval()
