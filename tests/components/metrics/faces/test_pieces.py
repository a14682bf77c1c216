import pytest
import torch
from torch.nn.functional import interpolate

from components.metrics.faces.pieces import SummedPictures

PICTURES = torch.randint(0, 256, (3, 3, 37, 53), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("size", [(9, 20), (37, 53), (36, 51), (80, 100)])
def test_whole_pictures_are_those_of_area_interpolation(size):
    found = SummedPictures(PICTURES).whole(*size)
    torch.testing.assert_close(found, interpolate(PICTURES.float(), size, mode="area"), atol=1e-4, rtol=0)


def test_pieces_are_those_of_area_interpolation():
    frames = torch.tensor([2, 0, 1, 0])
    boxes = torch.tensor([[0, 0, 53, 37], [7, 3, 8, 4], [10, 5, 40, 36], [50, 1, 53, 30]])
    found = SummedPictures(PICTURES).cut(frames, boxes, 24, 24)
    for piece, frame, (left, top, right, bottom) in zip(found, frames, boxes.tolist(), strict=True):
        cut = PICTURES[frame, :, top:bottom, left:right].float()
        torch.testing.assert_close(piece, interpolate(cut[None], (24, 24), mode="area")[0], atol=1e-4, rtol=0)


def test_sums_of_large_pictures_do_not_overflow():
    white = torch.full((1, 3, 2048, 4352), 255, dtype=torch.uint8)
    assert SummedPictures(white).whole(2, 2).unique().tolist() == [255]
