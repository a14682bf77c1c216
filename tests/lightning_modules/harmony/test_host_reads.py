"""A training step and a sampling step read nothing from the device: the host queues work without waiting for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_modules.base import host_generator
from tests.lightning_modules.harmony.tiny_harmony_module import clips, tiny_module, tiny_transformer

READS = {"item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__contains__"}


class Reads(TorchFunctionMode):
    """Notes every reading of a tensor's values, and every constant that is copied to a device.

    Args:
        of_host: whether a tensor that is read lives on the host on any machine.
    """

    def __init__(self, of_host: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.of_host = of_host
        self.found: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        by_mask = name == "__getitem__" and isinstance(args[1], Tensor) and args[1].dtype == torch.bool
        if (name in READS or by_mask) and not self.of_host(args[0]):
            self.found.append(name)
        if name == "tensor" and (kwargs or {}).get("device") is not None:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def dropped(read: Tensor) -> bool:
    """Which conditions are dropped is drawn on the host."""
    return read.dtype == torch.bool and read.ndim == 1


def test_a_training_step_reads_nothing_from_the_device():
    module = tiny_module(tiny_transformer())
    module.log = module.log_dict = lambda *_, **__: None
    module.training_step(clips(4), 0)  # constants are copied once
    with Reads(dropped) as reads:
        module.training_step(clips(4), 1).backward()
    assert reads.found == []


def test_a_sampling_step_reads_nothing_from_the_device():
    module = tiny_module(tiny_transformer()).eval()
    encoded = module.encode_conditions(clips(2))
    with Reads(lambda read: read.ndim == 0) as reads:  # noise levels, which schedules keep on the host
        module.sample(encoded, clips(2))
    assert reads.found == []


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_the_host_reads_is_drawn_on_the_host(device: str):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    given = torch.Generator(device).manual_seed(3)
    torch.rand(5, generator=given, device=device)
    host = host_generator(given)
    assert host.device.type == "cpu"
    assert (host is given) == (device == "cpu"), "on a CPU the numbers are those of one generator, as they were"
    again = host_generator(torch.Generator(device).manual_seed(3))
    if device == "cuda":
        assert torch.equal(torch.rand(4, generator=host), torch.rand(4, generator=again))
