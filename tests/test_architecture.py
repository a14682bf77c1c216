"""The house rules: who may import whom, what modules may be called, and what start-up must not load."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("components", "datamodules", "callbacks", "lightning_modules")
MAY_IMPORT = {
    "components": {"components"},
    "datamodules": {"components", "datamodules"},
    "callbacks": {"components", "callbacks"},
    "lightning_modules": set(PACKAGES),
}
LAYERS = (
    ("contracts", "errors"),
    ("counting",),
    ("weights",),
    ("media",),
    ("schedules",),
    ("optimization",),
    ("guidance",),
    ("codecs",),
    ("encoders",),
    ("metrics",),
    ("v2a",),
    ("backbones",),
    ("objectives",),
    ("samplers",),
)
"""Parts of ``components``, lowest first: none imports one above it."""
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
HEAVY = ("diffusers", "transformers", "peft")


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_names(file: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, dotted name and whether it runs when the module is imported (not inside a function)."""
    tree = ast.parse(file.read_text(), str(file))
    functions = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    lazy = {id(inner) for outer in ast.walk(tree) if isinstance(outer, functions) for inner in ast.walk(outer)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, id(node) not in lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(ROOT).parts[: -node.level] if node.level else ()
            found.append((node.lineno, ".".join([*package, node.module or ""]), id(node) not in lazy))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            argument = node.args[0] if node.args else None
            if name in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                found.append((node.lineno, str(argument.value), id(node) not in lazy))
    yield from sorted(found)


def breaches(file: Path, package: str) -> list[str]:
    found = []
    for line, name, _ in imported_names(file):
        top = name.split(".")[0]
        forbidden = top in PACKAGES and top not in MAY_IMPORT[package]
        if package == "components":
            forbidden |= top in ("lightning", "pytorch_lightning", "lightning_fabric", "jsonargparse")
        if forbidden or top in ("tests", "benchmarks"):
            found.append(f"{file.relative_to(ROOT)}:{line} imports {name}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_downwards(package: str):
    assert modules(package)
    assert [breach for file in modules(package) for breach in breaches(file, package)] == []


def test_a_forbidden_import_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every spelling of an import is seen, also in functions."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    bad = tmp_path / "components" / "part" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text(
        "import lightning as L\n"
        "from datamodules.clips import Clip\n"
        "def late():\n    from callbacks import results\n    import importlib\n"
        "    importlib.import_module('lightning_modules.command_line.cli')\n"
        "from ...datamodules import clips\n"
        "import components.errors\n"
    )
    assert [breach.split()[-1] for breach in breaches(bad, "components")] == [
        "lightning",
        "datamodules.clips",
        "callbacks",
        "lightning_modules.command_line.cli",
        "datamodules",
    ]


def test_components_hold_their_layers_and_nothing_else():
    found = {path.stem for path in (ROOT / "components").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert found - {"__init__", "__pycache__"} == {name for layer in LAYERS for name in layer}
    assert sorted(path.name for path in (ROOT / "components").glob("*.py")) == ["__init__.py", "errors.py"]


def test_components_import_downwards():
    """Every spelling counts: under ``TYPE_CHECKING``, inside functions, of types alone."""
    level = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    upwards = []
    for file in modules("components"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        for line, name, _ in imported_names(file):
            if len(parts) > 1 and name.startswith("components.") and parts[1] != "__init__":
                target = name.split(".")[1]
                if level[target] > level[parts[1]]:
                    upwards.append(f"{file.relative_to(ROOT)}:{line} imports {name}")
    assert upwards == []


def cycles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of nodes that reach each other."""
    reach = {node: set(targets) for node, targets in edges.items()}
    for middle in edges:
        for node in edges:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    rings = [frozenset(other for other in edges if other in reach[node] and node in reach[other]) for node in edges]
    return [set(ring) for ring in {ring for ring in rings if len(ring) > 1}]


def imported_modules(file: Path, known: Mapping[str, Path]) -> set[str]:
    """Those of the ``known`` modules that a file imports, also as ``from package import module``."""
    members = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return (members | {name for _, name, _ in imported_names(file)}) & known.keys()


def import_graph(by_folder: bool) -> dict[str, set[str]]:
    """Which module, or folder, imports which, over all packages; imports of types and inside functions count."""
    names = {}
    for package in (*PACKAGES, "benchmarks"):
        for file in modules(package):
            parts = file.relative_to(ROOT).with_suffix("").parts
            names[".".join(parts).removesuffix(".__init__")] = file
    # A package's own __init__ stands above its modules: it re-exports them.
    folder = {name: str(file.parent.relative_to(ROOT)) for name, file in names.items()}
    edges: dict[str, set[str]] = {(folder[name] if by_folder else name): set() for name in names}
    for name, file in names.items():
        source = folder[name] if by_folder else name
        for target in imported_modules(file, names):
            edges[source].add(folder[target] if by_folder else target)
    return {node: targets - {node} for node, targets in edges.items()}


@pytest.mark.parametrize("by_folder", [False, True], ids=["modules", "folders"])
def test_no_imports_run_in_circles(by_folder: bool):
    assert cycles(import_graph(by_folder)) == []


def test_a_circle_would_be_found():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


@pytest.mark.parametrize("package", [*PACKAGES, "benchmarks"])
def test_no_module_has_a_name_that_says_nothing(package: str):
    parts = {part for file in modules(package) for part in (*file.relative_to(ROOT).parts[:-1], file.stem)}
    assert not {part for part in parts if part.strip("_") in VAGUE_NAMES}


@pytest.mark.parametrize("package", PACKAGES)
def test_heavy_libraries_are_imported_where_they_are_used(package: str):
    at_start = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in modules(package)
        for line, name, runs_at_import in imported_names(file)
        if runs_at_import and name.split(".")[0] in HEAVY
    ]
    assert at_start == []


def test_importing_all_components_loads_no_model_library():
    """Neither diffusers nor transformers nor Lightning; torchmetrics is imported the way the command line does it."""
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in modules("components")]
    names = [name.removesuffix(".__init__") for name in names]
    code = (
        "import importlib, sys\n"
        "from lightning_modules.command_line.startup import import_torchmetrics\n"
        "import_torchmetrics()\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print([name for name in {[*HEAVY, 'lightning', 'pytorch_lightning']!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
