"""The shipped full experiments hold the papers' values; where one does not, the page of experiments says so and why."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from components.backbones.harmony.frame_band import TokenShape, frame_bands
from components.backbones.harmony.model import part_of
from components.media.clock import ClipShape, LatentClock
from datamodules.speech_clips import SpeechClips
from lightning_modules.command_line.config_files import config_files, with_bases
from lightning_modules.estimates.experiment import MetaExperiment, meta_experiment
from lightning_modules.harmony.module import HarmonyModule
from lightning_modules.syncphony.module import SyncphonyModule

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
PAPERS: dict[str, Any] = yaml.safe_load((ROOT / "docs/papers_values.yaml").read_text())
GROUPS = {group["label"]: group for group in PAPERS["groups"]}
PAGE = (ROOT / "docs/experiments.md").read_text()
HEADING = "## What differs from the papers"
CPU = torch.device("cpu")
OVERLAYS = {"lora.yaml", "evaluation.yaml", "predict.yaml"}  # laid over experiments, not run alone
JUDGES = re.compile(r".*(v2a|syncnet)\.yaml")

Config = dict[str, Any]


def on_meta(files: list[str]) -> MetaExperiment:
    return meta_experiment([word for file in files for word in ("--config", str(ROOT / file))])


def merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}
    return above


def config_of(files: list[str]) -> Config:
    """What the files and their bases write down, later ones over earlier ones; no class's default is in it."""
    found: Config = {}
    for file in config_files(with_bases([word for name in files for word in ("--config", str(ROOT / name))])):
        found = merged(found, yaml.safe_load(Path(file).read_text()))
    return found


def at(config: Config, place: str) -> Any:
    """A value by its place, ``init_args`` left out."""
    value: Any = config
    for name in place.split("."):
        if name not in value and "init_args" in value:
            value = value["init_args"]
        assert name in value, f"no configuration file gives {place}"
        value = value[name]
    return value


def clips_of_a_step(config: Config, gpus: int, accumulated: int | None = None) -> int:
    return int(at(config, "data.batch_size") * (accumulated or at(config, "trainer.accumulate_grad_batches")) * gpus)


def seconds(config: Config, which: Callable[[ClipShape], int]) -> float:
    shape = ClipShape(**config["clip"])
    return round(which(shape) / shape.fps, 3)


FUNCTIONS: dict[str, Callable[[Config, str], Any]] = {
    "per_step": lambda config, gpus: clips_of_a_step(config, int(gpus)),
    "total": lambda config, place: sum(at(config, place)),
    "name": lambda config, place: at(config, f"{place}.class_path").removesuffix(".from_pretrained").split(".")[-1],
    "longest": lambda config, _: seconds(config, lambda shape: shape.num_frames),
    "shortest": lambda config, _: seconds(config, lambda shape: shape.min_frames or shape.num_frames),
}


def held(config: Config, setting: str) -> Any:
    called = re.fullmatch(r"(\w+)\((.*)\)", setting)
    return FUNCTIONS[called[1]](config, called[2]) if called else at(config, setting)


def written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def differences(group: dict[str, Any], change: Callable[[Config], None] = lambda config: None) -> set[tuple[str, ...]]:
    """(experiment, value, paper, here) of every value that an experiment of the group holds otherwise."""
    found = set()
    for files in group["configs"]:
        config = config_of(files)
        change(config)
        for entry in group["values"]:
            here = held(config, entry["setting"])
            if here != entry["value"]:
                found.add((group["label"], entry["name"], written(entry["value"]), written(here)))
    return found


def named_deviations() -> set[tuple[str, ...]]:
    """Rows of the page's table: experiment, value, paper, here; each with a reason."""
    section = PAGE.split(HEADING, 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in section.splitlines()]
    rows = [row for row in rows if len(row) == 5 and row[0] in GROUPS]
    assert rows and all(len(row[4]) > 10 for row in rows), "every deviation gives its reason"
    return {tuple(row[:4]) for row in rows}


@pytest.mark.parametrize("label", GROUPS)
def test_every_difference_from_the_papers_is_named_and_none_that_is_none(label: str) -> None:
    assert differences(GROUPS[label]) == {row for row in named_deviations() if row[0] == label}


