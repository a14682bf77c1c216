import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_modules.command_line.cli import main
from lightning_modules.command_line.paper_tables import PAPERS

SHA = "0123456789abcdef0123"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, **entries):
    Path(name).mkdir(exist_ok=True)
    (Path(name) / "results.json").write_text(json.dumps({"metrics": entries}))


def entry(value, low, high, n=64, **details):
    return {"value": value, "ci95": [low, high], "n": n, **details}


def table(capsys, *args):
    status = main(["table", *args])
    return status, *capsys.readouterr()


def cells(text, first):
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_a_row_beside_the_papers(capsys):
    judge = {"v2a": "a.V2A", "v2a_sha256": SHA, "tolerance_s": 0.005, "n_clips": 450, "tolerances": {"0.05": {}}}
    write("one", cyclesync=entry(20.5, 18.25, 22.75, 150, **judge), cyclesync_real=entry(25, 20, 30))
    status, out, err = table(capsys, "one", "--papers", "syncphony")
    assert (status, err) == (0, "")
    assert cells(out, "AVSync15") == ["AVSync15", "FID ↓", "FVD ↓", "IA ↑", "CycleSync ↑"]
    assert cells(out, "Syncphony, w = 2") == ["Syncphony, w = 2", "8.5", "293.1", "37.02", "16.48"]
    assert cells(out, "one") == ["one", "–", "–", "–", "20.50 (18.25–22.75), n 150"]
    assert "- CycleSync: v2a a.V2A, v2a_sha256 0123456789ab, tolerance_s 0.005\n" in out
    assert "arXiv 2509.21893" in out


def test_subsets_names_and_kinds(capsys):
    groups = {"subset": {"speech": entry(6.0, 5.0, 7.0, 50)}}
    write("one", sync_c=entry(5.0, 4.0, 6.0, 100, groups=groups), sync_c_real=entry(8.0, None, None, 1))
    _, out, _ = table(capsys, "one", "--papers", "harmony", "--set", "speech", "--names", "ours")
    assert cells(out, "ours")[12] == "6.00 (5.00–7.00), n 50"
    assert cells(out, "Harmony")[12:14] == ["6.51", "8.63"] and cells(out, "Harmony")[14] == "–"
    _, out, _ = table(capsys, "one", "--papers", "harmony", "--kinds", "generated", "real")
    assert cells(out, "one, generated")[12] == "6.00 (5.00–7.00), n 50"
    assert cells(out, "one, real")[12] == "8.00, n 1"  # no interval over one recording


def test_all_takes_the_clips_that_the_papers_column_is_of(capsys):
    # the paper's own rows: Sync-C of speech and complex, DeSync of ambient and complex, 50 clips each
    harmony = {"sync_c": ("speech", 6.51, "complex", 4.70), "desync": ("ambient", 0.70, "complex", 1.13)}
    groups = {
        name: {"subset": {one: entry(a, a - 0.3, a + 0.6, 50), other: entry(b, b - 0.4, b + 0.8, 50)}}
        for name, (one, a, other, b) in harmony.items()
    }
    groups["sync_c"]["subset"]["ambient"] = entry(0.1, 0.0, 0.2, 50)
    write("one", **{name: entry(3.0, 2.0, 4.0, 150, groups=groups[name]) for name in harmony})
    _, out, _ = table(capsys, "one", "--papers", "harmony")
    assert cells(out, "Harmony")[12] == "5.61" and cells(out, "Harmony")[14] == "0.92"
    # 0.5 * hypot(0.3, 0.4) below, 0.5 * hypot(0.6, 0.8) above
    assert cells(out, "one")[12] == f"{5.605:.2f} ({5.355:.2f}–{6.105:.2f}), n 100"
    assert cells(out, "one")[14] == f"{0.915:.2f} ({0.665:.2f}–{1.415:.2f}), n 100"
    assert "- Sync-C: clips of speech and complex\n- DeSync: clips of ambient and complex\n" in out


