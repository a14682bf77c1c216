"""Speech with pictures and sounds without, one to one: what comes when, and after an interruption."""

import json
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
from jsonargparse import ArgumentParser

from components.contracts import ClipBatch
from components.errors import InputError
from components.media.clock import ClipShape
from datamodules.mixture import Mixture
from datamodules.procedural_speech import ProceduralSpeech
from datamodules.speech_clips import SpeechClips
from tests.datamodules.reading.test_clip_data_module import Recorder, trainer
from tests.public_folders.speech import RATE, write_speech

CLIP = ClipShape(num_frames=12, fps=12, height=16, width=16, sample_rate=RATE)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three talking heads and seven sounds to train on, two and three to evaluate; names are the same in both."""
    folder = tmp_path_factory.mktemp("mixture")
    for kind, counts in (("speech", {"train": 3, "test": 2}), ("ambient", {"train": 7, "test": 3})):
        rows = []
        for split, count in counts.items():
            for index in range(count):
                name = f"{split}_{index}"
                file = f"{kind}/{name}.{'mp4' if kind == 'speech' else 'wav'}"
                write_speech(folder / file, 0 if kind == "speech" else 1, index % 5, seconds=1.6)
                rows.append({"id": name, "video" if kind == "speech" else "audio": file, "split": split})
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def mixture(root: Path, **more: Any) -> Mixture:
    sets = {
        "speech": partial(SpeechClips, str(root / "speech.jsonl"), reference_s=0.5),
        "ambient": partial(SpeechClips, str(root / "ambient.jsonl"), audio_only=True, reference_s=0.5),
    }
    settings = {"clip": CLIP, "batch_size": 2, "val_batch_size": 2, "num_workers": 0, "seed": 5}
    return Mixture(**{"sets": sets, "weights": {"speech": 1, "ambient": 1}, **settings, **more})


def trained(root: Path, count: int, consumed: int = 0, **more: Any) -> list[ClipBatch]:
    module = mixture(root, **more)
    module.setup("fit")
    module.load_state_dict({"consumed_samples": consumed})
    return list(islice(module.train_dataloader(), count))


def kind_of(batch: ClipBatch) -> str:
    (kind,) = {name.split("/")[0] for name in batch.ids}
    return kind


def test_batches_are_of_one_set_and_the_sets_come_one_to_one(root: Path) -> None:
    batches = trained(root, 32)
    kinds = [kind_of(batch) for batch in batches]
    assert kinds[:16].count("speech") == kinds[16:].count("speech") == 8
    for batch, kind in zip(batches, kinds, strict=True):
        assert batch.video.shape == (2, 12 if kind == "speech" else 0, 3, 16, 16)
        assert batch.audio.shape == (2, RATE)
        assert batch.reference_audio is not None and batch.reference_audio.shape == (2, RATE // 2)
        assert all(name.startswith(f"{kind}/") for name in batch.video_ids)
    assert [batch.position for batch in batches] == list(range(0, 64, 2))
    # each set goes through its own passes
    for kind, size in (("speech", 3), ("ambient", 7)):
        names = [name.split("@")[0] for batch in batches if kind_of(batch) == kind for name in batch.ids]
        passes = [names[begin : begin + size] for begin in range(0, len(names) - size + 1, size)]
        assert len(passes) > 3 and all(len(set(one)) == size for one in passes)
    other = [kind_of(batch) for batch in trained(root, 32, seed=6)]
    assert other != kinds


def test_weights_say_how_often_a_set_comes(root: Path) -> None:
    kinds = [kind_of(batch) for batch in trained(root, 64, weights={"speech": 3.0, "ambient": 1})]
    assert kinds.count("speech") == 48
    assert [kind_of(batch) for batch in trained(root, 16, weights=None)].count("speech") == 8


def test_one_set_alone_is_that_set_in_an_order_of_its_own(root: Path) -> None:
    sets = {"only": partial(SpeechClips, str(root / "ambient.jsonl"), audio_only=True)}
    batches = trained(root, 7, sets=sets, weights=None)
    assert len({name.split("@")[0] for batch in batches[:3] for name in batch.ids}) == 6
    assert all(kind_of(batch) == "only" for batch in batches)
    assert mixture(root, sets=sets, weights=None).state_dict() == {"consumed_samples": 0}


def train(root: Path, folder: Path, steps: int, ckpt: Path | None = None, **more: Any) -> Recorder:
    model, module = Recorder(), mixture(root, **more)
    run = trainer(folder, steps, limit_val_batches=0)
    run.fit(model, datamodule=module, ckpt_path=ckpt, weights_only=False)
    run.save_checkpoint(folder / f"{steps}.ckpt")
    assert module.state_dict() == {"consumed_samples": steps * 2, "samples_in_a_row": 2}
    return model


def test_resuming_twice_gives_the_uninterrupted_order(root: Path, tmp_path: Path) -> None:
    whole = train(root, tmp_path, 21)
    first = train(root, tmp_path, 5)
    second = train(root, tmp_path, 17, tmp_path / "5.ckpt", num_workers=1)
    third = train(root, tmp_path, 21, tmp_path / "17.ckpt")
    assert first.train_ids + second.train_ids + third.train_ids == whole.train_ids
    assert first.positions + second.positions + third.positions == whole.positions == list(range(0, 42, 2))


def on_rank(module: Mixture, rank: int, world_size: int) -> Mixture:
    """The module as one of several processes sees it, which have not begun."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=0, completed=0))
    module.trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=world_size,
        global_rank=rank,
        lightning_module=None,
        max_epochs=-1,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        overfit_batches=0,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
    )
    module.setup("fit")
    return module


