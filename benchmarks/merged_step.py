"""What `merge_last_step` of Syncphony's sampler changes and saves, on the quickstart's trained model.

::

    python -m benchmarks.merged_step --clips 8                          # a minute or two on one thread

PSNR is that of the pictures against the full schedule's, from the same noise and sounds (MSE of all clips together,
pictures in [0, 1]). Beside it stands a schedule of one step fewer in every stage: as many evaluations as the merged
one has, but spread anew.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import add_timing_arguments, clock_name, interleaved, machine_facts, print_table, ratio
from components.contracts import ClipBatch
from components.samplers.pyramid_sampler import PyramidSampler
from lightning_modules.command_line.config_files import with_bases
from lightning_modules.experiment import ModelAndDataCLI
from lightning_modules.syncphony.module import SyncphonyModule

CONFIG, WEIGHTS = "configs/quickstart.yaml", "configs/weights/quickstart_syncphony.ckpt"
FULL, MERGED, FEWER = "all steps", "last one merged", "a step fewer"


def trained(clips: int, folder: str) -> tuple[SyncphonyModule, ClipBatch]:
    """The quickstart's model and so many of its evaluation clips."""
    few = [f"--data.root={folder}", "--data.num_train=1", f"--data.num_test={clips}", f"--data.val_batch_size={clips}"]
    cli = ModelAndDataCLI(with_bases(["--config", CONFIG, "--callbacks=null", *few]))
    module, data = cli.model, cli.datamodule
    assert isinstance(module, SyncphonyModule)
    checkpoint = torch.load(WEIGHTS, weights_only=True)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=False)
    data.prepare_data()
    data.setup("validate")
    return module.eval(), next(iter(data.val_dataloader()))


def sampled(module: SyncphonyModule, batch: ClipBatch, steps: int, way: str) -> Tensor:
    """Pictures ``[B, T, 3, H, W]`` in [0, 1]."""
    given = module.sampler
    module.sampler = PyramidSampler(
        given.schedule,
        [steps - (way == FEWER)] * given.schedule.stages,
        given.image_steps,
        given.video_text_scale,
        given.image_text_scale,
        given.sync_scale,
        given.frames_per_unit,
        given.memory_gib,
        way == MERGED,
    )
    try:
        return module.generate(batch)
    finally:
        module.sampler = given


def psnr_db(got: Tensor, wanted: Tensor) -> float:
    """Of pictures in [0, 1]; infinite for equal ones."""
    error = float((got - wanted).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10], help="Euler steps of every stage")
    add_timing_arguments(parser, repeats=2)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        module, batch = trained(args.clips, folder)
    rows = []
    for steps in args.steps:
        pictures = {way: sampled(module, batch, steps, way) for way in (FULL, MERGED, FEWER)}
        actions: dict[str, Callable[[], object]] = {
            way: partial(sampled, module, batch, steps, way) for way in pictures
        }
        seconds = interleaved(actions, args)
        for way, made in pictures.items():
            found = psnr_db(made, pictures[FULL])
            evaluations = steps if way == FULL else steps - 1
            row = [f"{steps} steps, {way}", str(evaluations), f"{statistics.median(seconds[way]):.2f} s"]
            rows.append([*row, f"{ratio(seconds[way], seconds[FULL]):.2f}", "" if way == FULL else f"{found:.1f} dB"])
    print(machine_facts("cpu", "float32"))
    print(f"{args.clips} clips of the quickstart")
    print_table(["each stage", "evaluations", clock_name(args), "of all steps", "PSNR against all steps"], rows)


if __name__ == "__main__":
    main()
