"""``avsync prepare`` and what trains on its clips, by the real commands: both quickstarts, kills, stale caches."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.codecs.audio.log_mel import LogMelCodec
from components.weights import unloaded
from lightning_modules.command_line.cli import main

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
QUICKSTARTS = {"syncphony": "configs/quickstart.yaml", "harmony": "configs/harmony/quickstart.yaml"}
CLIPS = {"syncphony": ("12", "2"), "harmony": ("16", "24")}
QUIET = ("--callbacks=null", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["avsync"])


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Recordings, which are rendered once."""
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def cache(clips) -> Path:
    """Syncphony's quickstart, encoded without a disturbance."""
    folder = clips / "cache"
    assert main(["prepare", "--out", str(folder), *experiment("syncphony", clips), *small()]) == 0
    return folder


def experiment(name: str, clips: Path, *options: str) -> list[str]:
    num_train, num_test = CLIPS[name]
    data = [f"--data.root={clips / name}", f"--data.num_train={num_train}", f"--data.num_test={num_test}"]
    return ["--config", str(ROOT / QUICKSTARTS[name]), *data, *options]


def small() -> list[str]:
    return ["--offsets", "3", "--clips_per_shard", "3"]


def fit(name: str, clips: Path, run: str, *options: str, steps: int = 3) -> int:
    training = ["--data.batch_size=4", f"--trainer.max_steps={steps}", "--trainer.limit_val_batches=0"]
    logger = ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=."]
    beat = ["--trainer.log_every_n_steps=1", "--trainer.enable_checkpointing=false"]
    return main(["fit", *experiment(name, clips), *QUIET, *training, *logger, *beat, "--experiment", run, *options])


def losses(run: str) -> list[float]:
    (file,) = Path().rglob(f"*{run}/version_0/metrics.csv")
    return [float(row["train/loss"]) for row in csv.DictReader(file.open()) if row["train/loss"]]