@pytest.mark.parametrize(
    ("label", "place", "value"),
    [
        ("Syncphony", ("trainer", "max_steps"), 20000),
        ("Syncphony", ("trainer", "accumulate_grad_batches"), 1),
        ("Harmony, stage 3", ("model", "init_args", "transformer", "init_args", "interaction", "gate"), "source"),
    ],
)
def test_an_unnamed_difference_would_be_found(label: str, place: tuple[str, ...], value: object) -> None:
    def change(config: Config) -> None:
        for name in place[:-1]:
            config = config[name]
        config[place[-1]] = value

    assert len(differences(GROUPS[label], change) - named_deviations()) == 1


def test_every_value_says_where_it_is_from() -> None:
    for group in GROUPS.values():
        assert "arXiv" in group["source"]
        names = [entry["name"] for entry in group["values"]]
        assert len(names) == len(set(names))
        assert all(entry["status"] in ("published", "second-hand") for entry in group["values"])


def test_all_full_experiments_are_compared() -> None:
    compared = {file for group in GROUPS.values() for files in group["configs"] for file in files}
    shipped = {
        str(file.relative_to(ROOT))
        for folder in ("syncphony", "harmony")
        for file in (ROOT / "configs" / folder).glob("*.yaml")
        if not file.name.startswith("quickstart") and not JUDGES.fullmatch(file.name)
    }
    bases = {"configs/syncphony/base.yaml", "configs/syncphony/sd3.yaml", "configs/harmony/base.yaml"}
    # neither paper trains a VAE: it follows Pyramid Flow's recipe
    bases.add("configs/syncphony/video_vae.yaml")
    laid_over = {file for file in shipped if Path(file).name in OVERLAYS - {"lora.yaml", "evaluation.yaml"}}
    assert compared == shipped - bases - laid_over


@pytest.mark.parametrize(
    ("experiment", "clips"),
    [
        *((f"syncphony/{name}", 32) for name in ("avsync15", "greatest_hits", "sd3_avsync15", "sd3_greatest_hits")),
        ("harmony/stage1_audio", 1536),
        ("harmony/stage2_timbre", 1536),
        ("harmony/stage3_joint", 128),
    ],
)
def test_the_accumulation_of_the_page_gives_the_papers_steps(experiment: str, clips: int) -> None:
    """The table's numbers for 1, 4 and 8 GPUs; the file itself holds one of them."""
    config = config_of([f"configs/{experiment}.yaml"])
    label = experiment.split("/")[0] if experiment.startswith("syncphony") else Path(experiment).name
    (row,) = re.findall(rf"^\| `{label}\S*`[^|]*\|([\d, ]+)\|([\d |]+)\|$", PAGE, re.MULTILINE)
    assert int(row[0].replace(",", "")) == clips
    accumulated = [int(cell) for cell in row[1].split("|")]
    assert [clips_of_a_step(config, gpus, n) for gpus, n in zip((1, 4, 8), accumulated, strict=True)] == [clips] * 3
    assert at(config, "trainer.accumulate_grad_batches") in accumulated


@pytest.mark.parametrize("file", ["syncphony/base", "harmony/stage1_audio", "harmony/stage3_joint"])
def test_the_accumulation_of_the_files_comments_is_the_pages(file: str) -> None:
    text = (ROOT / f"configs/{file}.yaml").read_text()
    experiment = "syncphony/avsync15" if file.startswith("syncphony") else file
    config = config_of([f"configs/{experiment}.yaml"])
    told = re.findall(r"(\d+) GPUs?: (?:--trainer\.accumulate_grad_batches )?(?:as it is \()?(\d+)\)?", text)
    assert {int(gpus) for gpus, _ in told} >= {1, 4, 8}
    clips = clips_of_a_step(config, 4 if file.startswith("syncphony") else 8)
    assert all(clips_of_a_step(config, int(gpus), int(n)) == clips for gpus, n in told)


def stacks_of(system: str) -> list[list[str]]:
    return [files for label, group in GROUPS.items() if label.startswith(system) for files in group["configs"]]


@pytest.mark.parametrize("files", stacks_of("Syncphony"), ids=" ".join)
def test_syncphony_is_built_from_shapes_and_trains_the_late_blocks_of_either_release(files: list[str]) -> None:
    experiment = on_meta(files)
    module = experiment.module
    assert isinstance(module, SyncphonyModule) and "CycleSyncCallback" in experiment.callbacks
    blocks = module.dit.backbone.blocks
    trained = [i for i, block in enumerate(blocks) if all(p.requires_grad for p in block.parameters())]
    frozen = [i for i, block in enumerate(blocks) if not any(p.requires_grad for p in block.parameters())]
    assert (frozen, trained) == (list(range(8)), list(range(8, 24)))
    assert module.dit.audio_layers is not None and len(module.dit.audio_layers) == 16


