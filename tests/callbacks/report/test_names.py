import itertools
import re
from importlib.resources import files

import numpy as np
import pytest

from callbacks.report.names import KINDS, METRICS, color_class, headline, label_of, split_name
from components.metrics.av_align.scorer import AVAlign
from components.metrics.avsync_classifier.scorer import RelAlignSync
from components.metrics.imagebind.scores import ImageBindScores
from components.metrics.sound.aesthetics import AudioboxAesthetics
from components.metrics.sound.clap import ClapScore
from components.metrics.sound.kl import ClassDivergence
from components.metrics.speech.speaker_similarity import SpeakerSimilarity
from components.metrics.speech.word_errors import WordErrors
from components.metrics.synchformer.scorer import DeSync
from components.metrics.syncnet.clip_scores import SyncNetScores
from components.metrics.video.aesthetic_quality import AestheticPredictorV25, LaionAesthetics
from components.metrics.video.clip_score import ClipScore
from components.metrics.video.dynamic_degree import DynamicDegree
from components.metrics.video.imaging_quality import ImagingQuality
from components.metrics.video.motion_smoothness import MotionSmoothness
from components.metrics.video.reference_identity import ReferenceIdentity
from components.metrics.video.subject_consistency import SubjectConsistency

# what the three kinds of colour blindness make of linear RGB (Machado, Oliveira and Fernandes 2009, severity 1)
SIGHTS = {
    "full": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}
TO_XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])


@pytest.mark.parametrize(
    ("name", "metric", "kind"),
    [
        ("cyclesync", "cyclesync", "generated"),
        ("cyclesync_w0", "cyclesync", "w0"),
        ("psnr_moving", "psnr_moving", "generated"),
        ("psnr_moving_off_sync", "psnr_moving", "off_sync"),
        ("psnr_real", "psnr", "real"),
        ("sync_c_video_to_audio", "sync_c", "video_to_audio"),
        ("truth_sync_codec", "truth_sync", "codec"),
        ("truth_sync_other_seed", "truth_sync", "other_seed"),
        ("desync_expected_other_seed", "desync_expected", "other_seed"),
        ("wer_errors", "wer_errors", "generated"),
        ("wer_words_real", "wer_words", "real"),
        ("aesthetic_quality_laion", "aesthetic_quality_laion", "generated"),
        ("sync_cfg", "sync_cfg", "generated"),
        ("strict_no_synccfg", "strict", "no_synccfg"),
        ("train/loss", "train/loss", "generated"),
    ],
)
def test_names_are_a_metric_and_a_kind_of_video(name, metric, kind):
    assert split_name(name) == (metric, kind)


def test_the_headline_is_what_tells_most():
    assert headline(["psnr", "cyclesync", "cyclesync_w0"]) == "cyclesync"
    assert headline(iter(["cyclesync", "truth_sync"])) == "truth_sync"
    assert headline(iter(["motion", "cyclesync"])) == "cyclesync"
    assert headline(["motion", "train/loss"]) is None


def test_a_metric_has_the_colour_of_the_video_it_judges():
    assert color_class("cyclesync_off_sync") == color_class("off_sync") == "k-off_sync"
    for metric in ("cyclesync", "sync_c", "sync_d"):
        assert color_class(metric) == color_class("generated") == "k-generated"
        for kind in ("real", "chance", "off_sync", "no_synccfg"):
            assert color_class(f"{metric}_{kind}") == color_class(kind) == f"k-{kind}"
    assert color_class("sync_cfg") == "k-sync_cfg"
    assert color_class("mine_off_sync") == color_class("cyclesync_mine_off_sync") == "k-off_sync"
    assert label_of("off_sync") == "off-sync" and label_of("no_synccfg") == "no SyncCFG"


def test_every_metric_and_kind_is_explained():
    assert {"truth_sync", "path_error", "found", "psnr", "psnr_moving", "ssim", "cyclesync", "sync_c", "sync_d"} <= set(
        METRICS
    )
    assert all(metric.says.endswith(".") for metric in METRICS.values())
    assert all(label and says for label, says in KINDS.values())


SCORERS = [
    AestheticPredictorV25,
    AudioboxAesthetics,
    AVAlign,
    ClapScore,
    ClassDivergence,
    ClipScore,
    DeSync,
    DynamicDegree,
    ImageBindScores,
    ImagingQuality,
    LaionAesthetics,
    MotionSmoothness,
    ReferenceIdentity,
    RelAlignSync,
    SpeakerSimilarity,
    SubjectConsistency,
    SyncNetScores,
    WordErrors,
]


def test_the_page_and_the_judges_agree_which_way_is_better():
    of_judges = {name: better for scorer in SCORERS for name, better in scorer.higher_is_better.items()}
    of_page = {name: metric.higher_is_better for name, metric in METRICS.items()}
    sets = {"fid", "fvd", "kvd"}
    assert {name: of_page[name] for name in of_judges if name in of_page} == {
        name: better for name, better in of_judges.items() if name in of_page
    }
    assert of_judges.keys() <= of_page.keys()
    assert {name for name, better in of_page.items() if not better} - of_judges.keys() == {"path_error", *sets}
    assert split_name("desync_expected") == ("desync_expected", "generated")
    assert split_name("desync_chance") == ("desync", "chance")


def palette(scheme):
    """Kind of video -> colour, and that of the card behind it, as linear RGB."""
    css = files("callbacks.report").joinpath("page.css").read_text()
    pairs = {name: pair for name, *pair in re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\);", css)}
    colours = {name: linear(pair[scheme]) for name, pair in pairs.items()}
    used = {
        kind: name
        for kinds, name in re.findall(r"^(.*\.k-.*) \{ --k: var\(--(\w+)\)", css, re.M)
        for kind in kinds.split(", ")
    }
    return {kind: colours[used[f".{color_class(kind)}"]] for kind in KINDS}, colours["card"]


def linear(colour):
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    x, y, z = (
        np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116
        for v in TO_XYZ @ np.clip(rgb, 0, 1) / (0.9505, 1.0, 1.0888)
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_kinds_of_one_page_have_colours_that_everybody_tells_apart(scheme, sight):
    colours, card = palette(scheme)
    never_together = [{"w0", "no_synccfg"}, {"off_sync", "audio_to_video"}]
    assert all(np.array_equal(colours[a], colours[b]) for a, b in never_together)
    seen = {kind: lab(np.array(SIGHTS[sight]) @ colour) for kind, colour in colours.items()}
    for a, b in itertools.combinations(KINDS, 2):
        if {a, b} not in never_together:
            # a difference of 2 is just visible side by side, 20 across a page
            assert np.linalg.norm(seen[a] - seen[b]) > 20, (a, b)
    for kind, colour in colours.items():
        dim, light = sorted(TO_XYZ[1] @ c for c in (colour, card))
        assert (light + 0.05) / (dim + 0.05) >= 3, f"{kind} stands out from the card (WCAG 1.4.11)"