def complaint(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.gate
@pytest.mark.parametrize("name", QUICKSTARTS)
def test_a_quickstart_has_the_losses_of_its_recordings_and_loads_no_codec(name, clips, cache, monkeypatch):
    if name == "harmony":
        cache = clips / "harmony_cache"
        assert main(["prepare", "--out", str(cache), *experiment(name, clips), *small()]) == 0
    assert fit(name, clips, "raw", "--data.offsets=3", steps=2) == 0
    loaded = []
    monkeypatch.setattr(unloaded, "load", lambda part, device: loaded.append(part))
    assert fit(name, clips, "cached", f"--data.latents={cache}", steps=2) == 0
    raw, cached = losses("raw"), losses("cached")
    assert len(raw) == 2 and cached == pytest.approx(raw, rel=1e-5)
    assert loaded == []


def test_evaluation_reads_its_recordings_and_loads_what_it_decodes_with(clips, cache):
    options = ["--trainer.val_check_interval=2", "--trainer.limit_val_batches=1", "--data.val_batch_size=2"]
    quick = ["--model.variants=[]", "--model.sampler.init_args.video_steps=[1,1,1]"]
    made = []
    for run, given in (("raw", "--data.offsets=3"), ("cached", f"--data.latents={cache}")):
        watch = "--trainer.callbacks=tests.lightning_modules.strategies.parallel_runs.Witness"
        kept = f"--trainer.callbacks.init_args.file={run}"
        assert fit("syncphony", clips, run, given, *options, *quick, watch, kept, steps=2) == 0
        made.append(json.loads(Path(f"{run}.0.json").read_text()))
    assert made[0]["generated"] == pytest.approx(made[1]["generated"]) and made[0]["generated"]
    assert made[0]["ids"] == made[1]["ids"]


@pytest.mark.gate
def test_checkpoints_of_both_kinds_of_training_go_on_as_the_other(clips, cache):
    options = ["--trainer.enable_checkpointing=true", "--trainer.callbacks=ModelCheckpoint"]
    options += ["--trainer.callbacks.init_args.every_n_train_steps=1"]
    assert fit("syncphony", clips, "raw", "--data.offsets=3", *options, steps=2) == 0
    assert fit("syncphony", clips, "whole", "--data.offsets=3", *options, steps=3) == 0
    (checkpoint,) = Path().rglob("raw/version_0/checkpoints/*.ckpt")
    assert fit("syncphony", clips, "on", f"--data.latents={cache}", "--ckpt_path", str(checkpoint), *options) == 0
    (whole,) = Path().rglob("whole/version_0/checkpoints/*.ckpt")
    (gone_on,) = Path().rglob("on/version_0/checkpoints/*.ckpt")
    one, other = (torch.load(file, weights_only=True) for file in (whole, gone_on))
    assert one["frozen"] == other["frozen"]
    for name, tensor in one["state_dict"].items():
        torch.testing.assert_close(other["state_dict"][name], tensor, rtol=1e-5, atol=1e-6)


STALE = [
    (["--model.audio_encoder.hop=160"], "another audio_encoder: arguments.hop is 320 there, 160 here"),
    (["--model.codec=PixelCodec"], "another codec: class is"),
    (["--data.video_track=0"], "another data set: video_track is null there, 0 here"),
    (["--data.offsets=2"], "data.offsets is 2, but"),
    (["--data.num_train=13"], "another data set: recordings is"),
]


@pytest.mark.parametrize(("options", "sentence"), STALE)
def test_a_cache_of_something_else_is_refused_by_name(clips, cache, capsys, options, sentence):
    assert fit("syncphony", clips, "stale", f"--data.latents={cache}", *options, steps=1) == 2
    assert sentence in complaint(capsys)


def test_a_model_that_hears_nothing_does_without_the_features(clips, cache):
    Path("deaf.yaml").write_text("model: {init_args: {audio_encoder: null, dit: {init_args: {audio_dim: null}}}}")
    deaf = ("--config", "deaf.yaml", "--model.dit.init_args.first_late_block=3", "--model.variants=[]")
    assert fit("syncphony", clips, "deaf", f"--data.latents={cache}", *deaf, steps=1) == 0


def test_another_codec_in_the_same_place_is_refused(clips, capsys):
    from components.codecs.video.principal import PrincipalCodec

    codec = PrincipalCodec.from_pretrained("configs/weights/quickstart_codec")
    Path("codec").mkdir()
    codec.save_pretrained(Path("codec"))
    mine = "--model.codec.init_args.folder=codec"
    assert main(["prepare", "--out", "cache", *experiment("syncphony", clips, mine), *small()]) == 0
    # the same bytes elsewhere are the same codec
    assert fit("syncphony", clips, "same", "--data.latents=cache", steps=1) == 0
    codec.mean += 1
    codec.save_pretrained(Path("codec"))
    assert fit("syncphony", clips, "other", "--data.latents=cache", mine, steps=1) == 2
    assert "cache was prepared with another codec: weights.folder.sha256 is" in complaint(capsys)
    assert main(["prepare", "--out", "cache", *experiment("syncphony", clips, mine), *small()]) == 2
    assert "cache was prepared with another model: codec.weights.folder.sha256 is" in complaint(capsys)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--offsets", "0"], "'0' is no number from 1 on"),
        (["--data.latents=there"], "data.latents is there, which is to train on; leave it out to encode clips"),
        (["--offsets", "2", "--data.offsets=3"], "--offsets is 2 but data.offsets 3; leave one of them out"),
        (["--model.codec.init_args.folder=nowhere"], "nowhere"),
        (["--data.num_trian=2"], "num_trian; did you mean num_train?"),
    ],
)
def test_what_cannot_be_prepared_is_said_in_a_sentence(clips, capsys, options, sentence):
    assert main(["prepare", "--out", "cache", *experiment("syncphony", clips), *options]) == 2
    assert sentence in complaint(capsys)


