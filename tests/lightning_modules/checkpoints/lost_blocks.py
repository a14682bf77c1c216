"""What a disk does to files: a block of 4 KiB becomes zeros."""

from pathlib import Path

BLOCK = 4096


def lose_block(file: Path, offset: int) -> None:
    """Zeros at ``offset`` (as far as the file goes); size and name stay."""
    with file.open("r+b") as stream:
        size = stream.seek(0, 2)
        stream.seek(offset)
        stream.write(bytes(min(BLOCK, size - offset)))
