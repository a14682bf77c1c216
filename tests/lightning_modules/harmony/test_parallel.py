"""Harmony's quickstart on two processes that hold half of every pair of layers: what one process does, and exactly so
when it is resumed.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.backbones.harmony import harmony_video_tower
from tests.lightning_modules.strategies.parallel_runs import (
    HERE,
    ROOT,
    assert_same_tensors,
    avsync,
    checkpoint,
    load,
    results,
    seen,
)

# Minutes. Fast tests hold the same part by part: tests/components/backbones/harmony/test_sharding.py losses, gradients
# and units of the towers, test_lora_ranks.py optimizer, averages and checkpoints, tests/callbacks/test_evaluation.py
# that what two processes generate is judged as one set, and test_parallel_runs.py of Syncphony resumption.
pytestmark = [pytest.mark.gate, pytest.mark.long, pytest.mark.slow]

QUICKSTART = ROOT / "configs/harmony/quickstart.yaml"
MODEL = yaml.safe_load(QUICKSTART.read_text())["model"]["init_args"]
NUM_CLIPS, BATCH, STEPS = 5, 4, 3
SHARDED = {
    "devices": 2,
    "strategy": {
        "class_path": "FSDP2Strategy",
        "init_args": {"compute_dtype": "float32", "save_distributed_checkpoint": False},
    },
    "use_distributed_sampler": False,
}


def fit(folder: Path, name: str, trainer: dict[str, Any], *options: str) -> None:
    """The quickstart with few clips and steps; an odd number of evaluation clips gives the ranks unequal shares."""
    config = {
        "experiment": name,
        "model": {"init_args": {"sampler": {"init_args": {"num_steps": 2}}}},
        "data": {
            "init_args": {
                "root": str(folder / "clips"),
                "num_train": 24,
                "num_test": NUM_CLIPS,
                "num_speakers": 2,
                "batch_size": BATCH,
                "val_batch_size": 3,
            }
        },
        "trainer": {
            "max_steps": STEPS,
            "val_check_interval": STEPS,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(folder / "runs"),
            **trainer,
        },
        "callbacks": {
            "witness": {"class_path": f"{HERE}.Witness", "init_args": {"file": str(folder / name)}},
            "checkpoint": {"init_args": {"every_n_train_steps": 1, "save_top_k": -1}},
            "report": {"init_args": {"num_clips": 1}},
        },
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    avsync("fit", QUICKSTART, "--config", str(file), *options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("harmony")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    """One process, each step accumulated over the two batches that two ranks take."""
    fit(folder, "alone", {"accumulate_grad_batches": 2})
    return seen(folder, "alone")[0]


@pytest.fixture(scope="module")
def sharded(folder: Path) -> list[dict[str, Any]]:
    fit(folder, "sharded", SHARDED)
    return seen(folder, "sharded")


@pytest.fixture(scope="module")
def resumed(folder: Path, sharded: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two processes go on from the second of three steps."""
    fit(folder, "resumed", SHARDED, "--ckpt_path", str(checkpoint(folder, "sharded", "epoch=0-step=2.ckpt")))
    return seen(folder, "resumed")


def test_two_processes_do_what_one_does(folder: Path, alone: dict[str, Any], sharded: list[dict[str, Any]]):
    losses, ids = (
        [one for step in zip(*(rank[name] for rank in sharded), strict=True) for one in step]
        for name in ("losses", "ids")
    )
    assert ids == alone["ids"] and len(losses) == 2 * STEPS
    assert losses == pytest.approx(alone["losses"], rel=1e-6)
    for rank in sharded:
        assert rank["norms"] == pytest.approx(alone["norms"], rel=1e-6)
        assert rank["weights"] == sharded[0]["weights"]
    mine, theirs = load(checkpoint(folder, "sharded")), load(checkpoint(folder, "alone"))
    assert_same_tensors(mine, theirs, 2e-5)
    assert mine["global_step"] == theirs["global_step"] == STEPS
    assert mine["frozen"] == theirs["frozen"] and "video_codec" in mine["frozen"]
    slim = load(checkpoint(folder, "sharded", "slim.ckpt"))
    assert slim["state_dict"].keys() == mine["state_dict"].keys() and "optimizer_states" not in slim


def test_a_pair_of_layers_is_the_unit(alone: dict[str, Any], sharded: list[dict[str, Any]]):
    num_layers = len(harmony_video_tower(str(ROOT / "configs/weights/quickstart_harmony_video")).blocks)
    assert alone["units"] == [] and num_layers > 1
    for rank in sharded:
        assert rank["units"].count("FSDPHarmonyLayer") == num_layers
        assert rank["held"] == pytest.approx(alone["held"] / 2, rel=0.01)


def test_what_two_processes_generate_is_judged_as_one_set(
    folder: Path, alone: dict[str, Any], sharded: list[dict[str, Any]]
):
    shares = [len(rank["generated"]) for rank in sharded]
    assert shares == [NUM_CLIPS // 2 + 1, NUM_CLIPS // 2] and len(alone["generated"]) == NUM_CLIPS
    for name, tolerance in (("generated", 1e-6), ("sounds", 1e-5)):
        together = {clip: total for rank in sharded for clip, total in rank[name].items()}
        assert together == pytest.approx(alone[name], rel=tolerance, abs=1e-6)
    mine, theirs = results(folder, "sharded"), results(folder, "alone")
    assert mine.keys() == theirs.keys()
    kinds = ["", "_real", "_chance", *(f"_{name}" for name in MODEL["generation"]["variants"])]
    assert {f"{metric}{kind}" for metric in ("cyclesync", "sync_c", "sync_d") for kind in kinds} <= mine.keys()
    for name, entry in mine.items():
        # a sound is put together from its spectrogram in steps that enlarge the rounding of what it was made with
        given = name.endswith(("_real", "_audio_to_video", "_still", "_codec"))
        assert entry["value"] == pytest.approx(theirs[name]["value"], rel=1e-3 if given else 5e-3, abs=1e-6), name
        assert entry["ci95"] == pytest.approx(theirs[name]["ci95"], rel=1e-2, abs=1e-6), name
        assert entry["n"] == theirs[name]["n"] == NUM_CLIPS


def test_a_resumed_run_is_the_uninterrupted_one(
    folder: Path, sharded: list[dict[str, Any]], resumed: list[dict[str, Any]]
):
    for rank, whole_run in zip(resumed, sharded, strict=True):
        for name in ("losses", "norms", "ids"):
            assert rank[name] == whole_run[name][2:]
        for name in ("weights", "generated", "sounds"):
            assert rank[name] == whole_run[name]
    assert_same_tensors(load(checkpoint(folder, "resumed")), load(checkpoint(folder, "sharded")), 0)
    assert results(folder, "resumed") == results(folder, "sharded")
