"""Averages of weights: their recursion, where they are judged, and that checkpoints tell them from the weights."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from callbacks.ema import EMA, EMA_PREFIX, mirror
from components.errors import InputError
from tests.lightning_modules.tiny_module import TinyData, tiny_module, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Weights(L.Callback):
    """The trained weights behind every step and in every validation; saves a checkpoint while validating."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.behind: list[dict[str, torch.Tensor]] = []
        self.judged: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.behind.append(trained(pl_module))

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.judged.append(trained(pl_module))
        if self.folder is not None and not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / "while_validating.ckpt")


def trained(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(p, second[name]) for name, p in first.items())


def fit(folder: Path, steps: int, ckpt_path: Path | None = None, **settings: Any) -> tuple[Any, Weights]:
    """A run with averages that validates after every second step."""
    module, weights = tiny_module(), Weights(folder if settings.pop("save", False) else None)
    run = trainer(
        folder,
        steps,
        callbacks=[EMA(0.5), weights],
        limit_val_batches=1,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        **settings,
    )
    run.fit(module, TinyData(), ckpt_path=ckpt_path)
    run.save_checkpoint(folder / f"{steps}.ckpt")
    return module, weights


def test_averages_follow_the_recursion_and_are_what_is_judged(tmp_path: Path):
    start = trained(tiny_module())
    module, weights = fit(tmp_path, 4, save=True)
    averages = {name: p.clone() for name, p in start.items()}
    history = []
    for n, behind in enumerate(weights.behind, start=1):
        decay = min(0.5, (1 + n) / (10 + n))
        averages = {name: p + (1 - decay) * (behind[name] - p) for name, p in averages.items()}
        history.append(averages)
    assert weights.judged[0].keys() == averages.keys()
    for judged, expected in zip(weights.judged, history[1::2], strict=True):
        for name, value in expected.items():
            torch.testing.assert_close(judged[name], value, atol=1e-6, rtol=1e-5)
    assert same(trained(module), weights.behind[-1])  # training went on with the weights

    for file in ("4.ckpt", "while_validating.ckpt"):
        stored = torch.load(tmp_path / file, weights_only=True)["state_dict"]
        kept = {name: value for name, value in stored.items() if not name.startswith(EMA_PREFIX)}
        assert same(kept, weights.behind[-1])
        assert same({name: stored[EMA_PREFIX + name] for name in kept}, weights.judged[-1])


def test_averages_resume_exactly_and_are_optional(tmp_path: Path):
    _, whole = fit(tmp_path, 4)
    fit(tmp_path, 2)
    resumed, weights = fit(tmp_path, 4, tmp_path / "2.ckpt")
    assert same(weights.judged[-1], whole.judged[-1]) and same(trained(resumed), whole.behind[-1])

    for callbacks, expected in (([EMA(0.5)], whole.judged[-1]), ([], whole.behind[-1])):
        watch = Weights()
        run = trainer(tmp_path, 4, limit_val_batches=1, callbacks=[*callbacks, watch])
        run.validate(tiny_module(), TinyData(), ckpt_path=tmp_path / "4.ckpt", verbose=False)
        assert same(watch.judged[0], expected)

    plain = trainer(tmp_path, 2)
    plain.fit(tiny_module(), TinyData())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    watch = Weights()
    run = trainer(tmp_path, 4, limit_val_batches=1, callbacks=[EMA(0.5), watch])
    run.validate(tiny_module(), TinyData(), ckpt_path=tmp_path / "plain.ckpt", verbose=False)
    assert same(watch.judged[0], trained(plain.lightning_module))  # the average begins at the weights


def test_accumulated_batches_are_averaged_once(tmp_path: Path):
    module, weights = fit(tmp_path, 1, accumulate_grad_batches=2)
    start, end = trained(tiny_module()), trained(module)
    stored = torch.load(tmp_path / "1.ckpt", weights_only=True)["state_dict"]
    for name, value in end.items():
        expected = start[name] + (1 - 2 / 11) * (value - start[name])
        torch.testing.assert_close(stored[EMA_PREFIX + name], expected, atol=1e-6, rtol=1e-5)
    assert len(weights.behind) == 2


def test_a_mirror_has_the_names_in_float32_and_does_not_train():
    layer = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)).to(torch.bfloat16)
    copy = mirror(dict(layer.named_parameters()))
    assert copy.state_dict().keys() == layer.state_dict().keys()
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in copy.parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_named(decay: float):
    with pytest.raises(InputError, match=rf"EMA\.decay is {decay}"):
        EMA(decay)
