import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from components.media.lossless import write_lossless
from components.media.reader import probe, read_video
from components.media.writer import write_mp4
from lightning_modules.command_line.cli import main
from lightning_modules.command_line.pairwise_questions import FORMAT, QUESTIONS
from lightning_modules.command_line.pairwise_votes import preferences, wilson_interval
from tests.components.media.made_files import turn

CLIPS = [f"clip {n}" for n in range(5)]
RED, BLUE = (200, 20, 20), (20, 20, 200)
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def video(color):
    return torch.tensor(color, dtype=torch.uint8)[None, :, None, None].expand(12, -1, 32, 32).contiguous()


@pytest.fixture
def systems():
    """A run that kept its clips, red, and a folder of files that browsers play, blue; each has a clip of its own."""
    sound = torch.zeros(8000)
    for name in (*CLIPS, "only one"):
        write_lossless(Path(f"run/clips/generated/{name}.mov"), video(RED), 24.0, sound)
    for name in (*CLIPS, "only two"):
        write_mp4(f"folder/{name}.mp4", video(BLUE), 24.0, sound)
    return ["run", "folder"]


def pairwise(capsys, *args):
    status = main(["pairwise", *args])
    return status, *capsys.readouterr()


def study_of(folder):
    page = Path(folder, "index.html").read_text()
    return page, json.loads(re.search(r'id="study">(.*?)</script>', page, re.DOTALL)[1].replace("<\\/", "</"))


def test_a_page_of_pairs_that_does_not_tell_who_is_who(systems, capsys):
    status, out, err = pairwise(capsys, *systems, "--out", "page", "--seed", "3")
    assert (status, err) == (0, "") and "5 pairs; 2 clips are in one system alone" in out
    page, study = study_of("page")
    assert sorted(pair["clip"] for pair in study["pairs"]) == CLIPS
    assert [pair["clip"] for pair in study["pairs"]] != CLIPS
    assert Counter(pair["left_is"] for pair in study["pairs"]) == {"a": 3, "b": 2}
    for pair in study["pairs"]:
        for side, is_a in (("left", pair["left_is"] == "a"), ("right", pair["left_is"] == "b")):
            file = Path("page", pair[side])
            shown = read_video(file, 0.0, 1, 24.0, 32, 32).float().mean(dim=(0, 2, 3))
            assert (shown - torch.tensor(RED if is_a else BLUE).float()).abs().max() < 8
            assert file.suffix == ".mp4" and probe(file).sample_rate is not None
            assert not {"run", "folder"} & set(re.split(r"\W|_", pair[side]))
    body = page.split('<script type="application/json"')[0]
    assert "run" not in re.findall(r"\w+", body.split("<body>")[1]) and body.count("<fieldset>") == 5 * len(QUESTIONS)
    assert not re.search(r'(src|href)="(https?:)?//', page)


def test_recordings_on_their_side_are_shown_upright_and_whole(capsys):
    for system in ("one", "two"):
        lying = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
        lying[..., :24], lying[..., -24:] = 255, 128  # both ends of the long side
        file = Path(f"{system}/a.mov")
        write_lossless(file, lying, 24.0)
        turn(file)
    assert pairwise(capsys, "one", "two", "--out", "page")[0] == 0
    file = Path("page", study_of("page")[1]["pairs"][0]["left"])
    assert probe(file).height / probe(file).width == 1.5
    shown = read_video(file, 0.0, 1, 24.0, 96, 64)[0].float()
    assert shown[:, :20].mean() > 240 and abs(shown[:, -20:].mean() - 128) < 10


def test_the_seed_decides_order_and_sides(systems, capsys):
    for seed, out in (("0", "one"), ("0", "two"), ("1", "three")):
        assert pairwise(capsys, *systems, "--out", out, "--seed", seed, "--names", "x", "y")[0] == 0
    one, two, three = (study_of(name)[1] for name in ("one", "two", "three"))
    assert one == two and (one["a"], one["b"]) == ("x", "y")
    assert one["pairs"] != three["pairs"] and one["study"] != three["study"]
    assert pairwise(capsys, *systems, "--out", "few", "--max_pairs", "2")[0] == 0
    assert len(study_of("few")[1]["pairs"]) == 2


def ballot(name, votes, study="s", **more):
    """Votes ``(clip, question, choice, side)``."""
    rows = [dict(zip(("clip", "question", "choice", "side"), vote, strict=True)) for vote in votes]
    record = {"format": FORMAT, "study": study, "a": "ours", "b": "theirs", "ballot": name, "votes": rows, **more}
    Path(f"{name}.json").write_text(json.dumps(record))
    return f"{name}.json"


def test_votes_by_hand(capsys):
    # sync: clip p 3 : 0, clip q 0 : 1, so 3 : 1 votes; quality: 0 : 1
    one = ballot("one", [("p", "sync", "a", "left"), ("p", "sync", "a", "left"), ("p", "quality", "b", "right")])
    two = ballot("two", [("p", "sync", "a", "right"), ("q", "sync", "b", "left")])
    status, out, err = pairwise(capsys, "--votes", one, two)
    assert (status, err) == (0, "")
    rows = {cells[1]: cells for line in out.splitlines() if len(cells := [c.strip() for c in line.split("│")]) > 7}
    assert rows["sync"][2:8] == ["3 : 1", "75.0 %", "30.1 to 95.4", "0.0 to 100.0", "2", "75 %"]
    assert rows["quality"][2:8] == ["0 : 1", "0.0 %", "0.0 to 79.3", "–", "1", "0 %"]
    assert "A: ours" in out and "B: theirs" in out and "2 ballots" in out and "consistency" not in out


