import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from callbacks.report.clip_videos import file_stem, side_by_side, to_uint8, watchable, write_picture


@given(height=st.integers(1, 50), width=st.integers(1, 50), min_side=st.integers(0, 200))
def test_watchable_repeats_pixels_to_even_sides(height, width, min_side):
    video = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    shown = watchable(video, min_side)
    out_height, out_width = shown.shape[-2:]
    assert min(out_height, out_width) >= min_side and not out_height % 2 and not out_width % 2
    factor = max(1, -(-min_side // min(height, width)))
    assert 0 <= out_height - height * factor <= 1 and 0 <= out_width - width * factor <= 1
    assert torch.equal(shown[..., : height * factor : factor, : width * factor : factor], video)
    assert torch.equal(shown[..., factor - 1 : height * factor : factor, factor - 1 : width * factor : factor], video)


def test_to_uint8_rounds_and_clips():
    video = torch.tensor([-0.2, 0.0, 0.5, 1.0, 1.7])
    assert to_uint8(video).tolist() == [0, 0, 128, 255, 255]
    assert to_uint8(torch.tensor([7], dtype=torch.uint8)).tolist() == [7]


def test_side_by_side_shows_every_video_whole_under_its_name():
    videos = {
        "left": torch.full((3, 3, 20, 40), 200, dtype=torch.uint8),
        "right": torch.full((2, 3, 30, 41), 100, dtype=torch.uint8),
    }
    videos["right"][1] = 50
    joined = side_by_side(videos)
    length, _, height, width = joined.shape
    assert length == 3 and not height % 2 and not width % 2
    assert (joined == 200).sum() >= 3 * 3 * 20 * 40
    assert (joined[0] == 100).sum() >= 3 * 30 * 41
    assert torch.equal(joined[1, :, :, 44:], joined[2, :, :, 44:]), "a shorter video stays on its last frame"
    strips = [joined[0, 0, :20, :40], joined[0, 0, :20, 44:84]]
    assert all(strip.max() > 150 for strip in strips), "there is text"
    assert not torch.equal(*strips)


@pytest.mark.parametrize(
    ("clip_id", "stem"), [("a_clip-00.x", "a_clip-00.x"), ("dog/a 1", "dog_a_1-"), ("../up", "_up-"), ("..", "-")]
)
def test_file_stems_are_plain_names(clip_id, stem):
    made = file_stem(clip_id)
    assert made.startswith(stem) and "/" not in made and not made.startswith(".")


def test_file_stems_leave_room_for_what_follows_and_differ_in_their_ends():
    ids = [f"{'long' * 57}{end}" for end in ("_a.b", "_c.d")] + [f"{'ünï' * 40}{end}" for end in "ab"]
    stems = [file_stem(name) for name in ids]
    assert len(set(stems)) == len(ids) and all(len(stem.encode()) <= 140 for stem in stems)
    assert stems == [file_stem(name) for name in ids]
    assert file_stem("a" * 100) == "a" * 100


def test_file_stems_differ_where_ids_do():
    ids = ["a/b", "a_b", "a b", "a//b", "a/b "]
    assert len({file_stem(name) for name in ids}) == len(ids)


def test_a_picture_is_written_whole(tmp_path):
    frame = torch.zeros(3, 40, 60, dtype=torch.uint8)
    frame[0, :, :30] = 250
    write_picture(tmp_path / "a.jpg", frame)
    assert [file.name for file in tmp_path.iterdir()] == ["a.jpg"]
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.format == "JPEG" and picture.size == (60, 40)
        assert picture.getpixel((10, 20))[0] > 230 and picture.getpixel((50, 20))[0] < 20
