"""Transformers whose tokens are shared among processes give what whole ones give, and the same gradients."""

from typing import Any, cast

import pytest
from torch.distributed.device_mesh import DeviceMesh

from components.backbones.compilation import CompileConfig
from components.backbones.context_parallel import ContextGroup
from components.errors import InputError
from tests.components.backbones.context_ranks import everything, transformer
from tests.ranks import run_ranks

pytestmark = pytest.mark.gate


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_that_share_tokens_do_what_one_does(processes: int):
    run_ranks(processes, everything, processes)


class ThreeProcesses:
    """A mesh of three, seen from the first; nothing is sent."""

    def get_group(self) -> None:
        return None

    def size(self) -> int:
        return 3

    def get_local_rank(self) -> int:
        return 0


def test_what_cannot_be_shared_is_refused_with_what_could():
    mesh = cast(DeviceMesh, cast(Any, ThreeProcesses()))
    with pytest.raises(InputError, match=r"is 3, but the 4 attention heads of the video tower .* one of 1, 2, 4\."):
        transformer().split_context(mesh)
    compiled = transformer()
    compiled.compile_layers(CompileConfig(backend="eager"))
    with pytest.raises(InputError, match="is 3, but layers in which processes exchange tokens cannot be compiled"):
        compiled.split_context(mesh)
    context = ContextGroup(mesh)
    context.check_heads("a tower", 24)
    split = context.split((5, 17))
    assert split.local_lengths == (2, 6) and split.num_local == 8 and split.last(1).lengths == (17,)
