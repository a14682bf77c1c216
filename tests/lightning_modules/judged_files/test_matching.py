import json
import time
from pathlib import Path

import pytest

from callbacks.report.clip_videos import file_stem
from components.errors import InputError
from lightning_modules.judged_files.matching import listed_files, matched


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def found(folder, clips, ignore_others=False):
    return {
        clip: str(file.relative_to(folder))
        for clip, file in matched(str(folder), listed_files(str(folder)), clips, ignore_others).items()
    }


def test_by_path_by_written_name_and_by_the_end_of_the_name(tmp_path):
    written = f"{file_stem('bell/c_1')}.mov"
    touch(tmp_path, "dog/1.mp4", "2.mkv", written, ".hidden.mp4", "notes.txt")
    assert found(tmp_path, ["dog/1", "cat/2", "bell/c_1"]) == {
        "dog/1": "dog/1.mp4",
        "cat/2": "2.mkv",
        "bell/c_1": written,
    }


def test_a_table_says_which_file_is_whose(tmp_path):
    touch(tmp_path, "x.mp4", "y.mp4")
    rows = [{"file_name": "x.mp4", "id": "b"}, {"file_name": "y.mp4", "id": "a"}]
    for name in ("metadata.jsonl", "elsewhere.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert found(tmp_path, ["a", "b"]) == {"a": "y.mp4", "b": "x.mp4"}
    table = str(tmp_path / "elsewhere.jsonl")
    assert matched(table, listed_files(table), ["a", "b"], False)["a"] == tmp_path / "y.mp4"


def test_a_table_may_count_from_0(tmp_path):
    touch(tmp_path, "x.mp4", "y.mp4")
    rows = [{"video": "x.mp4", "id": 0}, {"video": "y.mp4", "id": 1}]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert found(tmp_path, ["0", "1"]) == {"0": "x.mp4", "1": "y.mp4"}


def test_folders_more_or_less_are_no_matter_and_other_folders_are(tmp_path):
    touch(tmp_path, "made/dog/1.mp4", "2.mp4")
    assert found(tmp_path, ["dog/1", "all/cat/2"]) == {"dog/1": "made/dog/1.mp4", "all/cat/2": "2.mp4"}
    touch(tmp_path, "cat/3.mp4")
    with pytest.raises(InputError, match="no file for 1 of 3 clips: dog/3;"):
        found(tmp_path, ["dog/1", "all/cat/2", "dog/3"])


def test_the_same_end_twice_is_no_name(tmp_path):
    touch(tmp_path, "1.mp4")
    with pytest.raises(InputError, match="no file for 2 of 2 clips: cat/1, dog/1; its files are called 1;"):
        found(tmp_path, ["cat/1", "dog/1"])


@pytest.mark.parametrize(
    ("names", "clips", "sentence"),
    [
        (["a.mp4"], ["a", "b", "c"], "no file for 2 of 3 clips: b, c; name files after"),
        (["a.mp4", "b.mp4", "c.mp4"], ["a"], r"2 files that belong to no clip: \S+b.mp4, \S+c.mp4; remove"),
        (["a.mp4", "x/y/a.mov"], ["y/a"], r"clip y/a has two files, \S+a.mp4 and \S+a.mov; leave one"),
        (["a.mp4", "x/a.mov"], ["y/a"], r"1 file that belongs to no clip: \S+x/a.mov; remove"),
        (["a.mov", "a.mp4"], ["a"], r"clip a has two files, \S+a.mov and \S+a.mp4; leave one"),
        (["dog/1.mp4"], ["1", "dog/1"], "no file for 1 of 2 clips: 1; name files after"),
        (["notes.txt"], ["a"], "holds no videos"),
        ([f"{n}.mp4" for n in "abcdefg"], ["a"], r"6 files that belong to no clip: .*f.mp4 and 1 more"),
    ],
)
def test_what_does_not_match_is_named(tmp_path, names, clips, sentence):
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=sentence):
        found(tmp_path, clips)


def test_others_can_be_ignored(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    assert found(tmp_path, ["a"], ignore_others=True) == {"a": "a.mp4"}


def test_of_two_files_of_one_name_none_is_chosen_in_silence(tmp_path):
    touch(tmp_path, "a.mp4", "a.mov")
    with pytest.raises(InputError, match="clip a has two files"):
        found(tmp_path, ["a"], ignore_others=True)


def test_many_files_are_matched_at_once():
    clips = [f"class{number % 9}/{number}" for number in range(10_000)]
    files = {Path(f"/made/{clip}.mp4"): clip for clip in clips}
    begin = time.process_time()
    assert len(matched("/made", files, clips, False)) == len(clips)
    assert time.process_time() - begin < 10  # a set of all files for each of them takes minutes


def test_tables_that_lie(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,id\ngone.mp4,a\n")
    with pytest.raises(InputError, match=r"line 2: \S+gone.mp4 does not exist"):
        listed_files(str(tmp_path))
    (tmp_path / "metadata.csv").write_text("id,caption\na,b\n")
    with pytest.raises(InputError, match="line 2: the row names no file"):
        listed_files(str(tmp_path))
    with pytest.raises(InputError, match="does not exist"):
        listed_files(str(Path(tmp_path) / "nothing"))
