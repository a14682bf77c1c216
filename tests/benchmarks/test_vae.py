"""Chunks save memory and change nothing, at any size and on the meta device."""

import re

import pytest
import torch

from benchmarks.vae import main
from components.codecs.video.causal_vae.codec import CausalVideoCodec
from components.codecs.video.causal_vae.model import CausalVideoVAE
from components.counting.coding_peaks import VideoSize, decoding_peak, encoding_peak
from components.counting.live_memory import with_peak_bytes

TINY = ["--widths", *"8888", "--groups=4", "--frames=17", "--height=32", "--width=64", "--repeats=1"]
NARROW = {
    "encoder_block_out_channels": (8, 8, 8, 8),
    "encoder_norm_num_groups": 4,
    "decoder_block_out_channels": (8, 8, 8, 8),
    "decoder_norm_num_groups": 4,
}


def cells(text: str) -> dict[str, list[str]]:
    """Rows of a table by their first column."""
    return {name: rest for name, *rest in (re.split(r"\s{2,}", line) for line in text.splitlines())}


def test_chunks_agree_with_the_whole_and_take_less(capsys: pytest.CaptureFixture[str]):
    main([*TINY, "--encode-window=8", "--decode-window=1", "--tile=32"])
    rows = cells(capsys.readouterr().out)
    for direction, window in (("encode", 8), ("decode", 1)):
        *_, memory, difference = rows[f"{direction}, chunks of {window}"]
        spread = float(rows[f"spread of the {direction}d values"][-1])
        assert float(memory) < 0.9
        assert float(difference) < 1e-4 * spread
        *_, memory_of_tiles, difference = rows[f"{direction}, chunks in tiles"]
        assert float(memory_of_tiles) < float(memory)
        assert float(difference) > 1e-2 * spread  # normalisation and attention see one tile only


def test_the_meta_device_counts_what_a_cpu_holds():
    torch.manual_seed(0)
    size = VideoSize(2, 17, 32, 32)
    vae = CausalVideoVAE(**NARROW)
    with torch.device("meta"):
        shapes = CausalVideoVAE(**NARROW)
    for window in (None, 8):
        real = CausalVideoCodec(vae, encode_window=window, decode_window=window)
        counted = CausalVideoCodec(shapes, encode_window=window, decode_window=window)
        video = torch.rand(size.clips, size.frames, 3, size.height, size.width)
        with torch.no_grad():
            latents, encode = with_peak_bytes(lambda codec=real, video=video: codec.encode(video), "cpu")
            _, decode = with_peak_bytes(lambda codec=real, latents=latents: codec.decode(latents), "cpu")
        assert encoding_peak(counted, size) == pytest.approx(encode, rel=0.02)
        assert decoding_peak(counted, size) == pytest.approx(decode, rel=0.02)


def test_the_public_architecture_is_counted_without_computing(capsys: pytest.CaptureFixture[str]):
    main(["--meta", "--frames=17", "--height=64", "--width=64", "--encode-window=8", "--decode-window=1"])
    text = capsys.readouterr().out
    rows = cells(text)
    assert "0.62 GiB of weights" in text and "1 x 17 frames of 64x64" in text
    for direction in ("encode", "decode"):
        whole, chunks = (
            rows[f"{direction}, whole"],
            next(v for k, v in rows.items() if k.startswith(f"{direction}, ch")),
        )
        assert whole[1] == "1.00" and float(chunks[1]) < 0.9
        assert float(whole[0]) > float(chunks[0]) > 0
