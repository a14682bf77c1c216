"""A cache is whole or refused: whatever stops its writing, and whoever writes beside it."""

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from components.errors import InputError
from datamodules.prepared.store import Plan, Store
from datamodules.prepared.streaming import Items

ROOT = Path(__file__).parents[3]
CLIPS = {"clip": {"num_frames": 9}}
PLAN = Plan({"codec": {"class": "C"}}, CLIPS, {"codec": {"name": "c", "sha256": "0"}}, 2, 4, 3, "float32")


def item(number: int) -> bytes:
    return f"item {number}".encode() * (number + 1)


def fill(store: Store, *shards: int) -> None:
    for shard in shards or range(store.plan.num_shards):
        store.write(shard, map(item, store.plan.items_of(shard)))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_items_come_back_by_number_and_shards_in_any_order_make_the_same_bytes(tmp_path):
    one, other = Store(tmp_path / "one", PLAN), Store(tmp_path / "other", PLAN)
    fill(one)
    fill(other, 2, 0, 1)
    assert one.finish() and other.finish()
    assert tree(tmp_path / "one") == tree(tmp_path / "other")
    items = Items(str(tmp_path / "one"))
    assert [items[number] for number in (8, 0, 5, 3)] == [item(number) for number in (8, 0, 5, 3)]
    assert items.index["offsets"] == 2 and items.index["clips"] == CLIPS


def test_what_is_there_is_not_written_again(tmp_path):
    store = Store(tmp_path / "cache", PLAN)
    assert store.write(0, map(item, range(3)))
    assert not store.write(0, iter(()))  # nor even asked for
    assert not store.finish()