@pytest.mark.parametrize("names", [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")])
def test_ranks_share_the_shards_and_the_last_one_makes_it_whole(clips, cache, capsys, monkeypatch, names):
    monkeypatch.setenv(names[1], "2")
    for rank in ("1", "0"):
        monkeypatch.setenv(names[0], rank)
        assert main(["prepare", "--out", "shared", *experiment("syncphony", clips), *small()]) == 0
        said = capsys.readouterr().out
        assert ("share of shared is done" if rank == "1" else "shared is whole") in said
    assert tree(Path("shared")) == tree(cache)


def test_an_unfinished_cache_is_not_trained_on(clips, cache, capsys):
    shutil.copytree(cache, "latents")
    Path("latents/index.json").unlink()
    assert fit("syncphony", clips, "early", "--data.latents=latents") == 2
    assert "latents is not whole: avsync prepare was stopped after 13 of its shards; run it again" in complaint(capsys)


def test_weights_that_no_file_holds_are_refused(clips, capsys):
    random_codec = "--model.codec=components.codecs.video.principal.PrincipalCodec"
    assert main(["prepare", "--out", "cache", *experiment("syncphony", clips, random_codec)]) == 2
    assert "model.codec has weights that come from no file, so that every run draws others" in complaint(capsys)


def test_a_bad_step_on_encoded_clips_is_kept_and_replayed(clips, cache, capsys):
    schedule = ("--model.lr_scheduler=null", "--model.optimizer.init_args.lr=1e30")
    assert fit("syncphony", clips, "bad", f"--data.latents={cache}", *schedule) != 0
    (file,) = Path().rglob("replay/*.pt")
    capsys.readouterr()
    assert main(["replay", str(file)]) == 3
    assert "clip " in capsys.readouterr().out


def kill_at(begin: list[str], moment: Callable[[], bool], delay_s: float) -> bool:
    """Starts a preparation and kills it when ``moment`` has come; False if it ended before."""
    run = subprocess.Popen(
        begin,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while run.poll() is None and not moment():
        time.sleep(0.001)
    time.sleep(delay_s)
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
    return run.wait() == -signal.SIGKILL


@pytest.mark.gate
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_at_any_moment_leave_nothing_that_shows_in_the_result(clips, cache, kills):
    # this process's number of threads: the last bits of a result may depend on it
    begin = [sys.executable, "-m", "lightning_modules", "prepare", "--out", "cache"]
    begin += [*experiment("syncphony", clips), *small()]
    folder = Path("cache")

    def moments(draw: random.Random) -> Callable[[], bool]:
        shards = len(list(folder.glob("shard-*.json")))
        sign = draw.choice(["plan.json", f".shard-{shards:05d}", f".shard-{shards:05d}/*", f"shard-{shards:05d}.*"])
        return lambda: any(True for _ in folder.glob(sign))

    seed = random.randrange(2**32)
    draw = random.Random(seed)
    killed = sum(kill_at(begin, moments(draw), draw.choice([0, 0, 0.005, 0.02])) for _ in range(kills))
    assert killed == kills or (folder / "index.json").is_file(), seed
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(begin[3:]) == 0
    finally:
        torch.set_num_threads(torch_threads)
    assert tree(folder) == tree(cache), seed


@pytest.mark.gate
def test_a_stage_without_sound_encodes_none_and_trains_the_same(clips, monkeypatch):
    monkeypatch.setitem(QUICKSTARTS, "harmony", "configs/harmony/quickstart_video.yaml")
    monkeypatch.setattr(LogMelCodec, "encode", None)  # neither sounds nor the reference voices
    cache = clips / "video_cache"
    voices = ["--data.reference_s=2.0", "--data.strike_share=0.25"]  # of the few clips here, enough have to speak
    assert main(["prepare", "--out", str(cache), *experiment("harmony", clips, *voices), *small()]) == 0
    plan = json.loads((cache / "plan.json").read_text())
    assert sorted(plan["parts"]) == ["text_encoder", "video_codec"]
    assert fit("harmony", clips, "raw", "--data.offsets=3", *voices, steps=2) == 0
    assert fit("harmony", clips, "cached", f"--data.latents={cache}", *voices, steps=2) == 0
    assert len(losses("raw")) == 2 and losses("cached") == pytest.approx(losses("raw"), rel=1e-5)