def test_ranks_work_at_one_set_and_a_run_goes_on_with_another_number_of_them(root: Path) -> None:
    """Two ranks, then one with their turns, then two again: the order of an undisturbed single rank."""
    single = [name for batch in trained(root, 24, samples_in_a_row=4) for name in batch.ids]
    ranks = [on_rank(mixture(root), rank, 2) for rank in range(2)]
    loaded = [list(islice(module.train_dataloader(), 6)) for module in ranks]
    steps = list(zip(*loaded, strict=True))
    assert all(kind_of(one) == kind_of(two) for one, two in steps)
    seen = [name for step in steps for batch in step for name in batch.ids]
    state = {**ranks[0].state_dict(), "consumed_samples": 24}
    assert state["samples_in_a_row"] == 4
    for world_size, count in ((1, 6), (2, 3)):
        modules = [mixture(root) for _ in range(world_size)]
        for rank, module in enumerate(modules):
            on_rank(module, rank, world_size).load_state_dict(state)
        loaded = [list(islice(module.train_dataloader(), count)) for module in modules]
        seen += [name for step in zip(*loaded, strict=True) for batch in step for name in batch.ids]
        state = {**modules[0].state_dict(), "consumed_samples": len(seen)}
        assert state["samples_in_a_row"] == 4
    assert seen == single


def test_turns_that_do_not_fit_are_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = on_rank(mixture(root), 0, 2)
    module.load_state_dict({"consumed_samples": 6, "samples_in_a_row": 2})
    with caplog.at_level("WARNING", "avsync.data"):
        module.train_dataloader()
    assert "samples_in_a_row is 2, no multiple of the 4 clips of a step" in caplog.text
    module = mixture(root, samples_in_a_row=3)
    module.setup("fit")
    with pytest.raises(InputError, match="samples_in_a_row is 3, no multiple of batch_size, 2: a batch would have"):
        module.train_dataloader()
    module = mixture(root, samples_in_a_row=8)
    with pytest.raises(InputError, match="samples_in_a_row is 8, but the checkpoint's run takes 4"):
        module.load_state_dict({"consumed_samples": 6, "samples_in_a_row": 4})