def test_share_and_intervals_are_of_all_votes_where_clips_have_unequally_many():
    """Simulated studies: half of the clips have 12 votes and are won by A, the others have 2 and are not."""
    draws = np.random.default_rng(0)
    expected = (12 * 0.8 + 2 * 0.3) / 14  # 0.73; the mean over clips is 0.55
    covered, by_votes, studies = 0, 0, 150
    for _ in range(studies):
        votes = []
        for clip in range(40):
            count, share = (12, 0.8) if draws.random() < 0.5 else (2, 0.3)
            liking = draws.beta(4 * share, 4 * (1 - share))  # votes on a clip go together
            for choice in draws.random(count) < liking:
                votes.append({"clip": str(clip), "question": "sync", "choice": "ba"[int(choice)], "side": "left"})
        found = preferences([{"votes": votes}])["sync"]
        assert found.share_of_a == found.for_a / len(votes)
        for low, high in (found.wilson, found.over_clips):
            assert low <= found.share_of_a <= high
        covered += found.over_clips[0] <= expected <= found.over_clips[1]
        by_votes += found.wilson[0] <= expected <= found.wilson[1]
    assert 0.9 <= covered / studies <= 0.99 and by_votes / studies < 0.9


def test_wilsons_interval():
    # Syncphony's study: 222 of 300; the two ends solve |p - 0.74| = z sqrt(p (1 - p) / n)
    low, high = wilson_interval(222, 300)
    for end in (low, high):
        assert abs(end - 0.74) == pytest.approx(1.959964 * (end * (1 - end) / 300) ** 0.5, rel=1e-5)
    assert low < 0.74 < high and wilson_interval(0, 5)[0] == 0 < wilson_interval(0, 5)[1] < 0.5
    assert wilson_interval(5, 5)[1] == 1


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["none", "folder", "--out", "page"], "'none' does not exist"),
        (["run", "--out", "page"], "two systems and --out are needed"),
        (["run", "folder"], "two systems and --out are needed"),
        (["run", "run", "--out", "page"], "both systems are called 'run'"),
        (["run", "other", "--out", "page"], "have no clip of the same name (clip 0, clip 1"),
        (["run", "folder", "--out", "mine"], "holds notes.txt, which would be deleted"),
        (["run", "folder", "--votes", "a.json"], "--votes counts votes and makes no page"),
        (["--votes", "none.json"], "'none.json' does not exist"),
        (["--votes", "mine/notes.txt"], "'mine/notes.txt' is no file of votes"),
        (["--votes", "one.json", "again.json"], "are saves of the same ballot"),
        (["--votes", "one.json", "two.json"], "votes on another page than 'one.json'"),
        (["--votes", "empty.json"], "empty.json has no votes"),
        (["run", "folder", "--out", "page", "--max_pairs", "0"], "'0' is no number from 1 on"),
    ],
)
def test_what_cannot_be_done_is_said(systems, args, sentence, capsys):
    write_mp4("other/x.mp4", video(BLUE), 24.0)
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    ballot("one", [("p", "sync", "a", "left")])
    shutil.copy("one.json", "again.json")
    ballot("two", [("p", "sync", "a", "left")], study="t")
    ballot("empty", [])
    status, out, err = pairwise(capsys, *args)
    assert (status, out) == (2, "") and sentence in err
    assert not Path("page").exists() and Path("mine/notes.txt").read_text() == "mine"


def test_votes_are_cast_kept_and_saved_in_a_browser(systems, capsys):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    assert pairwise(capsys, *systems, "--out", "page")[0] == 0
    _, study = study_of("page")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        page = browser.new_page(accept_downloads=True)
        complaints = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(Path("page/index.html").absolute().as_uri())
        page.locator("#rater").fill("r7")
        page.locator('input[name="0.sync"][value="left"]').check()
        page.locator('input[name="1.quality"][value="right"]').check()
        page.locator('input[name="1.quality"][value="left"]').check()  # a change of mind is one vote
        assert page.locator("#progress").inner_text() == "2 of 15 answered"
        page.wait_for_timeout(500)  # a busy Chromium hands what is stored on to its other processes a moment later
        page.reload()
        assert page.locator("#progress").inner_text() == "2 of 15 answered"
        assert page.locator("#rater").input_value() == "r7"
        with page.expect_download() as download:
            page.locator("#save").click()
        download.value.save_as("votes.json")
        browser.close()
    assert complaints == []
    saved = json.loads(Path("votes.json").read_text())
    assert (saved["rater"], saved["study"]) == ("r7", study["study"])
    assert saved["votes"] == [
        {"clip": pair["clip"], "question": question, "side": "left", "choice": pair["left_is"]}
        for pair, question in zip(study["pairs"], ("sync", "quality"), strict=False)
    ]
    assert pairwise(capsys, "--votes", "votes.json")[0] == 0