@pytest.mark.parametrize("files", stacks_of("Harmony, stage"), ids=" ".join)
def test_harmony_is_built_from_shapes(files: list[str]) -> None:
    experiment = on_meta(files)
    module = experiment.module
    assert isinstance(module, HarmonyModule) and isinstance(experiment.data, SpeechClips)
    sizes: dict[str, float] = {}
    for name, parameter in module.transformer.named_parameters():
        sizes[part_of(name)] = sizes.get(part_of(name), 0) + parameter.numel() / 1e9
    assert sizes.get("audio", 0) == pytest.approx(5.01, abs=0.06)  # with or without adapters
    if module.curriculum.stage == "joint":
        assert sizes["interaction"] == pytest.approx(1.12, abs=0.01)
        assert {"CycleSyncCallback", "SyncConfidenceCallback"} <= experiment.callbacks.keys()
    else:
        assert "video" not in sizes and (experiment.data.reference == "own") == (module.curriculum.stage == "audio")


def test_positions_can_be_left_out_from_a_file(tmp_path: Path) -> None:
    """The paper's ablation: ``none`` in a file is the word, not nothing."""
    band = {"band": {"rope": "none"}}
    file = tmp_path / "ablation.yaml"
    file.write_text(yaml.safe_dump({"model": {"init_args": {"transformer": {"init_args": {"interaction": band}}}}}))
    module = on_meta(["configs/harmony/stage3_joint.yaml", str(file)]).module
    assert isinstance(module, HarmonyModule)
    config = module.transformer.interaction_config
    assert config is not None and (config.band.rope, config.band.rope_unit, config.style_kv) == ("none", "query", "own")
    bands = frame_bands(LatentClock(24.0, 4, 31.25), "linear", config.band, TokenShape((3, 2, 2), 12), 128, CPU)
    assert all(table is None for band in bands for table in (band.query_rope, band.key_rope))


# --- docs/paper_to_code.md -------------------------------------------------------------------------------------------

ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs/paper_to_code.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| the paper |", "| --- |"))
]
REFERENCE = re.compile(r"`([\w/]+\.py)(?:::([\w.]+))?`")


def is_defined(file: Path, dotted: str) -> bool:
    """Whether the file defines the function, class or method."""
    body: list[ast.stmt] = ast.parse(file.read_text()).body
    for name in dotted.split("."):
        kinds = (ast.FunctionDef, ast.ClassDef)
        found = [node for node in body if isinstance(node, kinds) and node.name == name]
        if not found:
            return False
        body = found[0].body
    return True


def test_a_name_that_is_not_there_would_be_found() -> None:
    file = ROOT / "components/objectives/motion_aware.py"
    assert is_defined(file, "MotionAwareLoss.forward") and not is_defined(file, "MotionAwareLoss.backward")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_page_names_code_tests_settings_and_a_status(row: list[str]) -> None:
    assert len(row) == 5
    _, code, test, setting, status = row
    for cell, begins in (
        (code, ("components/", "datamodules/", "lightning_modules/", "callbacks/")),
        (test, "tests/"),
    ):
        named = REFERENCE.fullmatch(cell)
        assert named is not None and named[1].startswith(begins), cell
        assert (ROOT / named[1]).is_file(), cell
        assert named[2] is None or is_defined(ROOT / named[1], named[2]), cell
    assert re.match(r"(as published|second-hand|ours)\b", status)
    stacks = [files for group in GROUPS.values() for files in group["configs"]]
    for place in settings_in(setting):
        assert any(is_given(config_of(files), place) for files in stacks), place


def settings_in(cell: str) -> list[str]:
    """The places that a cell names; a dash is none."""
    return re.findall(r"`(?:--)?([\w.]+)`", cell)


def is_given(config: Config, place: str) -> bool:
    try:
        at(config, place)
    except AssertionError:
        return False
    return True


def test_the_page_names_every_setting_of_the_papers_values() -> None:
    named = {place for row in ROWS for place in settings_in(row[3])}
    for group in GROUPS.values():
        for entry in group["values"]:
            called = re.fullmatch(r"(\w+)\((.*)\)", entry["setting"])
            place = called[2] if called else entry["setting"]
            place = {"clip": "clip.num_frames"}.get(place, place)
            assert place in named or place.isdigit(), entry["name"]
