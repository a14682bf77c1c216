"""Clips in the order of any score, and picked by group: what the page offers, and what a browser makes of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from callbacks.report.clip_cards import ClipEntry, ClipVideo
from callbacks.report.clip_order import order_bar
from callbacks.report.page import ReportPage
from components.contracts import MetricResult

SCORES = {
    "bell/1": (10.0, 5.0),
    "bell/2": (90.0, None),
    "frog/1": (50.0, 2.0),
    "frog/2": (30.0, 9.0),
    "frog/3": (70.0, 7.0),
}


def clip(name: str, scores: dict[str, float | None], **groups: str) -> ClipEntry:
    return ClipEntry(name, "", "a.mp4", {"generated": ClipVideo("b.mp4", 64, 64)}, scores=scores, groups=groups)


def clips() -> list[ClipEntry]:
    return [
        clip(name, {"cyclesync": best, "sync_d": low, "alike": 1.0}, folder=name.partition("/")[0], language="en")
        for name, (best, low) in SCORES.items()
    ]


def page(entries: list[ClipEntry]) -> str:
    results = {"cyclesync": MetricResult(50.0, (40.0, 60.0), 5)}
    return ReportPage("t", "finished", "l", "r", results, {}, entries, None, {}).html()


def test_what_can_be_chosen():
    bar = order_bar(clips(), picked=True)
    assert re.findall(r'<option value="(\w*)"', bar) == ["", "cyclesync", "sync_d", "", "bell", "frog"]
    # scores that tell no clips apart, and a group that all belong to, choose nothing
    assert "alike" not in bar and "language" not in bar
    assert re.findall(r'data-higher="(\d)"', bar) == ["1", "0"]
    assert "best, median and worst first" in bar and "as evaluated" in order_bar(clips(), picked=False)
    assert order_bar(clips()[:1], picked=False) == "" == order_bar([clip("a", {}), clip("b", {})], picked=False)


def test_cards_carry_scores_and_groups():
    entries = [clip('<"1">', {"cyclesync": 0.5, "cyclesync_w0": None}, folder='a"b'), clip("2", {"cyclesync": 1.0})]
    found = re.search(r'data-scores="(.*?)" data-groups="(.*?)">', page(entries))
    assert json.loads(unescape(found[1])) == {"cyclesync": 0.5} and json.loads(unescape(found[2])) == {"folder": 'a"b'}


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the program chromium on the PATH")
def test_in_a_browser(tmp_path):
    steps = [
        [],
        [("by", "sync_d")],
        [("by", "cyclesync"), ("turn", "")],
        [("part", "frog")],
        [("by", ""), ("part", "")],
    ]
    script = """<script>
      const seen = [];
      for (const step of %s) {
        for (const [name, value] of step) {
          const found = document.querySelector("." + name);
          if (name === "turn") found.click();
          else { found.value = value; found.dispatchEvent(new Event("change")); }
        }
        const names = [...document.querySelectorAll(".deck")].map((deck) =>
          [...deck.querySelectorAll(".clip:not([hidden])")].map((card) => card.id));
        seen.push([names, document.querySelector(".count").textContent]);
      }
      document.title = JSON.stringify(seen);
    </script>"""
    (tmp_path / "page.html").write_text(page(clips()).replace("</body>", script % json.dumps(steps) + "</body>"))
    flags = ["--no-sandbox", "--headless", "--disable-gpu", "--no-first-run", "--dump-dom"]
    shown = subprocess.run(
        ["chromium", *flags, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, timeout=200, check=True
    ).stdout
    assert json.loads(unescape(re.search(r"<title>(.*?)</title>", shown)[1])) == [
        # best, median and worst, and the others as they were evaluated
        [[["bell/2", "frog/1", "bell/1"], ["frog/2", "frog/3"]], ""],
        # lower is better; what has no score comes last
        [[["frog/1", "bell/1", "frog/3"], ["frog/2", "bell/2"]], ""],
        [[["bell/1", "frog/2", "frog/1"], ["frog/3", "bell/2"]], ""],
        [[["frog/2", "frog/1", "frog/3"], []], "3 of 5 clips"],
        [[["bell/2", "frog/1", "bell/1"], ["frog/2", "frog/3"]], ""],
    ]
