"""S3FD at full size against SyncNet's public pipeline, with drawn weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch

from components.metrics.faces.s3fd import S3FD
from components.metrics.faces.s3fd_net import S3FDNet
from tests.golden.recipe_weights import recipe_tensor


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    files = sorted((metafunc.config.getoption("--golden-dir") / "metrics").glob("s3fd_recipe*.json"))
    metafunc.parametrize("case", [json.loads(file.read_text()) for file in files], ids=[file.name for file in files])


@torch.no_grad()
def test_network_and_boxes(case: dict[str, Any], tmp_path: Path) -> None:
    with torch.device("meta"):
        net = S3FDNet()
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == case["manifest"]
    assert sum(weight.numel() for weight in net.parameters()) == case["num_params"]
    state = {key: recipe_tensor(key, shape, case["recipe_seed"]) for key, shape in case["manifest"].items()}
    for key, scale in case["scales"].items():
        state[key] *= scale
    torch.save(state, tmp_path / "sfd_face.pth")
    detector = S3FD(tmp_path / "sfd_face.pth")

    picture = np.random.RandomState(0).randint(0, 256, (1, 3, 72, 100)).astype(np.float32) - 110
    probabilities, boxes = detector.net(torch.from_numpy(picture))
    assert probabilities.shape == (1, case["num_anchors"])
    chosen = case["anchors"]
    torch.testing.assert_close(probabilities[0, chosen], torch.tensor(case["probabilities"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(boxes[0, chosen], torch.tensor(case["boxes"]), atol=2e-3, rtol=1e-5)

    photograph = torch.from_numpy(np.array(skimage.data.astronaut()[:301, :402])).permute(2, 0, 1)
    for expected in case["detections"]:
        detector.confidence, detector.scale = expected["confidence"], expected["scale"]
        (found,) = detector.detect(photograph[None].float() / 255)
        torch.testing.assert_close(found, torch.tensor(expected["boxes"]), atol=5e-3, rtol=1e-5)
