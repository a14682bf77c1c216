import json
from dataclasses import replace

import lightning as L
import pytest
import torch

from callbacks.clip_files import ClipFiles, described, round_to_levels
from callbacks.evaluation import EvaluationCallback
from components.errors import InputError
from components.media.reader import MediaReader
from tests.callbacks.jumping_squares import FRAMES, JUMPS, SIDE, JumpingSquares, SquareClips, clip_batch, generation

KINDS = ["generated", "off_sync", "real", "w0"]


class Seen(EvaluationCallback):
    def __init__(self):
        super().__init__()
        self.videos = {}

    def update(self, generation):
        for kind, item in {"generated": generation, **generation.variants}.items():
            self.videos |= {(kind, name): item.video[row] for row, name in enumerate(generation.reference.ids)}


def run(folder, *callbacks, verb="test"):
    trainer = L.Trainer(
        accelerator="cpu", default_root_dir=folder, logger=False, callbacks=list(callbacks), enable_progress_bar=False
    )
    getattr(trainer, verb)(JumpingSquares(), datamodule=SquareClips(), verbose=False)


@pytest.mark.parametrize("verb", ["test", "validate"])
def test_files_hold_what_the_next_callback_sees(tmp_path, capsys, verb):
    seen = Seen()
    run(tmp_path, ClipFiles(), seen, verb=verb)
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == KINDS
    assert "(generated, w0, off_sync, real)" in capsys.readouterr().out.replace("\n", "")
    for kind in KINDS:
        rows = [json.loads(line) for line in (tmp_path / "clips" / kind / "metadata.jsonl").read_text().splitlines()]
        assert sorted(row["id"] for row in rows) == sorted(JUMPS)
        assert {(row["recording"], row["caption"]) for row in rows if row["id"] == "bell/c_1"} == {("bell/c", "bell")}
        for row in rows:
            with MediaReader(tmp_path / "clips" / kind / row["file_name"]) as media:
                video = media.video(0.0, FRAMES, 24.0, SIDE, SIDE)
                sound = media.audio(0.0, round(FRAMES / 24 * 16_000), 16_000)
            batch = clip_batch([row["id"]])
            assert torch.equal(sound, batch.audio[0])
            wanted = batch.video[0] if kind == "real" else seen.videos[kind, row["id"]]
            assert torch.equal(video if kind == "real" else video.float() / 255, wanted)


def test_rounding_is_that_of_files():
    made = generation(clip_batch(["bell/c_0"]))
    made = replace(made, video=torch.rand_like(made.video))
    levels = (made.video * 255).round().to(torch.uint8)
    round_to_levels(made, "generated")
    assert torch.equal(made.video, levels.float() / 255)
    with pytest.raises(InputError, match=r"\(w0\) are bfloat16"):
        round_to_levels(replace(made, video=made.video.bfloat16()), "w0")


def test_what_is_known_is_told_and_nothing_else():
    batch = replace(
        clip_batch(["bell/c_0", "frog/b_0"]),
        transcripts=["ding", ""],
        languages=["en", ""],
        subsets=["speech", "ambient"],
        onsets=None,
    )
    assert described(batch, 0) == {
        "id": "bell/c_0",
        "recording": "bell/c",
        "caption": "bell",
        "split": "test",
        "transcript": "ding",
        "language": "en",
        "subset": "speech",
    }
    assert "transcript" not in described(batch, 1) and "language" not in described(batch, 1)
