import json
from pathlib import Path

import pytest

from components.errors import InputError
from datamodules.reading.named_media import NamedMedia
from datamodules.reading.prompt_list import SUBSETS, Prompt, is_prompt_list, read_prompts

OWN = Path(__file__).parents[3] / "configs/eval/harmony_bench_own.jsonl"


def read(folder, *rows):
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return read_prompts(path, NamedMedia(folder, absolute=True))


def test_the_benchmarks_form_and_a_manifests(tmp_path):
    (tmp_path / "face.png").write_bytes(b"")
    found = read(
        tmp_path,
        {"subset": "ambient", "audio caption": "rain", "video caption": "a roof"},
        {
            "id": "b",
            "subset": "speech",
            "spoken word zh": "你好",
            "video caption": "a man",
            "reference_image": "face.png",
        },
        {"id": "c", "caption": "a cook", "audio_caption": "oil", "transcript": "now", "language": "en", "subset": ""},
    )
    assert found == [
        Prompt("0000", "a roof", "rain", None, None, "ambient"),
        Prompt("b", "a man", None, "你好", "zh", "speech", image=tmp_path / "face.png"),
        Prompt("c", "a cook", "oil", "now", "en"),
    ]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"spoken word en": "a", "spoken word zh": "b"}, "line 1: the row has words in en and in zh"),
        ({"spoken word en": "a", "transcript": "b"}, "says the transcript twice"),
        ({"spoken word en": "a", "language": "zh"}, "words in en and the language zh"),
        ({"video caption": "a", "colour": "red"}, "unknown column 'colour'; the columns are id, subset"),
        ({"id": "a", "subset": "speech"}, "neither a video caption nor an audio caption nor spoken words"),
        ({"video caption": "a", "reference_image": "gone.png"}, "gone.png does not exist"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, row, sentence):
    with pytest.raises(InputError, match=sentence):
        read(tmp_path, row)


def test_ids_are_unique_and_a_list_has_rows(tmp_path):
    with pytest.raises(InputError, match="line 2: the row repeats the id 'a' of line 1"):
        read(tmp_path, {"id": "a", "caption": "x"}, {"id": "a", "caption": "y"})
    with pytest.raises(InputError, match="has no rows"):
        read(tmp_path)


def test_prompts_are_told_from_clips(tmp_path):
    for row, prompts in (({"caption": "x"}, True), ({"video": "a.mp4", "caption": "x"}, False)):
        (tmp_path / "list.jsonl").write_text(json.dumps(row))
        assert is_prompt_list(tmp_path / "list.jsonl") is prompts


def test_our_own_set_has_the_benchmarks_form():
    found = read_prompts(OWN, NamedMedia(OWN.parent))
    assert {subset: sum(prompt.subset == subset for prompt in found) for subset in SUBSETS} == dict.fromkeys(SUBSETS, 4)
    for prompt in found:
        assert (prompt.transcript is None) == (prompt.subset == "ambient") == (prompt.language is None)
        assert (prompt.scene is None) == (prompt.subset == "speech")
        assert prompt.subset == "speech" or prompt.language in (None, "en")
    assert {prompt.language for prompt in found if prompt.subset == "speech"} == {"en", "zh"}