def test_all_says_of_which_clips_a_run_has_no_more(capsys):
    groups = {"subset": {"complex": entry(4.0, 3.0, 5.0, 8), "ambient": entry(1.0, 0.0, 2.0, 8)}}
    only = {"subset": {"ambient": entry(1.0, 0.0, 2.0, 8)}}
    write("one", sync_c=entry(2.5, 2.0, 3.0, 16, groups=groups), sync_d=entry(1.0, 0.0, 2.0, 8, groups=only))
    one = {"subset": {"speech": entry(5.0, None, None, 1), "complex": entry(3.0, None, None, 1)}}
    write("two", sync_c=entry(2.5, 2.0, 3.0, 16), sync_d=entry(4.0, 3.0, 5.0, 2, groups=one))
    _, out, _ = table(capsys, "one", "two", "--papers", "harmony")
    assert cells(out, "one")[12:14] == ["4.00 (3.00–5.00), n 8", "–"]
    assert cells(out, "two")[12:14] == ["2.50 (2.00–3.00), n 16", "4.00, n 2"] and "between sets" not in out
    assert "- Sync-C: clips of complex (none of speech was scored) (one)\n" in out
    assert "- Sync-C: of all clips, which name no subsets (the paper's are of speech and complex) (two)\n" in out


def test_a_distance_between_sets_is_over_no_recordings(capsys):
    write("one", fid=entry(9.5, None, None, 4950, n_generated=4950), cyclesync=entry(20.0, 18.0, 22.0, 150))
    _, out, _ = table(capsys, "one", "--papers", "syncphony")
    assert "- FID: a distance between sets; n features of generated clips" in out
    write("one", cyclesync=entry(20.0, None, None, 1))
    _, out, _ = table(capsys, "one", "--papers", "syncphony")
    assert "between sets" not in out


def test_what_was_measured_is_no_part_of_what_it_was_measured_by(capsys):
    curve = {"-0.5": [1.0, 0.9, 1.1], "0": [0.6, 0.5, 0.7]}
    write("one", desync=entry(0.6, 0.5, 0.7, by_sound_offset=curve, desync_rule="javisbench"))
    _, out, _ = table(capsys, "one", "--papers", "harmony")
    assert ", desync_rule javisbench\n" in out and "by_sound" not in out


def test_latex_is_escaped(capsys):
    write("a_b", sync_c=entry(5.0, 4.0, 6.0, 100, face_detector="x_y", syncnet_sha256=SHA))
    status, out, _ = table(capsys, "a_b", "--papers", "harmony", "--format", "latex")
    assert status == 0
    assert "a\\_b & " in out and "5.00 (4.00--6.00), n 100" in out and "face\\_detector x\\_y" in out
    assert out.count("\\toprule") == out.count("\\bottomrule") == 1
    rows = [line for line in out.splitlines() if line.endswith("\\\\")]
    assert {line.count("&") for line in rows} == {15} and "–" not in out and "95 \\%" in out


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["none", "--papers", "harmony"], "'none' does not exist"),
        (["one", "--papers", "others"], "no table; it has harmony, syncphony"),
        (["one", "--papers", "harmony", "--set", "x"], "it has all, speech, ambient, complex"),
        (["one", "--papers", "harmony"], "one has none of the metrics of the table"),
        (["one", "--papers", "syncphony", "--kinds", "w9"], "one, w9 has none"),
        (["one", "--papers", "syncphony", "--names", "a", "b"], "--names has 2 names for 1 runs"),
        (["broken", "--papers", "syncphony"], "'broken/results.json' holds no results"),
        (["one"], "required: --papers; use avsync table"),
    ],
)
def test_what_cannot_be_shown_is_said(args, sentence, capsys):
    write("one", cyclesync=entry(1.0, 0.5, 2.0))
    Path("broken").mkdir()
    Path("broken/results.json").write_text("{}")
    status, out, err = table(capsys, *args)
    assert (status, out) == (2, "") and sentence in err


def test_every_row_has_columns_of_its_table_and_numbers_alone():
    for paper in yaml.safe_load(PAPERS.read_text()).values():
        for rows in paper["sets"].values():
            for numbers in rows.values():
                assert set(numbers) <= set(paper["columns"]) and all(
                    isinstance(n, int | float) for n in numbers.values()
                )
        assert set(paper["subsets"]) <= set(paper["sets"])


def test_it_waits_for_no_framework():
    code = (
        "import sys, lightning_modules.command_line.table\n"
        "print([name for name in ('torch', 'lightning', 'av') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert run.stdout.strip() == "[]", run.stderr
