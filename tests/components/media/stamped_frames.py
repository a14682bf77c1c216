"""Pictures that show their number."""

import numpy as np

BITS = 8


def stamp(index: int, height: int = 64, width: int = 64) -> np.ndarray:
    """A picture that shows its number: black and white bands, one per bit."""
    bits = [(index >> bit) & 1 for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 255, width // BITS)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def read_stamps(video: np.ndarray) -> list[int]:
    """The numbers shown in uint8 ``[T, 3, H, W]``."""
    band = video.shape[-1] // BITS
    middle = video[:, 0, video.shape[-2] // 2, band // 2 :: band] > 127
    return [int(sum(int(on) << bit for bit, on in enumerate(row))) for row in middle]
