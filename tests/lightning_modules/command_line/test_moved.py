"""Class paths of earlier versions are told their new place, wherever in a configuration they stand."""

import importlib
import inspect
from pathlib import Path

import pytest

from lightning_modules.command_line.class_paths import class_path_sentence, import_problem
from lightning_modules.command_line.cli import main
from lightning_modules.command_line.moved import MOVED, MOVED_SETTINGS, new_place, old_metric
from lightning_modules.harmony.module import HarmonyModule

ROOT = Path(__file__).resolve().parents[3]
ALL = [(f"{folder}.{old}", new) for folder, paths in MOVED.items() for old, new in paths.items()]


@pytest.mark.parametrize(("old", "new"), ALL)
def test_every_new_place_exists_and_no_old_one_does(old: str, new: str):
    module, _, name = new.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))
    assert name == old.rpartition(".")[2]
    assert import_problem(new) is None
    assert import_problem(old) == f"which moved: use {new}"


@pytest.mark.parametrize(("old", "new"), ALL)
def test_new_places_are_as_short_as_they_can_be(old: str, new: str):
    module, _, name = new.rpartition(".")
    parent = importlib.import_module(module.rpartition(".")[0])
    assert getattr(parent, name, None) is not getattr(importlib.import_module(module), name)


def test_what_follows_the_class_is_kept():
    old = "components.codecs.causal_video_vae_codec.CausalVideoCodec.from_pretrained"
    assert new_place(old) == "components.codecs.video.causal_vae.codec.CausalVideoCodec.from_pretrained"
    assert new_place("components.metrics.syncnet.SyncNetwork") is None
    assert new_place("components.backbones.syncphony_dit") is None


DIT = "components.backbones.syncphony_dit.SyncphonyDiT"
MOVED_DIT = f"names {DIT}, which moved: use components.backbones.syncphony.SyncphonyDiT"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"model: {{class_path: a, init_args: {{dit: {{class_path: {DIT}}}}}}}", "model.dit"),
        (f"model: {{class_path: a, init_args: {{dit: {DIT}}}}}", "model.dit"),
        (f"model: {DIT}", "model"),
        (f"data: {{class_path: {DIT}}}", "data"),
        (f"callbacks: {{ema: {{class_path: {DIT}}}}}", "callbacks.ema"),
        (f"trainer: {{callbacks: [EMA, {{class_path: {DIT}}}]}}", "trainer.callbacks.1"),
    ],
)
def test_a_moved_class_is_found_wherever_it_stands(tmp_path: Path, text: str, key: str):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    assert class_path_sentence(["fit", "--config", str(file)]) == f"{file}: {key} {MOVED_DIT}"


@pytest.mark.parametrize("option", ["--model.dit=%s", "--model.dit.class_path=%s", "--model.dit {class_path: %s}"])
def test_a_moved_class_is_found_in_options(option: str):
    args = ["fit", *(option % DIT).split(" ", 1)]
    assert class_path_sentence(args) == f"command line: model.dit {MOVED_DIT}"


@pytest.mark.parametrize(("old", "new"), MOVED_SETTINGS["HarmonyModule"].items())
def test_every_section_has_the_setting_that_moved_there(old: str, new: str):
    section, _, name = new.partition(".")
    arguments = inspect.signature(HarmonyModule).parameters
    assert old not in arguments
    assert name in vars(arguments[section].default)


@pytest.mark.parametrize("old", ["generates", "stage", "negative_prompt"])
def test_a_moved_setting_is_told_its_section(tmp_path: Path, old: str, capsys: pytest.CaptureFixture[str]):
    file, quickstart = tmp_path / "old.yaml", ROOT / "configs/harmony/quickstart.yaml"
    file.write_text(f"base: {quickstart}\nmodel: {{init_args: {{{old}: joint}}}}\n")
    assert main(["fit", "--config", str(file)]) == 2
    moved = f"model.init_args.{MOVED_SETTINGS['HarmonyModule'][old]}"
    said = f"{file}: unknown key model.init_args.{old}, which moved: use {moved}\n"
    assert capsys.readouterr().err.endswith(said)


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("val/cyclesync", "val/cyclesync", "cyclesync"),
        ("test/sync_d_no_synccfg_low", "test/sync_d_no_synccfg_low", "sync_d_no_synccfg_low"),
        ("val/cyclesync_real/value", "val/cyclesync_real/value", "cyclesync_real"),
        ("val/cyclesync_real/at_0.05", "val/cyclesync_real/at_0.05", "cyclesync_real_at_0.05"),
        ("{step}-{val/cyclesync_w0:.2f}", "val/cyclesync_w0", "cyclesync_w0"),
    ],
)
def test_metrics_by_their_old_names_are_told_the_new_one(text: str, old: str, new: str):
    config = {"fit": {"trainer": {"callbacks": [{"init_args": {"monitor": None}}, {"init_args": {"filename": text}}]}}}
    assert old_metric(config) == ("fit.trainer.callbacks.1.init_args.filename", old, new)
    assert old_metric({"fit": {"note": text, "monitor": "val/loss"}}) is None
