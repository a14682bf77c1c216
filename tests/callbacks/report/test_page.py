import math
import re
from dataclasses import replace
from html.parser import HTMLParser

from callbacks.report.page import ClipEntry, OnsetTracks, ReportPage
from components.contracts import MetricResult

TRACKS = {"true": None, "driving": [0.1], "generated": [0.1], "off_sync": []}
VOID = {"meta", "link", "br", "img", "input"}


class Balance(HTMLParser):
    """Collects elements and refuses tags that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(page):
    parser = Balance()
    parser.feed(page.html())
    parser.close()
    assert parser.open == []
    return parser.seen


def page(**changes):
    clip = ClipEntry(
        id="dog/<1>",
        caption='a "dog" & <cat>',
        wide="media/1.side_by_side.mp4",
        videos={"generated": "media/1.generated.mp4", "off_sync": "media/1.off_sync.mp4"},
        scores={"cyclesync": 50.0, "cyclesync_off_sync": None},
        kinds={"cyclesync_off_sync": "off_sync"},
        plots=[OnsetTracks("cyclesync", TRACKS, duration_s=1.0, tolerance_s=0.05)],
    )
    settings = {
        "title": "run <7>",
        "status": "running",
        "remark": "step 3 & on",
        "results": {"cyclesync": MetricResult(50.0, (40.0, 60.0), 9, {"tolerance_s": 0.05})},
        "curves": {name: [(3, 0.5, 0.4, 0.6), (4, 0.6, 0.5, 0.7)] for name in ("cyclesync", "cyclesync_w0", "desync")},
        "clips": [clip],
        "config": "a: <b>",
        "versions": {"torch": "2"},
    }
    return ReportPage(**(settings | changes))


def test_page_is_well_formed_and_escapes_what_it_is_given():
    seen = parsed(page())
    html = page().html()
    assert "dog/<1>" not in html and "<cat>" not in html and "run <7>" not in html
    assert [attrs["class"] for tag, attrs in seen if tag == "video"] == ["wide", "small", "small"]


def test_metrics_of_different_scales_get_their_own_plot():
    assert sum(attrs.get("class") == "curves" for tag, attrs in parsed(page()) if tag == "svg") == 2


def test_a_single_evaluation_draws_no_curve():
    assert 'class="curves"' not in page(curves={"cyclesync": [(3, 50.0, 40.0, 60.0)]}).html()


def test_scores_stand_under_the_video_they_judge():
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page().html())
    assert captions == ["generated · cyclesync <b>50.0</b>", "off-sync · cyclesync_off_sync <b>–</b>"]


def test_two_judges_are_told_apart():
    details = [{"v2a": "my.V2A", "v2a_sha256": digest * 64} for digest in "ab"]
    results = {name: MetricResult(1.0, (0, 2), 9, details[name == "mine"]) for name in ("cyclesync", "real", "mine")}
    html = page(results=results).html()
    assert f"cyclesync, real: my.V2A ({'a' * 12})" in html and f"mine: my.V2A ({'b' * 12})" in html
    clip = page().clips[0]
    twice = replace(clip, plots=[*clip.plots, OnsetTracks("mine", TRACKS, duration_s=1.0, tolerance_s=0.2)])
    assert page(clips=[twice]).html().count('class="onsets"') == 2
    assert ">mine</p>" in page(clips=[twice]).html() and ">cyclesync</p>" not in page().html()


def test_an_unknown_track_draws_no_row():
    html = page().html()
    assert "driving sound</text>" in html and "true events</text>" not in html


def test_numbers_that_are_none_are_dashes():
    html = page(results={"a": MetricResult(math.nan, (math.nan, math.nan), 0)}).html()
    assert '<td class="value">–</td><td>–</td>' in html and "nan" not in html


def test_an_empty_run_is_still_a_page():
    seen = parsed(page(results={}, curves={}, clips=[], config=None))
    assert not any(tag in ("video", "table", "svg") for tag, _ in seen)
    assert ("span", {"class": "status running"}) in seen


def test_colours_exist_for_both_schemes():
    html = page().html()
    assert "color-scheme: light dark" in html
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    assert used <= set(re.findall(r"(--[\w-]+):", html))
