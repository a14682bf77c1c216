import pytest
import torch

from components.metrics.syncnet.tracking import FaceDetector, WholeFrame


def test_a_detector_has_to_detect():
    with pytest.raises(TypeError, match="detect"):
        FaceDetector()


def test_the_whole_frame_has_no_boxes_and_no_weights():
    whole = WholeFrame()
    assert whole.detect(torch.zeros(2, 3, 8, 8)) is None
    assert not whole.state_dict()
