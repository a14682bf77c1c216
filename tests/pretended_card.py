"""A card that is none: tensors that say they are on ``cuda:0``, and are computed on the CPU.

Without a GPU nobody sees a tensor that was left on the CPU, a generator of the other device, or a value that is read
back in the middle of a step. Under `pretended_card` operations that mix devices are refused as CUDA refuses them, and
everything that would make the host wait is noted. Code that asks which device it is on takes its branch for CUDA;
kernels are those of the CPU, so that nothing is learnt of theirs.
"""

import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

CARD = torch.device("cuda:0")
CPU = torch.device("cpu")
ROOT = f"{Path(__file__).parents[1]}/"
aten = torch.ops.aten

TAKE_CPU_INDICES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
CROSS = {aten._to_copy.default, aten.copy_.default, aten.copy.default}
WAIT = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.repeat_interleave.Tensor,
    aten._linalg_check_errors.default,
}
LIKE_ANOTHER = {
    aten.new_empty_strided.default,
    aten.new_empty.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
}
# conjugates and negatives are views with a bit that operations below a dispatch mode do not look at
AT_ONCE = {aten._conj.default: aten.conj_physical.default, aten._neg_view.default: aten.neg.default}


class OnCard(Tensor):
    """A tensor whose values lie in ``held``, on the CPU.

    PyTorch's C++ side takes it for one of the CPU, as autograd would ask a real device for its streams.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor):
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=CPU,
        )
        made.held = held
        return made

    def __init__(self, held: Tensor) -> None:
        pass

    device = property(lambda self: CARD)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        copy = kwargs.pop("copy", False)
        if args and isinstance(args[0], Tensor):
            device, dtype = args[0].device, args[0].dtype
        else:
            device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if device is not None and device.type == "cpu":
            return self._fetched(dtype)
        return aten._to_copy.default(self, dtype=dtype) if copy or dtype not in (None, self.dtype) else self

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        return self._fetched(None)

    def cuda(self, *_: Any, **__: Any) -> Tensor:
        return self

    def _fetched(self, dtype: torch.dtype | None) -> Tensor:
        with patch.object(PretendedCard, "is_fetching", True):
            return aten._to_copy.default(self, dtype=dtype, device=CPU)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # a checkpoint holds the values

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None  # `Module.to` swaps parameters with such tensors

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], *_: Any) -> Tensor:
        return OnCard(parts["held"])

    def __repr__(self, **_: Any) -> str:
        return f"OnCard({tuple(self.shape)}, {self.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of pretended_card()")


class PretendedCard(TorchDispatchMode):
    """Computes what is asked of the card.

    Attributes:
        waits: operations for which the host would wait for all that is queued, and the line of the project that asked
            for them: what is read back, and what is copied there without ``non_blocking``.
    """

    is_fetching = False

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        mine = [tensor for tensor in given if isinstance(tensor, OnCard)]
        if mine and func in AT_ONCE:
            return OnCard(AT_ONCE[func](args[0].held))
        wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        # autograd goes by what C++ takes these tensors for; so do functions that make others beside those given
        of_cplusplus = func in LIKE_ANOTHER or (func is aten._to_copy.default and not self.is_fetching)
        if wanted == CPU and ((mine and of_cplusplus) or (not given and Calls.inside_card)):
            wanted = CARD
        on_card = (
            wanted.type == "cuda" if wanted is not None else isinstance(args[0], OnCard) if func in CROSS else None
        )
        if on_card is None:
            on_card = bool(mine) or (not given and Calls.inside_card)
            if mine:
                self._refuse_mixtures(func, args, [tensor for tensor in given if not isinstance(tensor, OnCard)])
        if (mine and (func in WAIT or (func in CROSS and not on_card))) or _waits_for_copy(func, args, kwargs, on_card):
            lines = [frame for frame in traceback.extract_stack() if frame.filename.startswith(ROOT)]
            ours = [frame for frame in lines if frame.filename != __file__]
            self.waits.append(f"{func} at {ours[-1].filename.removeprefix(ROOT)}, line {ours[-1].lineno}")
        if wanted == CARD:
            kwargs["device"] = CPU
        kwargs.pop("pin_memory", None)
        made = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if not on_card:
            return made
        made = tree_map(lambda item: OnCard(item) if isinstance(item, Tensor) else item, made)
        return return_and_correct_aliasing(func, args, kwargs, made) if mine else made

    def _refuse_mixtures(self, func: Any, args: Any, others: list[Tensor]) -> None:
        """A number of the CPU goes with any tensor, and so do indices; nothing else."""
        if func in TAKE_CPU_INDICES:
            if not isinstance(args[0], OnCard):
                raise RuntimeError(f"indices should be either on cpu or on the same device as the indexed: {func}")
            others = [other for other in others if not any(other is index for index in args[1])]
        if any(other.ndim for other in others):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {func}")


def _held(item: Any) -> Any:
    return item.held if isinstance(item, OnCard) else item


def _waits_for_copy(func: Any, args: Any, kwargs: Any, on_card: bool) -> bool:
    """Of a mask's count to the host, or of something of the host to the card that is not left to be copied later."""
    if func in TAKE_CPU_INDICES:
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        masks = (index.dtype in (torch.bool, torch.uint8) for index in indices)
        return isinstance(args[0], OnCard) and (
            any(masks) or any(not isinstance(index, OnCard) and index.ndim for index in indices)
        )
    if func not in CROSS or not on_card:
        return False
    source = args[0] if func is aten._to_copy.default else args[1]
    queued = kwargs.get("non_blocking") or (func is not aten._to_copy.default and len(args) > 2 and args[2])
    return isinstance(source, Tensor) and not isinstance(source, OnCard) and not queued


