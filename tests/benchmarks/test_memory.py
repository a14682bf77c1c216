"""The memory table counts what is there, on the meta device and without any checkpoint."""

import re

import pytest
import torch
from torch import nn

from benchmarks.memory import main
from benchmarks.saved_activations import fused_attention, saved_bytes


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
