"""MTCNN against the boxes of facenet-pytorch on photographs that ship with scikit-image."""

import json
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch

from components.metrics.faces.mtcnn import MTCNN


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    files = sorted((metafunc.config.getoption("--golden-dir") / "metrics").glob("mtcnn_boxes*.json"))
    cases = {f"{file.name}-{i}": case for file in files for i, case in enumerate(json.loads(file.read_text())["cases"])}
    metafunc.parametrize("case", cases.values(), ids=cases.keys())


def photograph(name: str) -> np.ndarray:
    if name == "lfw_subset":
        portraits = (skimage.data.lfw_subset()[:28] * 255).clip(0, 255).astype(np.uint8).repeat(4, 1).repeat(4, 2)
        wall = np.zeros((4, 120, 7, 120), np.uint8)
        wall[:, 10:110, :, 10:110] = portraits.reshape(4, 7, 100, 100).transpose(0, 2, 1, 3)
        picture = wall.reshape(480, 840)
    else:
        picture = getattr(skimage.data, name)()
    return np.stack([picture] * 3, -1) if picture.ndim == 2 else picture[..., :3]


def test_boxes(case: dict[str, Any]) -> None:
    detector = MTCNN(min_face_size=case["min_face_size"], thresholds=case["thresholds"])
    frame = torch.from_numpy(photograph(case["picture"])).permute(2, 0, 1)[None].float() / 255
    (found,) = detector.detect(frame)
    boxes = torch.tensor(case["boxes"], dtype=torch.float32).view(-1, 4)
    torch.testing.assert_close(torch.tensor(sorted(found.tolist())).view(-1, 4), boxes, atol=2e-3, rtol=0)
