"""Processes that share the tokens of clips train and generate what one process does."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.backbones.harmony.model import HarmonyTransformer
from tests.lightning_modules.harmony.tiny_harmony_module import AUDIO_CHANNELS, tiny_transformer
from tests.lightning_modules.strategies.parallel_runs import (
    assert_same_tensors,
    avsync,
    checkpoint,
    load,
    results,
    seen,
    write_config,
)
from tests.tiny_harmony import TEXT_DIM, TRANSCRIPT_DIM

pytestmark = [pytest.mark.gate, pytest.mark.long]

HERE = "tests.lightning_modules.harmony.test_context"
CONTEXT = {"compute_dtype": "float32", "context_parallel_size": 2, "save_distributed_checkpoint": False}
SHARED = {"strategy": {"class_path": "FSDP2Strategy", "init_args": CONTEXT}}
NUM_CLIPS = 5  # of the evaluation


def two_headed() -> HarmonyTransformer:
    """Towers and interaction of two heads each."""
    return tiny_transformer(trained=True, num_heads=2)


def fit(folder: Path, name: str, **trainer: Any) -> list[dict[str, Any]]:
    """What every process of a run has seen; three times three patches in a latent, which two cannot share evenly."""
    file = write_config(folder, name, **trainer)
    config = yaml.safe_load(file.read_text())
    config["clip"] |= {"height": 12, "width": 12}
    config["model"] = {
        "class_path": "HarmonyModule",
        "init_args": {
            "transformer": {"class_path": f"{HERE}.two_headed"},
            "audio_codec": {"class_path": "LogMelCodec", "init_args": {"num_mels": AUDIO_CHANNELS // 2}},
            "video_codec": {"class_path": "PixelCodec", "init_args": {"temporal_factor": 4}},
            "text_encoder": {"class_path": "HashedWords", "init_args": {"dim": TEXT_DIM, "max_words": 8}},
            "transcript_encoder": {
                "class_path": "CharacterTranscript",
                "init_args": {"dim": TRANSCRIPT_DIM, "max_characters": 20},
            },
            "sampler": {"class_path": "JointSampler", "init_args": {"num_steps": 2}},
            # an eps above the rounding of gradients: Adam's first steps take a gradient of 1e-9 for its sign alone
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1.0e-3, "eps": 1.0e-5}},
        },
    }
    file.write_text(yaml.safe_dump(config))
    avsync("fit", file)
    return seen(folder, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("context")


def assert_same_run(
    folder: Path, name: str, alone: str, ranks: list[dict[str, Any]], whole: dict[str, Any], replicas: int = 1
) -> None:
    shards = len(ranks) // replicas
    groups = [ranks[i : i + 2] for i in range(0, len(ranks), 2)]
    for first, second in groups:
        assert first["ids"] == second["ids"] and first["losses"] == second["losses"]
        assert first["generated"] and not second["generated"]  # what both have made is judged once
    for key in ("ids", "losses"):
        dealt = [one for step in zip(*(first[key] for first, _ in groups), strict=True) for one in step]
        assert dealt == (whole[key] if key == "ids" else pytest.approx(whole[key], rel=1e-6))
    for rank in ranks:
        assert rank["norms"] == pytest.approx(whole["norms"], rel=2e-6)
        assert rank["weights"] == ranks[0]["weights"]
    assert [rank["held"] for rank in ranks] == pytest.approx([whole["held"] / shards] * len(ranks), rel=0.05)
    for key in ("generated", "sounds"):
        together = {clip: total for rank in ranks for clip, total in rank[key].items()}
        assert len(together) == NUM_CLIPS and together == pytest.approx(whole[key], rel=1e-5)
    mine, theirs = (load(checkpoint(folder, run)) for run in (name, alone))
    assert_same_tensors(mine, theirs, 5e-6)
    assert mine["ProceduralClips"] == theirs["ProceduralClips"]
    assert results(folder, name)["cyclesync"]["n"] == results(folder, alone)["cyclesync"]["n"]


def test_two_processes_that_share_tokens_do_what_one_does(folder: Path):
    alone = fit(folder, "alone")[0]
    assert_same_run(folder, "shared", "alone", fit(folder, "shared", devices=2, **SHARED), alone)


@pytest.mark.slow  # four processes
def test_two_pairs_of_them_do_what_one_process_does_on_twice_the_clips(folder: Path):
    alone = fit(folder, "accumulated", accumulate_grad_batches=2)[0]
    assert_same_run(folder, "pairs", "accumulated", fit(folder, "pairs", devices=4, **SHARED), alone)