class Calls(TorchFunctionMode):
    """What Python asks of PyTorch: generators fit devices, and constructors that C++ would hand to a real card."""

    inside_card: ClassVar[bool] = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        is_inside = any(isinstance(leaf, OnCard) for leaf in tree_leaves((args, kwargs)))
        with patch.object(Calls, "inside_card", is_inside):
            _refuse_generator(func, args, kwargs)
            if func is Tensor.to and len(args) > 1 and isinstance(args[1], OnCard):
                return args[0].to(CARD, args[1].dtype, **kwargs)
            if func is Tensor.new_tensor and isinstance(args[0], OnCard):
                device = kwargs.pop("device", CARD)
                return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(device)
            if func in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs.get("device") is not None:
                device = kwargs.pop("device")
                return func(*args, **kwargs).to(device)
            return func(*args, **kwargs)


def _refuse_generator(func: Any, args: Any, kwargs: Any) -> None:
    generator, device = kwargs.get("generator"), kwargs.get("device")
    if not isinstance(generator, GENERATOR):
        return
    if device is None:
        device = next((item.device for item in (*args, *kwargs.values()) if isinstance(item, Tensor)), CPU)
    if generator.device.type != torch.device(device).type:
        wanted, found = torch.device(device).type, generator.device.type
        raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{found}' ({func})")


GENERATOR, AUTOCAST = torch.Generator, torch.autocast


class CardGenerator(GENERATOR):
    device = property(lambda self: CARD)

    def clone_state(self):
        made = CardGenerator()
        made.set_state(self.get_state())
        return made


class _IsGenerator(type):
    def __instancecheck__(cls, other: object) -> bool:
        return isinstance(other, GENERATOR)


class AnyGenerator(metaclass=_IsGenerator):
    """In the place of ``torch.Generator``."""

    def __new__(cls, device: Any = CPU):
        return CardGenerator() if torch.device(device).type == "cuda" else GENERATOR(device)


class Autocast(AUTOCAST):
    """In the place of ``torch.autocast``: the lists of the CPU."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


class Accelerator(CPUAccelerator):
    """What Lightning takes it for; the strategy says the device."""

    def setup_device(self, device: torch.device) -> None:
        pass


@contextmanager
def pretended_card() -> Iterator[PretendedCard]:
    """``cuda:0`` can be used, always with its number; nothing of it may be used afterwards."""
    of_cuda = {
        "_lazy_init": lambda: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device=None: None,
        "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        "mem_get_info": lambda device=None: (2**34, 2**35),
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
    }
    with ExitStack() as stack:
        for name, value in of_cuda.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        for name in ("is_autocast_enabled", "get_autocast_dtype"):
            asked = getattr(torch, name)
            stack.enter_context(
                patch.object(torch, name, lambda kind="cuda", asked=asked: asked("cpu" if kind == "cuda" else kind))
            )
        stack.enter_context(patch.object(torch, "Generator", AnyGenerator))
        stack.enter_context(patch.object(torch, "autocast", Autocast))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # else a thread for each device
        card = stack.enter_context(PretendedCard())
        stack.enter_context(Calls())
        yield card
