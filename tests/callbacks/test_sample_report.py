import json
import math
import re
import shutil
from typing import ClassVar

import lightning as L
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.clip_metrics import ClipMetrics
from callbacks.cyclesync import CycleSyncCallback
from callbacks.results import ResultsWriter
from callbacks.sample_report import SampleReport
from components.errors import InputError
from components.media.reader import probe, read_audio, read_video
from components.metrics.cyclesync.onsets import OnsetDetector
from components.metrics.scorers import ClipScorer, ClipScores
from components.v2a.motion_v2a import MotionV2A
from tests.callbacks.jumping_squares import COLORS, FRAMES, JUMPS, JumpingSquares, SquareClips, render

KINDS = ("generated", "w0", "off_sync", "real", "side_by_side")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]


def make_trainer(folder, *extra, **kwargs):
    steps = {"Go on": "avsync fit --ckpt_path {ckpt} --trainer.max_steps 9"}
    report = SampleReport(num_clips=3, curves=["train/base"], next_steps=steps)
    return L.Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(folder, "squares", default_hp_metric=False),
        callbacks=[CycleSyncCallback(MotionV2A()), report, ResultsWriter(), *extra],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        log_every_n_steps=1,
        **kwargs,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a finished run of two validations, and what the page said while it was running."""
    folder = tmp_path_factory.mktemp("runs")
    version = folder / "squares/version_0"
    while_running = []

    class Peek(L.Callback):
        def setup(self, trainer, pl_module, stage):
            (version / "config.yaml").write_text("trainer:\n  max_steps: 2  # <tags> & more\n")

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            page = version / "report/index.html"
            while_running.append(page.read_text() if page.exists() else None)

    trainer = make_trainer(folder, Peek(), max_steps=2, val_check_interval=1)
    trainer.fit(JumpingSquares(), datamodule=SquareClips())
    return version, while_running


def test_page_is_renewed_at_every_validation_and_says_when_it_is_finished(run):
    version, while_running = run
    before, between = while_running
    assert before is None, "the sanity check before training writes no page"
    assert 'class="status running"' in between and "Evaluated at step 1 " in between
    page = (version / "report/index.html").read_text()
    assert 'class="status finished"' in page and "Evaluated at step 2 " in page
    assert 'class="curves"' not in between, "one point is no curve"
    for name in ("cyclesync", "cyclesync_real", "train/base"):
        assert f"{name} at step 1: " in page and f"{name} at step 2: " in page


class Darkness(ClipScorer):
    """Nothing that a report knows by its name."""

    higher_is_better: ClassVar = {"darkness": False, "light": True}

    def score(self, generation, rows):
        light = [generation.video[row].mean().item() for row in rows]
        return [ClipScores({"darkness": 1 - found, "light": found}) for found in light]

    def identity(self):
        return {}


def test_the_order_of_a_score_is_what_its_judge_says_whatever_it_is_called(tmp_path):
    trainer = make_trainer(tmp_path, ClipMetrics(Darkness(), name="my"))
    trainer.validate(JumpingSquares(), datamodule=SquareClips(), verbose=False)
    page = (tmp_path / "squares/version_0/report/index.html").read_text()
    found = dict(re.findall(r'<option value="(\w+)" data-higher="(\d)"', page))
    assert (found["my_darkness"], found["my_darkness_real"], found["my_light"], found["cyclesync"]) == (
        "0",
        "0",
        "1",
        "1",
    )


def test_page_needs_no_network_and_names_only_files_that_are_there(run):
    version, _ = run
    page = (version / "report/index.html").read_text()
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page) and "@import" not in page
    sources = re.findall(r'(?:src|poster|href)="(media/[^"#]+)', page)
    assert len(sources) == 3 * (2 * len(KINDS) - 1)  # no picture of the one that is not played on the page
    assert all((version / "report" / source).is_file() for source in sources)
    assert len(list((version / "report/media").iterdir())) == len(sources)
    assert "&lt;tags&gt; &amp; more" in page


def test_page_holds_the_numbers_of_the_results(run):
    version, _ = run
    page = (version / "report/index.html").read_text()
    for name, entry in json.loads((version / "results.json").read_text())["metrics"].items():
        shown = "generated" if name == "cyclesync" else f"<code>{name}</code>"
        assert f'{shown}</td><td class="value">{entry["value"]:.2f}</td>' in page


def test_page_says_in_words_what_came_out_and_what_to_do_next(run):
    version, _ = run
    page = (version / "report/index.html").read_text()
    entry = json.loads((version / "results.json").read_text())["metrics"]["cyclesync"]
    lead = re.search('<p class="lead">(.*?)</p>', page)[1]
    assert lead.startswith(
        f"After 2 training steps JumpingSquares made videos for the sounds of {entry['n_clips']} held"
    )
    assert f"scored {entry['value']:.1f} of 100" in lead
    words = re.sub("<[^>]+>", "", re.search('<div class="command">(.*?)</div>', page)[1])
    assert words.startswith(f"avsync fit --ckpt_path {version}/checkpoints/last.ckpt --trainer.max_steps 9")


def test_the_sound_is_drawn_where_it_is_heard(run):
    version, _ = run
    page = (version / "report/index.html").read_text()
    plot = re.search(r'<div class="onsets".*?(?=<div class="row axis">)', page)[0]
    assert plot.count('<svg class="wave"') == 1, "all videos play the driving sound"
    points = re.search(r'<polygon points="([^"]+)"', plot)[1].split()
    peaks = [-float(point.split(",")[1]) for point in points[: len(points) // 2]]
    driving = re.search(r'driving sound</span><div class="lane">(.*?)</div>', plot)[1]
    starts = [float(share) for share in re.findall(r'class="onset [^"]*" style="left:([\d.]+)%', driving)]
    assert starts
    for share in starts:
        at = round(share / 100 * len(peaks))
        assert max(peaks[at - 3 : at + 4]) > 3 * max(0.02, *peaks[at - 12 : at - 6])


def test_videos_are_enlarged_and_carry_the_driving_sound(run):
    version, _ = run
    media = {file.name.split(".")[1]: file for file in (version / "report/media").glob("hammering_a_0-*.mp4")}
    assert set(media) == set(KINDS)
    for file in media.values():
        info = probe(file)
        assert min(info.width, info.height) >= (128 if file is media["side_by_side"] else 192)
        assert info.duration_s == pytest.approx(FRAMES / 24, abs=0.05)
        assert read_audio(file, 0.0, 16_000, 16_000).abs().max() > 0.1
    shown = read_video(media["real"], 0.0, FRAMES, 24.0, 32, 32).float() / 255
    assert (shown - render(JUMPS["hammering/a_0"], COLORS["hammering"])).abs().mean() < 0.03
    wide = read_video(media["side_by_side"], 0.0, FRAMES, 24.0, 150, 524).float() / 255
    jumps = [MotionV2A()(panel[None].float(), 24.0) for panel in wide.split(132, dim=-1)]
    counts = [len(OnsetDetector()(sound, rate)[0]) for sound, rate in jumps]
    assert counts == [3, 1, 2, 3], "generated (3 onsets met after 2 steps), w0, off-sync, real"


def test_tensorboard_gets_scalars_pictures_and_sound(run):
    version, _ = run
    events = EventAccumulator(str(version), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    assert {"cyclesync", "cyclesync_low", "cyclesync_high", "cyclesync_real"} <= set(tags["scalars"])
    assert [scalar.step for scalar in events.Scalars("cyclesync")] == [1, 2]
    clips = {f"val_clips/{name}" for name in ("hammering/a_0", "hammering/a_1", "frog/b_0")}
    assert set(tags["images"]) == clips and set(tags["audio"]) == clips
    picture = events.Images("val_clips/hammering/a_0")[-1]
    assert picture.encoded_image_string.startswith(b"GIF89a") and picture.step == 2


def test_a_resumed_run_goes_on_drawing_and_a_validation_starts_anew(run, tmp_path):
    version, _ = run
    (checkpoint,) = (version / "checkpoints").glob("*.ckpt")
    trainer = make_trainer(tmp_path, max_steps=3, val_check_interval=1)
    trainer.fit(JumpingSquares(), datamodule=SquareClips(), ckpt_path=checkpoint)
    page = (tmp_path / "squares/version_0/report/index.html").read_text()
    assert all(f"cyclesync at step {step}: " in page for step in (1, 2, 3))

    trainer = make_trainer(tmp_path)
    trainer.validate(JumpingSquares(), datamodule=SquareClips(), ckpt_path=checkpoint, verbose=False)
    page = (tmp_path / "squares/version_1/report/index.html").read_text()
    assert 'class="status finished"' in page and "Evaluated at step 2 " in page
    assert 'class="curves"' not in page
    assert f"<span>{checkpoint}</span>" in page, "the next commands take the checkpoint that was judged"
    folders = (version, tmp_path / "squares/version_1")
    records = [json.loads((folder / "results.json").read_text()) for folder in folders]
    assert records[0]["metrics"] == records[1]["metrics"]


def test_a_run_that_fails_is_never_called_finished(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=5, val_check_interval=1)
    with pytest.raises(OSError):
        trainer.fit(JumpingSquares(fail_at=2), datamodule=SquareClips())
    page = (tmp_path / "squares/version_0/report/index.html").read_text()
    assert 'class="status stopped"' in page and "the disk is gone" in page
    assert not (tmp_path / "squares/version_0/results.json").exists()


def test_fast_dev_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer(tmp_path / "runs", fast_dev_run=1)
    trainer.fit(JumpingSquares(), datamodule=SquareClips())
    assert not list(tmp_path.rglob("*.html")) and not list(tmp_path.rglob("*.mp4"))


def test_curves_of_long_runs_are_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr("callbacks.sample_report._MOST_POINTS", 8)
    report = SampleReport(num_clips=0, curves=["train/base", "train/motion"])
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        callbacks=[report],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_steps=60,
        log_every_n_steps=2,
        limit_val_batches=0,
    )
    trainer.fit(JumpingSquares(), datamodule=SquareClips())
    for name in ("train/base", "train/motion"):
        steps = [point[0] for point in report.state_dict()["history"][name]]
        assert steps == [8, 16, 24, 32, 40, 48, 56]
        assert all(math.isfinite(point[1]) for point in report.state_dict()["history"][name])


@pytest.mark.parametrize(("settings", "key"), [({"num_clips": -1}, "num_clips"), ({"min_side": 2}, "min_side")])
def test_bad_settings_are_named(settings, key):
    with pytest.raises(InputError, match=key):
        SampleReport(**settings)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the program chromium on the PATH")
def test_clips_play_in_a_browser(run):
    sync_api = pytest.importorskip("playwright.sync_api")
    version, _ = run
    complaints = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS)
        page = browser.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.goto((version / "report/index.html").as_uri())
        assert page.locator(".status").inner_text() == "finished"
        videos = page.locator(".clip").first.locator("video")
        assert videos.count() == len(KINDS) - 1
        playing = "(v) => !v.paused && v.readyState >= 3 && v.currentTime > 0.3"
        for index in range(videos.count()):  # nobody clicked
            video = videos.nth(index)
            page.wait_for_function(playing, arg=video.element_handle())
            assert video.evaluate("(v) => v.muted && v.loop && !v.controls")
            assert video.evaluate("(v) => v.webkitAudioDecodedByteCount") > 0, "the sound is decoded"
            assert video.evaluate("(v) => v.duration") == pytest.approx(FRAMES / 24, abs=0.05)
        page.wait_for_function(
            "(vs) => vs.every((v) => Math.abs(v.currentTime - vs[0].currentTime) < 0.06)",
            arg=page.evaluate_handle("[...document.querySelector('.clip').querySelectorAll('video')]"),
        )
        last = page.locator(".clip").last.locator("video").first
        assert last.evaluate("(v) => v.paused && v.readyState === 0"), "what is not in view is not even loaded"

        # sound on a click, one at a time
        heard = "() => [...document.querySelectorAll('video')].filter((v) => !v.muted).length"
        assert page.evaluate(heard) == 0
        for video in (videos.nth(2), videos.nth(1)):
            video.click()
            assert page.evaluate(heard) == 1 and video.evaluate("(v) => !v.muted && !v.paused")
        page.locator(".sound").first.click()
        assert page.evaluate(heard) == 0
        page.locator(".sound").first.click()
        assert page.locator('[data-kind="generated"] video').first.evaluate("(v) => !v.muted")

        # pause, then go somewhere by the plot; scrolling leaves it paused
        page.locator(".play").first.click()
        assert page.evaluate(heard) == 0 and videos.first.evaluate("(v) => v.paused")
        plot = page.locator(".onsets").first
        plot.scroll_into_view_if_needed()
        box, line = plot.bounding_box(), plot.locator(".time").bounding_box()
        x = line["x"] - box["x"] + 0.6 * line["width"]
        plot.click(position={"x": x, "y": 20})
        wanted = 0.6 * float(plot.get_attribute("data-duration"))
        page.wait_for_function("(v) => !v.seeking", arg=videos.first.element_handle())
        assert videos.first.evaluate("(v) => v.currentTime") == pytest.approx(wanted, abs=0.02)
        assert plot.locator(".playhead").bounding_box()["x"] == pytest.approx(box["x"] + x, abs=3)

        last.scroll_into_view_if_needed()
        page.wait_for_function(playing, arg=last.element_handle())
        assert videos.first.evaluate("(v) => v.paused")

        # telephones: nothing sticks out, and the controls lie below the pictures
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        bottom = max(video.bounding_box()["y"] + video.bounding_box()["height"] for video in videos.all())
        assert page.locator(".controls").first.bounding_box()["y"] >= bottom
        browser.close()
    assert complaints == []
