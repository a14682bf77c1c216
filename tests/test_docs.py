"""README and docs are true: every command is parsed or run, every file, class and link exists, the paths are walked."""

import argparse
import ast
import gc
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import _lru_cache_wrapper, cache
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule

from components.media.writer import write_mp4
from datamodules.reading.speech_manifest import COLUMNS
from lightning_modules.__main__ import main
from lightning_modules.command_line import prepare
from lightning_modules.command_line.cli import AVSyncCLI
from lightning_modules.command_line.config_files import with_bases
from lightning_modules.command_line.extra_commands import EXTRA_COMMANDS, run_extra
from lightning_modules.command_line.trainer import AVSyncTrainer
from lightning_modules.estimates import command as estimate

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
PAGES = {
    str(page.relative_to(ROOT)): page.read_text()
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/*.md", "configs/weights/*.md")
    for page in sorted(ROOT.glob(pattern))
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# ([\w.]+\.(?:py|yaml))\n")
PACKAGES = ("components", "lightning_modules", "datamodules", "callbacks", "benchmarks")
PATH = re.compile(r"(components|lightning_modules|datamodules|callbacks|benchmarks|configs|docs|tests)/[\w./*-]*")
CLASS_NAME = re.compile(r"(?=\w*[a-z])[A-Z]\w*[A-Z]\w*")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def blocks(page: str, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(PAGES[page]) if language in languages]


def named_files() -> dict[str, str]:
    """The examples that begin with the name of their file."""
    found = {}
    for page in PAGES:
        for text in blocks(page, "python", "yaml"):
            if match := FILE_NAME.match(text):
                assert match[1] not in found, f"two examples are called {match[1]}"
                found[match[1]] = text
    return found


def commands(page: str) -> list[list[str]]:
    """Every command of the page's bash blocks, split into words."""
    found = []
    for text in blocks(page, "bash"):
        is_script = text.startswith("#!")
        for line in text.replace("\\\n", " ").splitlines():
            if is_script and not line.startswith("srun "):
                continue
            line = re.sub(r"\$\{\w+:\+[^}]*\}", "", line)  # an option that a script gives only sometimes
            for command in line.split("&&"):
                if words := shlex.split(command, comments=True):
                    found.append(words)
    return found


def inline_code(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", PAGES[page]))


def next_commands() -> list[list[str]]:
    """What report pages say one may do next."""
    files = [yaml.safe_load(file.read_text()) for file in sorted((ROOT / "configs").rglob("*.yaml"))]
    reports = [(file.get("callbacks") or {}).get("report") or {} for file in files]
    steps = [report.get("init_args", {}).get("next_steps", {}) for report in reports]
    return [shlex.split(command.replace("{ckpt}", "last.ckpt")) for found in steps for command in found.values()]


ALL = [*(words for page in PAGES for words in commands(page)), *next_commands()]
COMMANDS = [list(words) for words in dict.fromkeys(map(tuple, ALL))]
RUN = [words for words in COMMANDS if any(word.startswith("my_") for word in words)]
PARSED = [words for words in COMMANDS if words not in RUN]


def avsync_arguments(words: list[str]) -> list[str] | None:
    """The arguments of ``avsync``, however it is started; None for what runs no experiment."""
    words = words[1:] if words[0] == "srun" else words
    if words[0] == "avsync" and words[1] in EXTRA_COMMANDS:
        return None
    if words[0] == "avsync":
        return words[1:]
    if words[0] == "torchrun":
        assert words[words.index("-m") + 1] == "lightning_modules"
        return words[words.index("-m") + 2 :]
    return None


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the configurations and their weights: some experiments write there."""
    repository = tmp_path_factory.mktemp("repository")
    (repository / "data").mkdir()
    return Path(shutil.copytree(ROOT / "configs", repository / "configs"))


@pytest.fixture
def place(tmp_path: Path, configs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with all named examples, and the repository's configurations where the pages expect them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", [])
    (tmp_path / "configs").symlink_to(configs)
    (tmp_path / "data").symlink_to(configs.parent / "data")  # clips are rendered once
    for name, text in named_files().items():
        (tmp_path / name).write_text(text)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def avsync(arguments: list[str]) -> int:
    """Runs the command in this process, as the console script does; `place` keeps what it changes from other tests."""
    sys.argv[:] = ["avsync", *arguments]
    return main()


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says against these arguments; nothing is built or run."""
    status = avsync([*arguments, "--print_config"])
    shown = capsys.readouterr()
    return "" if status == 0 and yaml.safe_load(shown.out) else shown.err or "printed nothing"


def test_the_pages_are_there() -> None:
    assert len(PAGES) >= 9
    assert len(COMMANDS) >= 25
    assert len(next_commands()) >= 6
    assert len(RUN) >= 5


def by_experiment() -> dict[str, list[str]]:
    """``avsync`` with its configuration files -> the options of all commands that have these."""
    found: dict[str, list[str]] = {}
    for words in PARSED:
        arguments = avsync_arguments(words)
        if arguments is not None:
            is_file = [i > 0 and "--config" in arguments[i - 1 : i + 1] for i in range(len(arguments))]
            experiment = [word for word, held in zip(arguments, is_file, strict=True) if held]
            options = [word for word, held in zip(arguments[1:], is_file[1:], strict=True) if not held]
            found.setdefault(" ".join([arguments[0], *experiment]), []).extend(options)
    return found


@pytest.mark.parametrize(("experiment", "options"), by_experiment().items(), ids=list(by_experiment()))
def test_commands_are_understood(
    experiment: str, options: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint([*experiment.split(), *options], capsys) == ""


def test_a_wrong_command_is_not_understood(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "sync_scaled" in complaint(
        ["fit", "--config", "configs/quickstart.yaml", "--model.sampler.init_args.sync_scaled", "4"], capsys
    )


@pytest.mark.parametrize("words", [words for words in PARSED if not avsync_arguments(words)], ids=" ".join)
def test_another_program_is_there(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = {re.split(r"[<>=\[]", name)[0] for name in PROJECT["project"]["optional-dependencies"]["test"]}
    if words[:2] == ["pip", "install"]:
        assert words[2] == "-e"
        asked = re.fullmatch(r"\.(?:\[([\w,]+)\])?", words[3])
        assert asked
        assert set((asked[1] or "").split(",")) - {""} <= PROJECT["project"]["optional-dependencies"].keys()
    elif words[0] == "avsync" and words[1] in ("prepare", "estimate"):
        _, options = {"prepare": prepare, "estimate": estimate}[words[1]].parsed(words[2:])
        assert complaint(["fit", *options], capsys) == ""
    elif words[0] == "avsync":
        monkeypatch.chdir(tmp_path)
        # understood, and told that the files it names are not there
        assert run_extra(words[1:]) == 2 and "does not exist" in capsys.readouterr().err
    elif words[:2] == ["python", "-m"]:
        understood_by_benchmark(words[2], words[3:], monkeypatch)
    elif words[0] == "pytest":
        markers = {marker.partition(":")[0] for marker in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
        for before, word in pairwise(words):
            known = before == "-m" and word in markers
            assert known or word in ("-m", "DIR") or word.startswith("--golden-dir") or (ROOT / word).exists()
    elif words[0] in ("git", "conda"):  # another project, in an environment of its own
        assert words[1] == "clone" or words[1:3] == ["env", "create"]
    else:
        assert words[0] in extra


def understood_by_benchmark(name: str, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Understood(Exception):
        pass

    def stop(self: argparse.ArgumentParser, *args: Any) -> None:
        parse(self, *args)
        raise Understood

    parse = argparse.ArgumentParser.parse_known_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
    assert name.startswith("benchmarks.")
    program = importlib.import_module(name)
    if hasattr(program, "__path__"):  # a package
        program = importlib.import_module(f"{name}.__main__")
    with pytest.raises(Understood):
        program.main(options)


EXPERIMENTS = (
    ["fit", "--config", "configs/syncphony/avsync15.yaml", "--config", "configs/trainer/fsdp.yaml"],
    ["fit", "--config", "configs/harmony/quickstart.yaml"],
    ["predict", "--config", "configs/harmony/quickstart.yaml", "--config", "configs/harmony/predict.yaml"],
)


def options_in_text(page: str) -> list[list[str]]:
    """Options that sentences and tables name, some with a value, such as ``--trainer.devices 4``."""
    words = [text.split() for text in inline_code(page) if "..." not in text]
    return [found for found in words if re.fullmatch(r"--[a-z]+\.[\w.]+", found[0])]


@pytest.mark.parametrize("page", [page for page in PAGES if options_in_text(page)])
def test_options_in_the_text_are_understood(page: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each by one of these experiments; those of one page together, without those that a complaint names."""
    left = [option for option in options_in_text(page) if len(option) > 1]
    for experiment in EXPERIMENTS:
        together, left = left, []
        while together and (said := complaint([*experiment, *(word for one in together for word in one)], capsys)):
            named = [option for option in together if option[0].rpartition(".")[2] in said] or together
            left, together = [*left, *named], [option for option in together if option not in named]
    for option in left:  # alone, as what was named may go together with others only
        assert any(not answer(experiment, option, capsys) for experiment in EXPERIMENTS), option
    for name in {option[0] for option in options_in_text(page) if len(option) == 1}:
        assert any("unknown" not in answer(experiment, [name, "null"], capsys) for experiment in EXPERIMENTS), name


ANSWERS: dict[tuple[str, ...], str] = {}


def answer(experiment: list[str], option: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The `complaint`, found once for all pages that name the same option."""
    words = (*experiment, *option)
    if words not in ANSWERS:
        ANSWERS[words] = complaint(list(words), capsys)
    return ANSWERS[words]


@pytest.mark.parametrize("page", PAGES)
def test_yaml_in_the_text_is_understood(page: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in blocks(page, "yaml"):
        if FILE_NAME.match(text):
            continue  # a command uses it
        Path("snippet.yaml").write_text(text)
        found = complaint(["fit", "--config", "configs/quickstart.yaml", "--config", "snippet.yaml"], capsys)
        assert found == "", text


@pytest.mark.parametrize("page", PAGES)
def test_rows_in_the_text_are_rows_of_a_manifest(page: str) -> None:
    for text in blocks(page, "json"):
        for line in text.splitlines():
            assert json.loads(line).keys() <= set(COLUMNS)


@pytest.mark.parametrize("page", PAGES)
def test_scripts_are_scripts(page: str) -> None:
    for text in blocks(page, "bash"):
        run = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
        assert run.returncode == 0, run.stderr


def heading_anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", PAGES[page])):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in heading_anchors(file.read_text()), target


@cache
def class_names() -> set[str]:
    """Classes of the repository and of the pages' own examples."""
    files = [file.read_text() for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    texts = [*files, *(text for name, text in named_files().items() if name.endswith(".py"))]
    return {node.name for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)}


@pytest.mark.parametrize("page", PAGES)
def test_what_is_named_exists(page: str) -> None:
    classes = class_names()
    yaml_files = {file.name for file in (ROOT / "configs").rglob("*.yaml")} | named_files().keys()
    missing = []
    for text in inline_code(page):
        if "NAME" in text:  # stands for any name
            continue
        if PATH.fullmatch(text):
            there = bool(list(ROOT.glob(text.rstrip("/"))))
        elif re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", text):
            there = resolves(text)
        elif re.fullmatch(r"\w+\.yaml", text):
            there = text in yaml_files or text == "config.yaml"
        elif re.fullmatch(r"quickstart_\w+(/|\.ckpt)", text):
            there = (ROOT / "configs/weights" / text).exists()
        elif CLASS_NAME.fullmatch(text):
            there = text in classes
        else:
            continue
        if not there:
            missing.append(text)
    assert missing == []


def resolves(dotted: str) -> bool:
    """Whether a module, or a class or function in one, has this name."""
    names = dotted.split(".")
    for end in range(len(names), 0, -1):
        try:
            found: object = importlib.import_module(".".join(names[:end]))
        except ModuleNotFoundError:
            continue
        for name in names[end:]:
            found = getattr(found, name, None)
        return found is not None
    return False


# --- docs/your_parts.md and docs/your_data.md: the examples run ---

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
UNCOUNTED = ["--callbacks.throughput", "null"]  # what a step costs is counted for seconds
FEW_CLIPS = ["--data.num_train", "4", "--data.num_test", "2", "--data.batch_size", "4", "--data.val_batch_size", "2"]
ONE_STEP = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"]


def run_example(name: str, *options: str) -> None:
    """The one command of the pages that uses the example ``name``, at its smallest."""
    (words,) = [words for words in RUN if any(name in word for word in words)]
    assert avsync([*(avsync_arguments(words) or []), *QUIET, *options]) == 0


def results() -> dict[str, Any]:
    (file,) = Path("runs").glob("*/version_0/results.json")
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def test_every_example_is_run() -> None:
    names = {name.removesuffix(".py") for name in named_files() if name.endswith(".py")}
    assert names == {"my_judge", "my_metric", "my_callback", "my_backbone", "my_data"}


def test_a_judge_of_the_user_judges(place: Path) -> None:
    run_example("my_judge.yaml", *FEW_CLIPS, "--model.init_args.variants", "[]")
    metrics = results()["metrics"]
    by_judge = {entry["v2a"] for name, entry in metrics.items() if name.startswith("cyclesync")}
    assert by_judge == {"my_judge.ClickAtJumps"}
    assert metrics["cyclesync_real"]["value"] > 30  # it hears real jumps


def test_a_metric_of_the_user_is_reported(place: Path) -> None:
    alone = ["--callbacks.cyclesync", "null", "--callbacks.report", "null", "--model.init_args.variants", "[]"]
    run_example("my_metric", *FEW_CLIPS, *alone)
    assert results()["metrics"]["motion"]["n"] == 2


def test_a_callback_of_the_user_acts(place: Path) -> None:
    run_example(
        "my_callback",
        *FEW_CLIPS,
        *UNCOUNTED,
        "--trainer.limit_val_batches",
        "0",
        "--callbacks.stop.init_args.loss",
        "9",
    )
    assert results()["global_step"] == 1


def test_a_backbone_of_the_user_trains(place: Path) -> None:
    # two steps: the projection in front of the gain begins at zero
    two_steps = ["--trainer.max_steps", "2", "--trainer.limit_val_batches", "0"]
    saved = ["--callbacks.checkpoint.init_args.every_n_train_steps", "2"]
    run_example("my_backbone.yaml", *FEW_CLIPS, *two_steps, *saved)
    (file,) = Path("runs").glob("*/version_0/checkpoints/last.ckpt")
    gain = torch.load(file, weights_only=True)["state_dict"]["dit.backbone.gain"]
    assert not torch.equal(gain, torch.ones_like(gain))


def test_a_data_set_of_the_user_is_read(place: Path) -> None:
    for split in ("train", "test"):
        for index in range(2):
            frames = torch.randint(256, (60, 3, 48, 64), dtype=torch.uint8)
            write_mp4(Path(f"balls/{split}/a_red_ball_{index}.mp4"), frames, 24.0, 0.1 * torch.randn(40_000), 16_000)
    few = ["--data.num_workers", "0", "--data.batch_size", "4", "--data.val_batch_size", "2"]
    run_example("my_data", *few, *ONE_STEP, *UNCOUNTED)
    assert results()["global_step"] == 1


# --- docs/python.md: what can be pasted runs ---


def test_python_that_can_be_pasted_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = blocks("docs/python.md", "python")
    sys.argv[:] = ["notebook"]
    exec(compile(text, "docs/python.md", "exec"), {})
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(list(Path("generated").rglob("*.mp4"))) == 4
    assert any(float(row.split()[1]) > 0 for row in rows if not row.endswith("None"))


# --- docs/step.md: the list of files is what a training step runs through ---

STEP = PAGES["docs/step.md"]
SYSTEMS = {
    "Syncphony": ["configs/quickstart.yaml", "--data.num_train=4", "--data.num_test=1"],
    "Harmony": ["configs/harmony/quickstart.yaml", "--data.num_train=8", "--data.num_test=8", "--data.num_speakers=2"],
}


def section(title: str) -> str:
    text: str
    (text,) = re.findall(rf"^## {title}$(.*?)(?=^## |\Z)", STEP, re.MULTILINE | re.DOTALL)
    return text


def rows(title: str) -> list[str]:
    """Files in the section's table, in order."""
    return re.findall(r"^\| \d+ \| `([\w./]+)`", section(title), re.MULTILINE)


def beside(title: str) -> set[str]:
    """Files named in the section's sentence about what the listed ones lean on."""
    (sentence,) = re.findall(r"^They lean on (.*?)\.\n\n", section(title) + "\n\n", re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([\w./]+\.py)`", sentence))


def walked(action: Callable[[], object]) -> list[str]:
    """Files of the repository that ``action`` runs through, in the order in which they are entered first."""
    files: dict[str, None] = {}

    def note(frame: FrameType, event: str, argument: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(f"{ROOT}/"):
            files.setdefault(str(Path(name).relative_to(ROOT)))

    for held in gc.get_objects():  # what an earlier test left in a cache would not be computed again
        # not isinstance, which asks what a weak proxy stands for, and that may be gone
        if type(held) is _lru_cache_wrapper and held.__module__.split(".")[0] in PACKAGES:
            held.cache_clear()
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return [file for file in files if file.split("/")[0] in PACKAGES]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_passes_the_files_that_the_page_lists(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, *options = SYSTEMS[system]
    callbacks = yaml.safe_load((ROOT / config).read_text()).get("callbacks", {})
    removed = [f"--callbacks.{name}=null" for name in callbacks]
    cli = AVSyncCLI(
        args=with_bases(["--config", config, *options, *removed, "--data.batch_size=4", "--trainer.logger=false"]),
        model_class=LightningModule,
        datamodule_class=LightningDataModule,
        trainer_class=AVSyncTrainer,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        run=False,
    )
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    module, batches = cli.model.train(), iter(cli.datamodule.train_dataloader())
    batch: list[object] = []
    reading = walked(lambda: batch.append(next(batches)))
    step = walked(lambda: module.training_step(batch[0], 0).backward())

    listed = rows(system)
    assert 10 <= len(listed) <= 17
    assert set(step) - set(listed) == beside(system)
    assert listed == [file for file in step if file in listed]
    assert set(rows("From a file to a batch")) <= {*reading, "datamodules/reading/clip_data_module.py"}
