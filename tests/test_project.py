"""What surrounds the code: versions, types, licences, cards of shipped weights, and that these agree."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
REQUIREMENTS = [Requirement(line) for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"])]
PACKAGES = ("components", "datamodules", "callbacks", "lightning_modules")
WEIGHTS = ROOT / "configs/weights"


def pinned(file: str) -> dict[str, Version]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def floor_of(requirement: Requirement) -> Version:
    (floor,) = (Version(part.version) for part in requirement.specifier if part.operator == ">=")
    return floor


def test_the_lowest_job_installs_the_floors_of_the_metadata() -> None:
    """Of a floor such as 10.1 the first release: 10.1.0, or 1.18.1 where 1.18.0 was never released."""
    lowest = pinned("constraints-lowest.txt")
    assert set(lowest) == {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
    for requirement in REQUIREMENTS:
        found, floor = lowest[canonicalize_name(requirement.name)], floor_of(requirement)
        assert found in requirement.specifier
        assert found.release[: len(floor.release)] == floor.release, f"{requirement} has its floor elsewhere: {found}"


def test_every_dependency_has_the_version_that_ci_installs() -> None:
    versions = pinned("constraints.txt")
    for requirement in REQUIREMENTS:
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_ship_their_types(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    assert package in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_licence_files_are_there() -> None:
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])


def test_every_shipped_weight_has_a_card_that_names_what_made_it() -> None:
    shipped = {path.stem for path in WEIGHTS.iterdir() if path.is_dir() or path.suffix == ".ckpt"}
    cards = {path.stem: path.read_text() for path in WEIGHTS.glob("*.md")}
    assert shipped == set(cards)
    for name, card in cards.items():
        commands = re.findall(r"avsync fit --config (\S+\.yaml)", card)
        taken_over = f"save_pretrained('configs/weights/{name}')" in card  # others made it: where from, and how
        assert commands or (taken_over and "| origin |" in card), name
        assert all((ROOT / config).is_file() for config in commands), name
        assert all(part in card for part in ("| trained on |", "| licence |", "**Intended use.**", "**Limits.**")), name


def test_version_stands_in_citation_and_changelog() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", PROJECT["version"]]


def test_hooks_need_nothing_from_elsewhere() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    entries = [hook["entry"].split()[0] for hook in hooks["repos"][0]["hooks"]]
    assert set(entries) == {"ruff", "mypy", "pytest"}
    assert {hook["language"] for hook in hooks["repos"][0]["hooks"]} == {"system"}
