"""The causal video VAE chunk by chunk (and tile by tile) against the whole clip at once: time, memory, agreement.

::

    python -m benchmarks.vae                  # a narrow network on small clips: minutes on one thread
    python -m benchmarks.vae --public         # the public architecture (335 M parameters)
    python -m benchmarks.vae --meta           # public architecture and size, counted without computing anything

Memory is the most bytes of tensors held at a time beside weights and input; on a CPU and in ``--meta`` it is counted
storage by storage, without the working memory inside single kernels. Chunks give the whole clip's result up to
rounding, tiles another one. For single small clips PyTorch's CPU picks a slow convolution kernel, which says nothing
about chunks: measure two clips or large ones.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measure import (
    add_timing_arguments,
    clock_name,
    interleaved,
    machine_facts,
    print_table,
    ratio,
)
from components.codecs.video.causal_vae.codec import CausalVideoCodec
from components.codecs.video.causal_vae.model import CausalVideoVAE
from components.counting.coding_peaks import VideoSize, decoding_peak, encoding_peak
from components.counting.live_memory import with_peak_bytes

WHOLE = "whole"
GIB, MIB = 2**30, 2**20


def build_vae(args: argparse.Namespace) -> CausalVideoVAE:
    """The network with random weights."""
    if args.public:
        return CausalVideoVAE()
    return CausalVideoVAE(
        encoder_block_out_channels=args.widths,
        encoder_norm_num_groups=args.groups,
        decoder_block_out_channels=args.widths,
        decoder_norm_num_groups=args.groups,
    )


def codecs(vae: CausalVideoVAE, args: argparse.Namespace, window: str) -> dict[str, CausalVideoCodec]:
    """The ways to run one network; ``window`` names the argument that is shown."""
    build = partial(CausalVideoCodec, vae)
    ways = {
        WHOLE: build(encode_window=None, decode_window=None),
        f"chunks of {getattr(args, window)}": build(encode_window=args.encode_window, decode_window=args.decode_window),
    }
    if args.tile is not None:
        ways[f"tiles of {args.tile} pixels"] = build(encode_window=None, decode_window=None, tile_size=args.tile)
        ways["chunks in tiles"] = build(
            encode_window=args.encode_window, decode_window=args.decode_window, tile_size=args.tile
        )
    return ways


def size_of(args: argparse.Namespace) -> VideoSize:
    """What was asked for, or the default of the mode."""
    frames, height, width = (121, 384, 640) if args.meta else (33, 64, 64)
    clips = args.clips or (1 if args.meta else 2)
    return VideoSize(clips, args.frames or frames, args.height or height, args.width or width)


def count(args: argparse.Namespace) -> None:
    """Peaks on the meta device."""
    with torch.device("meta"):
        vae = CausalVideoVAE().to(torch.bfloat16)
    size = size_of(args)
    weights = sum(p.numel() * p.element_size() for p in vae.parameters())
    print(f"public architecture in bfloat16 ({weights / GIB:.2f} GiB of weights); {size}")
    print(f"the pixels in float32 take {size.clips * size.frames * size.height * size.width * 12 / GIB:.2f} GiB more")
    rows = []
    for direction, peak in (("encode", encoding_peak), ("decode", decoding_peak)):
        peaks = {name: peak(codec, size) for name, codec in codecs(vae, args, f"{direction}_window").items()}
        rows += [[f"{direction}, {n}", f"{p / GIB:.2f}", f"{p / peaks[WHOLE]:.2f}"] for n, p in peaks.items()]
    print_table(["meta device", "peak (GiB)", "of whole"], rows)


def measure(args: argparse.Namespace) -> None:
    """Times and peaks of real runs."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if args.bfloat16 else torch.float32
    vae = _lively(build_vae(args)).to(args.device, dtype)
    size = size_of(args)
    video = torch.rand(size.clips, size.frames, 3, size.height, size.width, device=args.device).mul_(2).sub_(1)
    latents = CausalVideoCodec(vae).encode(video)
    print(machine_facts(args.device, str(dtype).removeprefix("torch.")))
    widths = "public architecture" if args.public else f"widths {'/'.join(map(str, args.widths))}"
    print(f"{widths}, {sum(p.numel() for p in vae.parameters()) / 1e6:.1f} M parameters; {size}")
    rows = []
    for direction, given in (("encode", video), ("decode", latents)):
        actions: dict[str, Callable[[], Tensor]] = {
            name: partial(getattr(codec, direction), given)
            for name, codec in codecs(vae, args, f"{direction}_window").items()
        }
        rows += _rows(direction, actions, args)
    print_table(["", clock_name(args), "peak memory", "time of whole", "memory of whole", "largest difference"], rows)


def _rows(direction: str, actions: dict[str, Callable[[], Tensor]], args: argparse.Namespace) -> list[list[str]]:
    seconds = interleaved(actions, args, args.device)
    measured = {name: with_peak_bytes(action, args.device) for name, action in actions.items()}
    exact, of_whole = measured[WHOLE]
    rows = []
    for name, (result, peak) in measured.items():
        row = [
            f"{direction}, {name}",
            f"{1000 * statistics.median(seconds[name]):.0f} ms",
            f"{peak / MIB:.1f} MiB",
        ]
        if name != WHOLE:
            time, memory = ratio(seconds[name], seconds[WHOLE]), peak / of_whole
            row += [f"{time:.2f}", f"{memory:.2f}", f"{(result - exact).abs().max().item():.1e}"]
        rows.append(row + [""] * (6 - len(row)))
    rows.append([f"spread of the {direction}d values", "", "", "", "", f"{exact.std().item():.1e}"])
    return rows


def _lively(vae: CausalVideoVAE) -> CausalVideoVAE:
    """Weights that keep the signal's size (He), so that differences mean something."""
    for module in vae.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    return vae


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", action="store_true", help="the public architecture")
    parser.add_argument("--meta", action="store_true", help="count peak memory on the meta device, compute nothing")
    parser.add_argument("--widths", type=int, nargs=4, default=[32, 64, 128, 128], help="channels of the four levels")
    parser.add_argument("--groups", type=int, default=8, help="groups of the normalisations")
    parser.add_argument("--clips", type=int, default=None, help="clips per batch (2; 1 with --meta)")
    parser.add_argument("--frames", type=int, default=None, help="1 + a multiple of 8 (33; 121 with --meta)")
    parser.add_argument("--height", type=int, default=None, help="multiple of 8 (64; 384 with --meta)")
    parser.add_argument("--width", type=int, default=None, help="multiple of 8 (64; 640 with --meta)")
    parser.add_argument("--encode-window", type=int, default=16, help="frames per chunk, a multiple of 8")
    parser.add_argument("--decode-window", type=int, default=2, help="latent frames per chunk")
    parser.add_argument("--tile", type=int, default=None, help="also in tiles of so many pixels, a multiple of 32")
    parser.add_argument("--bfloat16", action="store_true", help="weights in bfloat16 (always with --meta)")
    parser.add_argument("--device", default="cpu")
    add_timing_arguments(parser, repeats=3)
    args = parser.parse_args(argv)
    if args.meta:
        count(args)
    else:
        measure(args)


if __name__ == "__main__":
    main()
