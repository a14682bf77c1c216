"""One guided step of joint sampling: all rows of SyncCFG in one call against a call for each row.

::

    python -m benchmarks.sync_cfg_step                                  # narrow towers, half a minute on one thread
    python -m benchmarks.sync_cfg_step --size 480p --device cuda --bfloat16

Both are the sampler's own first step; the separate calls are made by handing it a model that runs its rows one by one.
The step goes from noise level 1 to 0, so its latents are the noise less the guided velocity, and what they differ by
is what the velocities differ by.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from benchmarks.harmony_sizes import CLOCK, add_size_arguments, build_harmony, dtype_of, random_inputs, size_of
from benchmarks.measure import clock_name, interleaved, machine_facts, print_table, ratio
from components.backbones.harmony.model import HarmonyTransformer
from components.contracts import TextFeatures
from components.guidance.sync_cfg import Guidance, SyncCFG
from components.samplers.joint_sampler import JointConditions, JointSampler, ModalityText
from components.schedules.flow_schedule import FlowSchedule

ONE, SEPARATE = "one call", "separate calls"


class RowByRow(nn.Module):
    """A dual tower that gets ``clips`` rows at a time.

    Args:
        model: runs them.
        clips: rows of one branch.
    """

    def __init__(self, model: HarmonyTransformer, clips: int) -> None:
        super().__init__()
        self.model = model
        self.clips = clips
        self.num_calls = 0

    def forward(self, z_v: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
        """As the model's, branch by branch."""
        arguments = {"z_v": z_v, **given}
        outputs = []
        for first in range(0, len(z_v), self.clips):
            rows = slice(first, first + self.clips)
            outputs.append(self.model(**{name: _rows(value, rows) for name, value in arguments.items()}))
            self.num_calls += 1
        video, audio = zip(*outputs, strict=True)
        return torch.cat(video), torch.cat(audio)


def _rows(value: object, rows: slice) -> object:
    if isinstance(value, TextFeatures):
        return TextFeatures(value.tokens[rows], value.mask[rows])
    return value[rows] if isinstance(value, Tensor) else value


class GuidedStep:
    """The first step of joint sampling with everything that guidance may need."""

    def __init__(self, args: argparse.Namespace) -> None:
        size, dtype = size_of(args), dtype_of(args)
        model = build_harmony(size, True, args.device, dtype, trained=True).eval()
        self.models: dict[str, Any] = {ONE: model, SEPARATE: RowByRow(model, size.clips)}
        given, other = (random_inputs(size, args.device, dtype, seed) for seed in (1, 2))
        self.noise = {"video_noise": given["z_v"], "audio_noise": given["z_a"]}
        self.conditions = JointConditions(
            video_text=ModalityText(given["text_v"], negative=other["text_v"]),
            audio_text=ModalityText(given["text_a"], negative=other["text_a"]),
            reference=given["z_r"],
            silence=other["z_a"][0],
            still=other["z_v"],
            clock=CLOCK,
        )
        self.sampler = JointSampler(1, FlowSchedule("euler"))

    def __call__(self, way: str, guidance: Guidance) -> tuple[Tensor, Tensor]:
        """Latents of both modalities after the step."""
        guide = SyncCFG(guidance)
        video, audio = self.sampler.sample(self.models[way], self.conditions, **self.noise, guidance=guide)
        assert video is not None
        assert audio is not None
        return video, audio


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_arguments(parser)
    args = parser.parse_args(argv)
    step = GuidedStep(args)
    rows: dict[Guidance, int] = {}
    differences: dict[Guidance, float] = {}
    for guidance in get_args(Guidance):
        separate = step.models[SEPARATE]
        before = separate.num_calls
        latents = {way: step(way, guidance) for way in step.models}
        rows[guidance] = separate.num_calls - before
        differences[guidance] = max(float((a - b).abs().max()) for a, b in zip(*latents.values(), strict=True))
        if guidance == "sync":
            noise = step.noise.values()
            spread = [float((n.float() - x).std()) for n, x in zip(noise, latents[SEPARATE], strict=True)]
    actions: dict[str, Callable[[], object]] = {
        f"{guidance}, {way}": partial(step, way, guidance) for guidance in rows for way in step.models
    }
    seconds = interleaved(actions, args, args.device)

    print(machine_facts(args.device, str(dtype_of(args)).removeprefix("torch.")))
    print(size_of(args))
    table = []
    for guidance, num in rows.items():
        one, separate = (seconds[f"{guidance}, {way}"] for way in (ONE, SEPARATE))
        times = [f"{1000 * statistics.median(t):.1f} ms" for t in (one, separate)]
        ratios = [f"{ratio(one, separate):.2f}", f"{ratio(one, seconds[f'none, {ONE}']):.2f}"]
        table.append([guidance, str(num), *times, *ratios, f"{differences[guidance]:.1e}"])
    header = ["guidance", "rows", f"one call ({clock_name(args)})", "separate calls", "one / separate"]
    print_table([*header, "one / unguided", "largest difference"], table)
    print(f"the velocities guided by sync have a spread of {spread[0]:.2f} (video) and {spread[1]:.2f} (audio)")


if __name__ == "__main__":
    main()
