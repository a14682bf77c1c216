"""Experiments built on other files, and callbacks by name."""

from pathlib import Path

import pytest
import yaml

from components.errors import InputError
from components.weights.pretrained import PACKAGE_ROOT
from lightning_modules.command_line.config_files import (
    all_removed,
    callback_names,
    refuse_removal_of_nothing,
    with_bases,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "root.yaml").write_text("callbacks:\n  report: null\n")
    (tmp_path / "deep" / "middle.yaml").write_text("base: ../root.yaml\n")
    (tmp_path / "deep" / "top.yaml").write_text("base: [middle.yaml]\ncallbacks: {ema: null, report: null}\n")
    return tmp_path


def files(args: list[str]) -> list[str]:
    return [Path(argument).name for argument in args if argument.endswith(".yaml")]


def test_bases_come_before_what_builds_on_them(folder: Path):
    args = with_bases(["fit", "--config", "deep/top.yaml", "--trainer.max_steps", "3", "--config=root.yaml"])
    assert files(args) == ["root.yaml", "middle.yaml", "top.yaml", "root.yaml"]
    assert args[0] == "fit" and args[7:10] == ["--base=null", "--trainer.max_steps", "3"]
    assert all(Path(args[i + 1]).is_file() for i, argument in enumerate(args) if argument == "--config")


def test_names_of_callbacks_come_from_files_and_options(folder: Path):
    args = with_bases(["fit", "-c", "deep/top.yaml", "--callbacks.guard.class_path", "X", "--callbacks.ema=null"])
    assert callback_names(args) == ["report", "ema", "guard"]


@pytest.mark.parametrize("base", ["3", "[3]", "{a: b}"])
def test_a_base_must_be_a_name(folder: Path, base: str):
    (folder / "broken.yaml").write_text(f"base: {base}\n")
    with pytest.raises(InputError, match=r"broken\.yaml: base is .*; give the name of a configuration file"):
        with_bases(["fit", "--config", "broken.yaml"])


def test_a_folder_is_no_base(folder: Path):
    (folder / "broken.yaml").write_text("base: deep\n")
    with pytest.raises(InputError, match="names 'deep', but 'deep' is a folder"):
        with_bases(["fit", "--config", "broken.yaml"])


def test_a_missing_base_is_named_with_the_file_that_wants_it(folder: Path):
    (folder / "broken.yaml").write_text("base: nowhere.yaml\n")
    with pytest.raises(InputError, match=r"broken\.yaml: base names 'nowhere\.yaml', but .* does not exist"):
        with_bases(["fit", "--config", "broken.yaml"])


def test_a_circle_is_refused(folder: Path):
    (folder / "root.yaml").write_text("base: deep/top.yaml\n")
    with pytest.raises(InputError, match=r"circle \(top\.yaml -> middle\.yaml -> root\.yaml -> top\.yaml\)"):
        with_bases(["fit", "--config", "deep/top.yaml"])


def test_what_the_parser_will_complain_about_passes(folder: Path):
    (folder / "odd.yaml").write_text("{ not yaml")
    args = ["fit", "--config", "odd.yaml", "--config", "absent.yaml", "--config"]
    assert with_bases(args) == args and callback_names(args) == []


def test_shipped_configurations_are_found_from_any_folder(folder: Path):
    found = with_bases(["fit", "--config", "configs/quickstart.yaml"])[2]
    assert Path(found).is_absolute() and Path(found).is_file()


@pytest.mark.parametrize("option", [["--callbacks.cyclesinc=null"], ["--callbacks.cyclesinc", "null"]])
def test_removing_a_callback_that_is_not_there_is_refused(tmp_path: Path, option: list[str]):
    file = tmp_path / "a.yaml"
    file.write_text("callbacks: {cyclesync: {class_path: X}, report: {class_path: Y}}")
    sentence = "--callbacks.cyclesinc: there is no callback of that name to remove; the names are cyclesync, report"
    with pytest.raises(InputError, match=f"^{sentence}$"):
        refuse_removal_of_nothing(["fit", "--config", str(file), *option])
    with pytest.raises(InputError, match="no configuration file names any"):
        refuse_removal_of_nothing(["fit", *option])
    for allowed in (["--callbacks.cyclesync=null"], ["--callbacks.report", "null"], ["--callbacks.new.class_path=Y"]):
        refuse_removal_of_nothing(["fit", "--config", str(file), *allowed])


def test_a_file_that_removes_what_is_not_there_is_refused(tmp_path: Path):
    base, mine = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    base.write_text("callbacks: {report: {class_path: Y}}")
    mine.write_text("callbacks: {repport: null}")
    with pytest.raises(
        InputError, match=r"mine\.yaml: callbacks\.repport: there is no callback .*; the names are report$"
    ):
        refuse_removal_of_nothing(["fit", "--config", str(base), "--config", str(mine)])
    mine.write_text("callbacks: {report: null}")
    refuse_removal_of_nothing(["fit", "--config", str(base), "--config", str(mine)])
    # ours are laid over experiments that are judged and over some that are not
    refuse_removal_of_nothing(["fit", "--config", str(base), "--config", str(PACKAGE_ROOT / "configs/predict.yaml")])


def test_all_named_callbacks_can_be_removed_at_once(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("callbacks: {cyclesync: {class_path: X}, report: {class_path: Y}}")
    for option in (["--callbacks", "null"], ["--callbacks=null"]):
        args = all_removed(["fit", "--config", str(file), *option, "--callbacks.mine", "Z"])
        assert args[3:] == ["--callbacks.cyclesync=null", "--callbacks.report=null", "--callbacks.mine", "Z"]
        refuse_removal_of_nothing(args)


def test_shipped_configurations_name_their_callbacks():
    """A list of the user's, which replaces lists, takes nothing of theirs away."""
    files = list((PACKAGE_ROOT / "configs").rglob("*.yaml"))
    assert len(files) > 20
    for file in files:
        assert "callbacks" not in yaml.safe_load(file.read_text()).get("trainer", {}), file