def test_a_shard_in_work_is_refused_and_so_is_an_unfinished_cache(tmp_path):
    store = Store(tmp_path / "cache", PLAN)
    fill(store, 0)
    with (tmp_path / "cache/.shard-00001.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"another avsync prepare is writing shard 1 of .*cache; wait for it"):
            fill(store, 1)
    with pytest.raises(
        InputError, match=r"is not whole: avsync prepare was stopped after 1 of its shards; run it again"
    ):
        Items(str(tmp_path / "cache"))


def test_what_a_kill_behind_the_last_record_leaves_is_tidied_up(tmp_path):
    undisturbed, killed = Store(tmp_path / "one", PLAN), Store(tmp_path / "other", PLAN)
    for store in (undisturbed, killed):
        fill(store)
    (tmp_path / "other/.shard-00001").mkdir()
    (tmp_path / "other/.shard-00001/0.index.json").write_bytes(b"{}")
    assert undisturbed.finish() and killed.finish()
    assert tree(tmp_path / "one") == tree(tmp_path / "other")


def test_a_chunk_without_its_record_is_written_again(tmp_path):
    """As a kill between the two leaves it."""
    store = Store(tmp_path / "cache", PLAN)
    fill(store)
    (tmp_path / "cache/shard-00001.json").unlink()
    (tmp_path / "cache/shard-00001.bin").write_bytes(b"half")
    (tmp_path / "cache/.shard-00001").mkdir()
    (tmp_path / "cache/.shard-00001/chunk-0-0.bin").write_bytes(b"half")
    again = Store(tmp_path / "cache", PLAN)
    assert not again.finish()
    fill(again)
    assert again.finish() and not (tmp_path / "cache/.shard-00001").exists()
    assert Items(str(tmp_path / "cache"))[4] == item(4)


@pytest.mark.parametrize("loses", [lambda chunk: chunk.write_bytes(b"half"), Path.unlink])
def test_what_is_lost_of_a_whole_cache_is_made_anew_as_its_error_says(tmp_path, loses):
    store = Store(tmp_path / "cache", PLAN)
    fill(store)
    assert store.finish()
    before = tree(tmp_path / "cache")
    loses(tmp_path / "cache/shard-00001.bin")
    with pytest.raises(InputError, match=r"or remove index\.json and run avsync prepare again"):
        Items(str(tmp_path / "cache"))
    (tmp_path / "cache/index.json").unlink()
    again = Store(tmp_path / "cache", PLAN)
    fill(again)
    assert again.finish() and tree(tmp_path / "cache") == before


@pytest.mark.parametrize("text", ["", '{"chunk": {', "[]"])
def test_a_damaged_record_makes_its_shard_anew_and_a_damaged_plan_is_named(tmp_path, text):
    store = Store(tmp_path / "cache", PLAN)
    fill(store)
    before = tree(tmp_path / "cache")
    (tmp_path / "cache/shard-00001.json").write_text(text)
    assert store.has(0) and not store.has(1)
    fill(store)
    assert tree(tmp_path / "cache") == before
    (tmp_path / "cache/plan.json").write_text(text)
    with pytest.raises(InputError, match=r"plan\.json is damaged.*give a new folder to --out"):
        Store(tmp_path / "cache", PLAN)


def test_a_cache_of_something_else_is_refused_by_name(tmp_path):
    Store(tmp_path / "cache", PLAN)
    with pytest.raises(InputError, match=r'another model: codec.class is "C" there, "D" here; prepare it anew'):
        Store(tmp_path / "cache", replace(PLAN, parts={"codec": {"class": "D"}}))
    with pytest.raises(InputError, match=r"another data set: clip.num_frames is 9 there, 17 here"):
        Store(tmp_path / "cache", replace(PLAN, clips={"clip": {"num_frames": 17}}))
    with pytest.raises(InputError, match=r'another setting: dtype is "float32" there, "bfloat16" here'):
        Store(tmp_path / "cache", replace(PLAN, dtype="bfloat16"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").touch()
    with pytest.raises(InputError, match=r"full is not empty \(it has thesis.tex\); give a new folder to --out"):
        Store(tmp_path / "full", PLAN)


def test_lost_and_cut_files_are_named(tmp_path):
    store = Store(tmp_path / "cache", PLAN)
    fill(store)
    store.finish()
    chunk = tmp_path / "cache/shard-00002.bin"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=rf"shard-00002.bin has {len(whole) - 1} bytes in place of {len(whole)}"):
        Items(str(tmp_path / "cache"))
    chunk.unlink()
    with pytest.raises(InputError, match=r"shard-00002.bin is missing; copy it anew"):
        Items(str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"holds no encoded clips; fill it with avsync prepare --out"):
        Items(str(tmp_path / "nothing"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/index.json").write_text(json.dumps({"chunks": [], "config": {}}))
    with pytest.raises(InputError, match="holds data of another kind"):
        Items(str(tmp_path / "other"))


def test_what_litdata_cannot_count_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.prepared.store._MOST_BYTES", 20)
    with pytest.raises(InputError, match=r"3 clips take 0\.0 GiB, more than .* with a smaller --clips_per_shard"):
        fill(Store(tmp_path / "cache", PLAN), 1)


def test_without_litdata_its_installation_is_asked_for(tmp_path, monkeypatch):
    fill(store := Store(tmp_path / "cache", PLAN))
    store.finish()
    monkeypatch.setitem(sys.modules, "litdata", None)
    for begin in (lambda: Store(tmp_path / "new", PLAN), lambda: Items(str(tmp_path / "cache"))):
        with pytest.raises(InputError, match=r"litdata is not installed.*pip install 'avsync\[stream\]'"):
            begin()


def test_a_full_disk_is_said_in_a_sentence_and_finished_shards_stay(tmp_path):
    """The limit of a process on its files stands in for the disk's end."""
    code = """
import resource, sys
from tests.datamodules.prepared.test_store import *
store = Store(Path(sys.argv[1]), PLAN)
fill(store, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    fill(store, 2)
except InputError as error:
    print(error)
"""
    folder = tmp_path / "cache"
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == (
        f"{folder} cannot be written (File too large); make room or give the permission, and run avsync prepare "
        "again: finished shards stay"
    ), run.stderr
    assert sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock")) == [
        "plan.json",
        "shard-00000.bin",
        "shard-00000.json",
    ]
    store = Store(folder, PLAN)
    fill(store)
    assert store.finish()