@pytest.mark.parametrize(
    ("epoch", "weights", "batches"),
    [("longest", (1, 1), 7), ("shortest", (1, 1), 3), ("longest", (1, 3), 6), ("longest", (3, 1), 14), (10, (1, 1), 5)],
)
def test_a_pass(root: Path, tmp_path: Path, epoch: Any, weights: tuple[int, int], batches: int) -> None:
    """Three speech clips and seven sounds, two a batch."""
    module = mixture(root, epoch=epoch, weights=dict(zip(("speech", "ambient"), weights, strict=True)))
    model = Recorder()
    by_epochs = {"check_val_every_n_epoch": 1, "val_check_interval": 1.0, "limit_val_batches": 0}
    run = trainer(tmp_path, -1, max_epochs=2, **by_epochs)
    run.fit(model, datamodule=module)
    assert run.global_step == 2 * batches
    assert model.positions == list(range(0, 4 * batches, 2))


def test_evaluation_shows_the_lists_one_after_another(root: Path, tmp_path: Path) -> None:
    model, module = Recorder(), mixture(root)
    trainer(tmp_path, 4).fit(model, datamodule=module)
    everything = ["speech/test_0", "speech/test_1", "ambient/test_0", "ambient/test_1", "ambient/test_2"]
    assert model.val_ids == everything
    trainer(tmp_path, 4).validate(model := Recorder(), datamodule=mixture(root, evaluate=["ambient"]))
    assert model.val_ids == everything[2:]
    sets = {
        "speech": partial(SpeechClips, str(root / "speech.jsonl"), max_val_clips=1),
        "ambient": partial(SpeechClips, str(root / "ambient.jsonl"), audio_only=True, max_val_clips=2),
    }
    trainer(tmp_path, 4).validate(model := Recorder(), datamodule=mixture(root, sets=sets))
    assert model.val_ids == [everything[0], everything[2], everything[3]]


def test_predictions_come_in_batches_of_one_set(root: Path, tmp_path: Path) -> None:
    class Predictor(Recorder):
        def predict_step(self, batch: ClipBatch, index: int) -> list[str]:
            return list(batch.ids)

    found = trainer(tmp_path, 1).predict(Predictor(), datamodule=mixture(root))
    assert found == [["speech/test_0", "speech/test_1"], ["ambient/test_0", "ambient/test_1"], ["ambient/test_2"]]


def test_overfitting_holds_the_clips(root: Path, tmp_path: Path) -> None:
    model = Recorder()
    run = trainer(tmp_path, 9, overfit_batches=3, limit_val_batches=0)
    run.fit(model, datamodule=mixture(root))
    assert model.positions == list(range(0, 18, 2))
    assert model.train_ids[:6] == model.train_ids[6:12] == model.train_ids[12:]


def test_sets_that_make_their_clips_do_so(tmp_path: Path) -> None:
    make = partial(ProceduralSpeech, str(tmp_path), num_train=4, num_test=6, num_speakers=2, reference_s=0.5)
    module = Mixture({"rendered": make, "again": make}, clip=ClipShape(25, 12.0, 16, 16, RATE), num_workers=0)
    module.prepare_data()
    module.setup("validate")
    assert [kind_of(batch) for batch in module.val_dataloader()] == ["rendered"] * 2 + ["again"] * 2


