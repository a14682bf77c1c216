"""What people call metrics and kinds of video, and what each of them says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

GENERATED = "generated"


@dataclass(frozen=True)
class Metric:
    """How a metric is spoken of.

    Attributes:
        label: its name in running text.
        says: what it says, for somebody who meets it here.
        judges: what it judges, after "scored ... for".
        unit: what stands behind a value.
        higher_is_better: which way is better.
    """

    label: str
    says: str
    judges: str
    unit: str = ""
    higher_is_better: bool = True

    @property
    def direction(self) -> str:
        """Which way is better, in words."""
        return "Higher is better." if self.higher_is_better else "Lower is better."


# the most telling first: the first of them that a run has is its headline
METRICS = {
    "truth_sync": Metric(
        "truth sync",
        "Where ball, mallet or mouth are is read off the pictures, no learnt judge involved. The score is the share of "
        "their events that happen when the scene's true events do: matched pairs over all, 0 to 100.",
        "things happening at the right moments",
        " of 100",
    ),
    "cyclesync": Metric(
        "CycleSync",
        "A frozen video-to-audio model guesses a sound from the pictures alone. The score is the share of its onsets "
        "that happen when the clip's own sound has one: matched pairs over all, 0 to 100. It says when, not what: a "
        "flash at the right moment counts too.",
        "picture and sound happening together",
        " of 100",
    ),
    "sync_c": Metric(
        "Sync-C",
        "A SyncNet compares lips and sound at every shift in time. Sync-C is its confidence in the best one.",
        "lips and sound belonging together",
    ),
    "sync_d": Metric(
        "Sync-D",
        "Distance between lips and sound in the SyncNet's space, at the best shift.",
        "lips and sound lying apart",
        higher_is_better=False,
    ),
    "path_error": Metric(
        "path error",
        "How far ball, mallet or mouth are from where they are in the real clip, mean over the frames.",
        "things being where they should not",
        higher_is_better=False,
    ),
    "found": Metric(
        "found",
        "Share of the frames in which ball, mallet or mouth can be found at all.",
        "things being recognisable",
    ),
    "psnr_moving": Metric(
        "PSNR where it moves",
        "Likeness to the real clip in decibels, over the pixels that move in the real clip.",
        "the moving parts being like the real ones",
        " dB",
    ),
    "psnr": Metric(
        "PSNR",
        "Likeness to the real clip in decibels, over all pixels. A frozen first frame scores well where little moves: "
        "compare with that row.",
        "being like the real clip",
        " dB",
    ),
    "ssim": Metric(
        "SSIM",
        "Likeness of structure to the real clip; 100 is identical.",
        "being built like the real clip",
    ),
    "desync": Metric(
        "DeSync",
        "Seconds by which sound and picture are apart, as a Synchformer guesses them; chance is 1.05 s.",
        "sound and picture being apart",
        " s",
        higher_is_better=False,
    ),
    "desync_expected": Metric(
        "DeSync, expected",
        "The same, weighted by how sure the Synchformer is.",
        "sound and picture being apart",
        " s",
        higher_is_better=False,
    ),
    "desync_looped": Metric(
        "looped for DeSync",
        "Share of the clips below 4.8 s, which are repeated to be judged.",
        "",
        higher_is_better=False,
    ),
    "av_align": Metric(
        "AV-Align",
        "Share of onsets and peaks of motion that coincide; flashes count as motion.",
        "motion and sound happening together",
    ),
    "relsync": Metric(
        "RelSync",
        "ASVA's classifier: how much better picture and sound fit than those of the real clip. The real clip has 50.",
        "picture and sound fitting together",
    ),
    "alignsync": Metric(
        "AlignSync",
        "RelSync, weighted by how well the frames fit the sound, beside the real first one; the real clip has 25.",
        "picture and sound fitting together",
    ),
    "javis_score": Metric(
        "JavisScore",
        "Likeness of sound and picture in ImageBind's space, of the frames in each window that fit least.",
        "picture and sound fitting together",
    ),
    "avh_score": Metric(
        "AVHScore",
        "Likeness of sound and each frame in ImageBind's space.",
        "picture and sound being of one thing",
    ),
    "ib": Metric(
        "IB",
        "Likeness of sound and picture in ImageBind's space.",
        "picture and sound being of one thing",
    ),
    "ib_a": Metric(
        "IB-A",
        "Likeness of the sound and what was asked for in ImageBind's space.",
        "the sound being what was asked for",
    ),
    "ia": Metric(
        "IA",
        "Likeness of picture and sound in ImageBind's space, x100, as ASVA measures it.",
        "picture and sound being of one thing",
    ),
    "it": Metric(
        "IT",
        "Likeness of picture and caption in ImageBind's space, x100, as ASVA measures it.",
        "the picture being what was asked for",
    ),
    "clip_score": Metric(
        "CLIP score",
        "Likeness of picture and caption in CLIP's space.",
        "the picture being what was asked for",
    ),
    "clap_score": Metric(
        "CLAP score",
        "Likeness of sound and caption in CLAP's space.",
        "the sound being what was asked for",
    ),
    "fid": Metric(
        "FID",
        "Distance between the frames of generated and real clips as sets; it shrinks with the number of clips.",
        "",
        higher_is_better=False,
    ),
    "fvd": Metric(
        "FVD",
        "Distance between generated and real clips as sets; it shrinks with the number of clips.",
        "",
        higher_is_better=False,
    ),
    "kvd": Metric(
        "KVD",
        "Distance between generated and real clips as sets, without a bias by their number.",
        "",
        higher_is_better=False,
    ),
    "aesthetic_quality": Metric(
        "AQ",
        "How beautiful people would find the frames.",
        "being beautiful",
    ),
    "aesthetic_quality_laion": Metric(
        "AQ, LAION's",
        "How beautiful people would find the frames, by LAION's predictor; it does not compare with AQ.",
        "being beautiful",
    ),
    "imaging_quality": Metric(
        "IQ",
        "How free of blur, noise and artefacts the frames are.",
        "being sharp and clean",
    ),
    "dynamic_degree": Metric(
        "DD",
        "Share of the clips in which something moves a lot.",
        "moving",
    ),
    "motion_smoothness": Metric(
        "MS",
        "How well every second frame can be guessed from its neighbours.",
        "moving smoothly",
    ),
    "reference_identity": Metric(
        "ID",
        "Likeness of all frames to the picture it began with.",
        "staying who it is",
    ),
    "subject_consistency": Metric(
        "subject consistency",
        "Likeness of the frames to the first and to the one before.",
        "staying what it is",
    ),
    "pq": Metric(
        "PQ",
        "Production quality of the sound, 1 to 10.",
        "sounding well made",
    ),
    "pc": Metric(
        "PC",
        "Production complexity of the sound, 1 to 10.",
        "sounding complex",
        higher_is_better=False,
    ),
    "ce": Metric(
        "CE",
        "Content enjoyment of the sound, 1 to 10.",
        "being enjoyed",
    ),
    "cu": Metric(
        "CU",
        "Content usefulness of the sound, 1 to 10.",
        "being useful",
    ),
    "wer": Metric(
        "WER",
        "Share of the words that a speech recogniser hears otherwise than they were to be said.",
        "words being wrong",
        higher_is_better=False,
    ),
    "cer": Metric(
        "CER",
        "The same of letters.",
        "letters being wrong",
        higher_is_better=False,
    ),
    "wer_errors": Metric(
        "wrong words",
        "Words of a clip that are heard otherwise, without the limit that WER has.",
        "",
        higher_is_better=False,
    ),
    "wer_words": Metric(
        "words to be said",
        "Words of a clip's transcript.",
        "",
    ),
    "kl": Metric(
        "KL",
        "How differently a tagger names generated and real sound.",
        "sounding like something else",
        higher_is_better=False,
    ),
    "speaker_similarity": Metric(
        "speaker similarity",
        "Likeness of the voice to the reference's; 1 is the same.",
        "being that voice",
    ),
    "dnsmos_ovrl": Metric(
        "DNSMOS",
        "How good people would find the speech, 1 to 5.",
        "sounding good",
    ),
    "train/loss": Metric("loss", "What training minimises; compares within one configuration only.", ""),
    "train/base": Metric("velocity error", "The part of the loss that weighs all pixels alike.", ""),
    "train/motion": Metric("motion term", "The part of the loss that is weighted by the true motion.", ""),
}

# kind of video -> its label, and what it is
KINDS = {
    GENERATED: ("generated", "made with the experiment's own guidance"),
    "w0": ("no sync guidance", "the same without audio sync guidance: what training alone has learnt"),
    "off_sync": ("off-sync", "the same with the layers that listen skipped: the model is deaf"),
    "no_synccfg": ("no SyncCFG", "picture and sound made together, without SyncCFG"),
    "audio_to_video": ("audio to video", "the sound was given, the video is made"),
    "video_to_audio": ("video to audio", "the video was given, the sound is made"),
    "still": ("frozen frame", "the first frame held still: a floor"),
    "codec": ("codec round trip", "the real clip, encoded and decoded: the ceiling of what the codec can show"),
    "real": ("real", "the real clip: the ceiling"),
    "chance": ("chance", "the generated videos beside other clips' sounds: the floor"),
}
_TRACKS = {"true": "true events", "driving": "driving sound"}

_OF_KIND = re.compile(rf"(.+?)_({'|'.join(KINDS)})")


def split_name(name: str) -> tuple[str, str]:
    """Metric and kind of video of an entry: ``cyclesync_w0`` is ``cyclesync`` of ``w0``."""
    if name in METRICS:
        return name, GENERATED
    if found := _OF_KIND.fullmatch(name):
        return found[1], found[2]
    # a variant that has no words here; ``desync_expected`` begins with ``desync`` as well
    metric = max((metric for metric in METRICS if name.startswith(f"{metric}_")), key=len, default=None)
    return (name, GENERATED) if metric is None else (metric, name[len(metric) + 1 :])


def headline(names: Iterable[str]) -> str | None:
    """The entry that stands for a whole run, or None where none is known."""
    there = set(names)
    return next((metric for metric in METRICS if metric in there and METRICS[metric].judges), None)


def color_class(name: str) -> str:
    """The style sheet's class of a kind of video, of a track of onsets, or of the metric that judges it."""
    kind = name
    if name not in KINDS | _TRACKS:
        metric, kind = split_name(name)
        # no judge of videos: a colour of its own
        kind = name if metric == name and metric not in METRICS else kind
    return "k-" + re.sub(r"\W", "_", kind)


def label_of(kind: str) -> str:
    """What people call a kind of video or a track of onsets."""
    return KINDS[kind][0] if kind in KINDS else _TRACKS.get(kind, kind.replace("_", " "))
