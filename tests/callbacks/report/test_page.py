import math
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

from callbacks.report.clip_cards import ClipEntry, ClipVideo, OnsetTracks, best_first
from callbacks.report.outcome import sentence
from callbacks.report.page import ReportPage
from callbacks.report.plots import Waveform
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
        videos={
            "generated": ClipVideo("media/1.generated.mp4", 192, 160, crisp=True),
            "off_sync": ClipVideo("media/1.off_sync.mp4", 640, 384),
        },
        waves={"generated": Waveform([0.0, 0.5], 1.0)},
        scores={"cyclesync": 50.0, "cyclesync_off_sync": None},
        kinds={"cyclesync_off_sync": "off_sync"},
        plots=[OnsetTracks("cyclesync", TRACKS, duration_s=1.0, tolerance_s=0.05)],
    )
    settings = {
        "title": "run <7>",
        "status": "running",
        "lead": "made <3> clips",
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
    assert "made &lt;3&gt; clips" in html
    assert [attrs["src"] for tag, attrs in seen if tag == "video"] == ["media/1.generated.mp4", "media/1.off_sync.mp4"]


def test_players_wait_for_being_seen_and_have_no_controls_over_the_picture():
    videos = [attrs for tag, attrs in parsed(page()) if tag == "video"]
    assert all({"muted", "loop", "playsinline"} <= video.keys() and "controls" not in video for video in videos)
    assert all(video["preload"] == "none" and "autoplay" not in video for video in videos)
    assert [(video["width"], video["height"], video.get("class")) for video in videos] == [
        ("192", "160", "crisp"),
        ("640", "384", None),
    ], "only what was enlarged is shown with hard edges"


def test_metrics_of_different_scales_get_their_own_plot():
    assert sum(attrs.get("class") == "curves" for tag, attrs in parsed(page()) if tag == "svg") == 2


def test_what_only_the_curves_show_is_explained_there():
    html = page(curves={name: [(3, 0.5, 0.4, 0.6), (4, 0.6, 0.5, 0.7)] for name in ("cyclesync", "train/loss")}).html()
    curves = html[html.index("Over training steps") :]
    assert '<h3>loss</h3><p class="hint">What training minimises' in curves
    assert "<h3>CycleSync</h3><svg" in curves


def test_a_single_evaluation_draws_no_curve():
    assert 'class="curves"' not in page(curves={"cyclesync": [(3, 50.0, 40.0, 60.0)]}).html()


def test_scores_stand_under_the_video_they_judge():
    under = re.findall(r'<figure data-kind="(\w+)">.*?<p class="under">(.*?)</p>', page().html())
    assert under == [
        ("generated", '<span title="cyclesync">CycleSync <b>50.0</b></span>'),
        ("off_sync", '<span title="cyclesync_off_sync">CycleSync <b>–</b></span>'),
    ]


def clips_with(scores):
    clip = page().clips[0]
    return [replace(clip, id=name, scores={"cyclesync": score}) for name, score in scores.items()]


def test_best_median_and_worst_come_first():
    clips = clips_with({"a": 20.0, "b": 90.0, "c": None, "d": 0.0, "e": 40.0, "f": 60.0})
    first, others = best_first(clips, "cyclesync")
    assert [(badge, clip.id) for badge, clip in first] == [("best", "b"), ("median", "e"), ("worst", "d")]
    assert [(badge, clip.id) for badge, clip in others] == [("", "a"), ("", "c"), ("", "f")]
    apart = [replace(clip, scores={"sync_d": clip.scores["cyclesync"]}) for clip in clips]
    assert [clip.id for _, clip in best_first(apart, "sync_d")[0]] == ["d", "e", "b"], "lower is better"
    html = page(clips=clips, all_scores=[0.0, 10.0, 95.0]).html()
    order = re.findall(r'<section class="card clip" id="(\w)"', html)
    assert order == ["b", "e", "d", "a", "c", "f"]
    assert "All 3 clips score 0.0 to 95.0, with a median of 10.0." in html


def test_nothing_is_picked_where_scores_tell_no_clips_apart():
    for clips in (clips_with({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}), clips_with({"a": 1.0, "b": 2.0, "c": None})):
        first, others = best_first(clips, "cyclesync")
        assert [(badge, clip.id) for badge, clip in first] == [("", "a"), ("", "b"), ("", "c")]
        assert [clip.id for _, clip in others] == [clip.id for clip in clips[3:]]
        assert "the best, the median" not in page(clips=clips).html()


def test_one_sentence_says_what_came_out():
    results = {
        "cyclesync": MetricResult(83.3, (77.5, 88.8), 9, {"n_clips": 64}),
        "cyclesync_chance": MetricResult(13.5, (9.3, 18.2), 9),
        "cyclesync_real": MetricResult(100.0, (100.0, 100.0), 9),
    }
    assert sentence("Syncphony", 1700, True, results) == (
        "After 1,700 training steps Syncphony made videos for the sounds of 64 held-out clips and scored 83.3 of 100 "
        "for picture and sound happening together (CycleSync, 95 % interval 77.5 to 88.8); clearly above chance, 13.5; "
        "real videos get 100.0."
    )
    results["cyclesync"] = MetricResult(19.0, (12.0, 25.0), 9)
    assert "; not clearly above chance, 13.5" in sentence("Syncphony", 0, True, results)
    apart = {"desync": MetricResult(0.5, (0.4, 0.6), 9), "desync_chance": MetricResult(1.0, (0.9, 1.1), 9)}
    assert "; clearly below chance, 1.0" in sentence("Syncphony", 0, True, apart)
    apart["desync"] = MetricResult(1.4, (1.3, 1.5), 9)
    assert "; not clearly below chance, 1.0" in sentence("Syncphony", 0, True, apart)
    truth = {
        "truth_sync": MetricResult(70.0, (math.nan, math.nan), 1),
        "truth_sync_off_sync": MetricResult(5.0, (1, 9), 1),
    }
    assert sentence("Harmony", 0, False, results | truth) == (
        "Harmony made videos with sound for 1 held-out clips and scored 70.0 of 100 for things happening at the right "
        "moments (truth sync); beside the same model without hearing, 5.0."
    )
    assert sentence("Mine", 3, True, {"motion": MetricResult(1.0, (0, 2), 8)}) == (
        "After 3 training steps Mine made videos for the sounds of 8 held-out clips."
    )


def test_every_metric_is_a_table_of_its_own_and_explained_where_it_is_known():
    names = ["psnr", "psnr_moving", "psnr_still", "truth_sync", "path_error", "motion"]
    html = page(results={name: MetricResult(1.0, (0, 2), 9) for name in names}, clips=[]).html()
    cards = re.findall(r'<section class="card">(.*?)</section>', html)
    assert [re.findall(r"<code>(\w+)", card) for card in cards] == [
        ["truth_sync"],
        ["psnr", "psnr_still"],
        ["psnr_moving"],
        ["path_error"],
        ["motion"],
    ]
    explanations = [re.search(r'<p class="hint">(.*?)</p>', card)[1] for card in cards]
    assert all(explanations[:-1]) and explanations[-1] == ""
    assert explanations[3].endswith("Lower is better.")
    assert "<b>frozen frame</b>: the first frame held still" in html


def test_scores_at_other_tolerances_are_shown():
    at = {"0.05": {"value": 50.0}, "0.1": {"value": 61.25}, "0.04167": {"value": 44.0}}
    results = {
        "cyclesync": MetricResult(50.0, (40, 60), 9, {"tolerance_s": 0.05, "tolerances": at}),
        "cyclesync_real": MetricResult(99.0, (98, 100), 9, {"tolerance_s": 0.05}),
    }
    html = page(results=results).html()
    assert "<th>at 0.0417 s</th><th>at 0.1 s</th><th>n</th>" in html
    assert '<td data-label="at 0.0417 s">44.00</td><td data-label="at 0.1 s">61.25</td>' in html
    assert '<td data-label="at 0.0417 s">–</td>' in html


def test_next_commands_can_be_copied():
    html = page(next_steps={"Go <on>": "avsync fit --config a.yaml --data.sounds '[a b.wav]'"}).html()
    assert "Go &lt;on&gt;" in html
    shown = re.search(r'<div class="command"><pre>(.*?)</pre>', html)[1]
    assert unescape(re.sub("<[^>]+>", "", shown)) == "avsync fit --config a.yaml --data.sounds '[a b.wav]'"
    assert "What to do next" not in page().html()


def test_two_judges_are_told_apart():
    details = [{"v2a": "my.V2A", "v2a_sha256": digest * 64} for digest in "ab"]
    results = {name: MetricResult(1.0, (0, 2), 9, details[name == "mine"]) for name in ("cyclesync", "real", "mine")}
    html = page(results=results).html()
    assert f"cyclesync, real: my.V2A ({'a' * 12})" in html and f"mine: my.V2A ({'b' * 12})" in html
    clip = page().clips[0]
    twice = replace(clip, plots=[*clip.plots, OnsetTracks("mine", TRACKS, duration_s=1.0, tolerance_s=0.2)])
    assert page(clips=[twice]).html().count('class="onsets"') == 2
    assert ">mine</p>" in page(clips=[twice]).html() and ">CycleSync</p>" not in page().html()


def test_an_unknown_track_draws_no_row():
    html = page().html()
    assert "driving sound</span>" in html and "true events</span>" not in html


def test_numbers_that_are_none_are_dashes():
    html = page(results={"a": MetricResult(math.nan, (math.nan, math.nan), 0)}).html()
    assert '<td class="value">–</td><td data-label="95 %">–</td>' in html and "nan" not in html


def test_an_empty_run_is_still_a_page():
    seen = parsed(page(results={}, curves={}, clips=[], config=None))
    assert not any(tag in ("video", "table", "svg") for tag, _ in seen)
    assert ("span", {"class": "status running"}) in seen


def test_colours_exist_for_both_schemes():
    html = page().html()
    assert "color-scheme: light dark" in html
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    assert used <= set(re.findall(r"(--[\w-]+):", html))