WRONG = [
    ({"sets": {}}, "sets is empty; give at least one data set"),
    ({"weights": {"speech": 1}}, "weights names speech and sets ambient, speech; give every set a weight"),
    ({"weights": {"speech": 1, "ambient": 0}}, r"weights\.ambient is 0; it must be positive"),
    ({"epoch": 0}, "epoch is 0; it must be at least 1 sample"),
    ({"epoch": "all"}, "epoch is 'all'; choose from longest and shortest"),
    ({"evaluate": ["music"]}, "evaluate names 'music', which is none of the sets speech, ambient"),
    ({"evaluate": []}, "evaluate is empty"),
    ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
    ({"samples_in_a_row": 0}, "samples_in_a_row is 0; it must be at least 1"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_wrong_settings_are_named(root: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mixture(root, **wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clip": ClipShape(9)}, r"data\.sets\.a\.clip: clips are described once, for all sets"),
        ({"batch_size": 3}, r"data\.sets\.a\.batch_size is 3, but batches and loaders are the mixture's"),
        ({"num_workers": 2}, r"data\.sets\.a\.num_workers is 2, but"),
    ],
)
def test_what_a_set_would_say_in_vain_is_refused(root: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mixture(root, sets={"a": partial(SpeechClips, str(root / "speech.jsonl"), **wrong)}, weights=None)


def test_a_set_that_cannot_be_read_is_named(root: Path, tmp_path: Path) -> None:
    rows = [row for row in (root / "speech.jsonl").read_text().splitlines() if '"train"' in row]
    (root / "unheld.jsonl").write_text("\n".join(rows))
    module = mixture(root, sets={"a": partial(SpeechClips, str(root / "unheld.jsonl"))}, weights=None)
    with pytest.raises(InputError, match=r"data\.sets\.a: .*has nothing in the split val or test.*data\.evaluate can"):
        module.setup("validate")
    with pytest.raises(InputError, match=r"data\.sets\.b is a dict; it must be a data set of recordings"):
        mixture(root, sets={"b": dict}, weights=None)


def test_the_command_line_builds_it(root: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(L.LightningDataModule, "data")
    speech = {"class_path": "datamodules.speech_clips.SpeechClips", "init_args": {"root": str(root / "speech.jsonl")}}
    sounds = {"root": str(root / "ambient.jsonl"), "audio_only": True, "max_val_clips": 1}
    ambient = {"class_path": "datamodules.speech_clips.SpeechClips", "init_args": sounds}
    rendered = {"class_path": "datamodules.procedural_speech.ProceduralSpeech", "init_args": {"root": str(root)}}
    settings = {
        "sets": {"speech": speech, "ambient": ambient, "rendered": rendered},
        "weights": {"speech": 1, "ambient": 0.5, "rendered": 2},
        "clip": {"num_frames": 12, "fps": 12.0},
        "batch_size": 3,
        "num_workers": 0,
    }
    parsed = parser.parse_object({"data": {"class_path": "datamodules.mixture.Mixture", "init_args": settings}})
    module = parser.instantiate_classes(parsed).data
    assert isinstance(module, Mixture) and module.weights["rendered"] == 2.0
    assert all(data.clip == module.clip and data.batch_size == 3 for data in module.sets.values())
    assert module.sets["ambient"].max_val_clips == 1


def test_a_training_says_what_each_set_holds_and_what_it_skipped(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [json.loads(row) for row in (root / "ambient.jsonl").read_text().splitlines()]
    (tmp_path / "nonsense.wav").write_text("no sound")
    bad = [{**row, "audio": str(root / row["audio"])} for row in rows]
    bad[0]["audio"] = str(tmp_path / "nonsense.wav")
    (tmp_path / "ambient.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    sets = {
        "speech": partial(SpeechClips, str(root / "speech.jsonl"), reference_s=0.5),
        "ambient": partial(
            SpeechClips,
            str(tmp_path / "ambient.jsonl"),
            audio_only=True,
            reference_s=0.5,
            on_corrupt="skip",
            max_corrupt_fraction=0.5,
        ),
    }
    with caplog.at_level("INFO"):
        trainer(tmp_path, 12, limit_val_batches=0).fit(Recorder(), mixture(root, sets=sets))
    said = [record.getMessage() for record in caplog.records]
    begun = [line for line in said if line.startswith(("train", "val"))]
    assert begun[0].startswith("train (speech): 3 recordings, 4.")
    assert begun[1].startswith("train (ambient): 6 recordings, 9.")
    assert begun[1].endswith("; 1 cannot be used: 1 unreadable")
    assert [line.partition(":")[0] for line in begun[2:4]] == ["val (speech)", "val (ambient)"]
    assert begun[4].startswith("train (ambient): skipped 1 of 7 recordings: 1 unreadable (")
    assert len(begun) == 5
