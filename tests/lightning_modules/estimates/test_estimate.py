"""The memory table counts what is there, on the meta device and without any checkpoint."""

import re

import pytest
import torch
from benchmarks.memory import main
from torch import nn

from components.counting.saved_activations import fused_attention, saved_bytes
from components.errors import InputError


def table(text: str) -> dict[str, list[float]]:
    rows = re.findall(r"^(\S.*?)  +([\d., ]+)$", text, re.M)
    return {name.strip(): [float(cell.replace(",", "")) for cell in cells.split()] for name, cells in rows}


def test_the_full_experiment_is_counted_without_its_checkpoints(capsys: pytest.CaptureFixture[str]):
    main(["--config", "configs/syncphony/avsync15.yaml", "--gpus", "1", "4"])
    text = capsys.readouterr().out
    rows = table(text)
    assert rows["transformer, frozen"][0] + rows["transformer, trained"][0] > 1972  # miniFLUX and its audio layers
    assert rows["video codec"][0] == 335.4 and rows["text encoder"][0] == pytest.approx(4762.3 + 123.1, abs=1)
    one, four = rows["1"], rows["4"]
    assert four[1] == pytest.approx(one[1] / 4, abs=0.01) and four[2] == pytest.approx(one[2] / 4, abs=0.01)
    assert one[5:7] == four[5:7] and min(four[5:7]) > 1
    assert sum(four[:5]) + max(four[5:7]) == pytest.approx(four[7], abs=0.05)
    assert "with checkpoints" in text
    kept_all = float(re.search(r"all kept they are (\S+) GiB", text)[1])  # type: ignore[index]
    assert kept_all > 2 * one[5]


def test_saved_bytes_of_a_known_network():
    blocks = [nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh())]
    x = torch.randn(4, 8, requires_grad=True)
    total, counts = saved_bytes(lambda: blocks[1](blocks[0](x)), blocks)
    # a linear layer keeps its input, tanh its output; weights do not count
    one = 4 * 8 * 4
    assert [count.kept for count in counts] == [one, 2 * one] and total == 3 * one
    assert [count.inputs for count in counts] == [one, one]


def test_fused_attention_keeps_no_matrix_of_weights():
    q = torch.randn(1, 2, 64, 4, requires_grad=True)
    with fused_attention():
        total, _ = saved_bytes(lambda: torch.nn.functional.scaled_dot_product_attention(q, q * 2, q * 3), [])
    assert total == 4 * q.numel() * 4


STAGES = {"stage1_audio": 5012.7, "stage2_timbre": 5012.7, "stage3_joint": 11134.2}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_harmony_is_counted_without_its_checkpoints(stage: str, capsys: pytest.CaptureFixture[str]):
    main(["--config", f"configs/harmony/{stage}.yaml", "--gpus", "1", "4", "8"])
    text = capsys.readouterr().out
    rows = table(text)
    assert ("interaction" in rows) == ("video codec" in rows) == (stage == "stage3_joint")
    assert rows["audio tower"][:2] == [5012.7, 5012.7] and rows["text encoder"][:2] == [5680.9, 0]
    assert rows["total"][1] == STAGES[stage]
    for gpus in (1, 4, 8):
        weights, gradients, adam, average, _, kept, encoding, peak = rows[str(gpus)]
        assert gradients == pytest.approx(STAGES[stage] * 1e6 * 4 / gpus / 2**30, abs=0.01)
        assert adam == pytest.approx(2 * gradients, abs=0.02) and average == gradients and weights > gradients
        assert sum(rows[str(gpus)][:5]) + max(kept, encoding) == pytest.approx(peak, abs=0.05)
    kept_all = float(re.search(r"all kept they are (\S+) GiB", text)[1])  # type: ignore[index]
    # a checkpoint per layer: what is kept of a layer, and of thirty layers what goes in
    assert kept_all / 30 < rows["1"][5] < kept_all / 10


@pytest.mark.slow
def test_a_frozen_tower_and_all_tasks_are_told_apart(capsys: pytest.CaptureFixture[str]):
    joint = [
        "--config",
        "configs/harmony/stage3_joint.yaml",
        "--gpus",
        "8",
        "--model.init_args.curriculum.train_video",
        "false",
    ]
    main([*joint, "--model.init_args.tasks.init_args.task_mode", "sample"])
    one = table(capsys.readouterr().out)
    main(joint)
    text = capsys.readouterr().out
    three = table(text)
    assert one["video tower"][:2] == [4999.8, 0] and one["total"][1] == pytest.approx(6134.4, abs=0.2)
    assert three["8"][5] == pytest.approx(3 * one["8"][5], rel=0.02) and "3 rows of 12,090 video" in text


def test_what_all_blocks_share_is_kept_once():
    blocks = [nn.Bilinear(8, 8, 8), nn.Bilinear(8, 8, 8)]
    x, shared = (torch.randn(4, 8, requires_grad=True) for _ in range(2))
    _, counts = saved_bytes(lambda: blocks[1](blocks[0](x, shared), shared), blocks)
    assert [count.inputs for count in counts] == [2 * 4 * 8 * 4, 4 * 8 * 4]


def test_other_experiments_are_refused_in_one_sentence():
    with pytest.raises(InputError, match="no Syncphony or Harmony experiment"):
        main(["--config", "configs/harmony/syncnet.yaml"])
