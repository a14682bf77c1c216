"""Cached text features: the same as without a cache, from disk without the encoder, whatever happens to the files."""

import gc
import json
import subprocess
import sys
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonargparse
import pytest
import torch

from components.contracts import TextEncoder, TextFeatures
from components.encoders.text.cached import CachedText
from components.encoders.text.pyramid_flow import PyramidFlowText
from components.encoders.text.pyramid_flow_folder import PyramidFlowTextFolder
from components.errors import InputError
from components.weights.identity import identity_of
from tests.public_folders.text import write_miniflux_text

PROMPTS = ["the dog barks", "", "a hammer strikes wood slowly", "lion"]


class CountingFolder(PyramidFlowTextFolder):
    """Notes every load and every batch that is encoded."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.encoders_made: list[weakref.ref[PyramidFlowText]] = []
        self.batches: list[list[str]] = []

    def load(self) -> PyramidFlowText:
        encoder = super().load()
        encoder.register_forward_pre_hook(lambda module, args: self.batches.append(list(args[0])))
        self.encoders_made.append(weakref.ref(encoder))
        return encoder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    write_miniflux_text(folder)
    return folder


@pytest.fixture
def source(release: Path) -> CountingFolder:
    return CountingFolder(str(release))


def same(left: TextFeatures, right: TextFeatures) -> bool:
    return (
        torch.equal(left.tokens, right.tokens)
        and torch.equal(left.mask, right.mask)
        and torch.equal(left.pooled, right.pooled)
    )


def test_same_as_the_encoder_itself(source: CountingFolder, tmp_path: Path):
    plain = source.load()(PROMPTS)
    for folder in (None, str(tmp_path / "cache")):
        cached = CachedText(source, folder)
        assert (cached.dim, cached.pooled_dim) == (source.dim, source.pooled_dim)
        assert same(cached(PROMPTS), plain)
        assert same(cached(PROMPTS), plain)
    padded = CachedText(source, pad_to=128)([*PROMPTS, PROMPTS[0]])
    assert padded.tokens.shape[:2] == padded.mask.shape == (5, 128)
    assert torch.equal(padded.tokens[:4, : plain.tokens.shape[1]], plain.tokens)
    assert torch.equal(padded.tokens[4], padded.tokens[0])


def test_the_encoder_is_loaded_once_and_not_at_all_where_all_prompts_are_on_disk(
    source: CountingFolder, release: Path, tmp_path: Path
):
    cached = CachedText(source, str(tmp_path))
    first = cached(PROMPTS)
    cached(["violin", *PROMPTS])
    assert len(source.encoders_made) == 1
    assert source.batches == [PROMPTS, ["violin"]]
    other = CountingFolder(str(release))
    assert same(CachedText(other, str(tmp_path))(PROMPTS), first)
    assert other.encoders_made == []


def test_prepare_encodes_in_batches_and_memory_is_bounded(source: CountingFolder, tmp_path: Path):
    cached = CachedText(source, str(tmp_path), batch_size=2, num_in_memory=3)
    cached.prepare(f"dog {i}" for i in [*range(7), 0])
    assert [len(batch) for batch in source.batches] == [2, 1, 2, 1, 1]
    assert len(cached._rows) == 3
    assert len(list(tmp_path.rglob("*.safetensors"))) == 7
    source.batches.clear()
    assert len(cached([f"dog {i}" for i in range(7)]).tokens) == 7  # more than memory holds
    assert source.batches == []


def test_memory_drops_what_was_used_longest_ago(source: CountingFolder):
    cached = CachedText(source, num_in_memory=2)
    for prompt in ("dog", "lion", "dog", "frog", "dog"):
        cached([prompt])
    assert source.batches == [["dog"], ["lion"], ["frog"]]
    cached(["lion"])
    assert source.batches[-1] == ["lion"]


@pytest.mark.parametrize("unload", [False, True])
def test_unload_frees_the_encoder(source: CountingFolder, unload: bool):
    cached = CachedText(source, unload=unload)
    cached(PROMPTS)
    gc.collect()
    assert cached.is_loaded is not unload
    assert (source.encoders_made[0]() is None) is unload
    cached(["violin"])
    assert len(source.encoders_made) == 1 + unload


def test_what_validation_leaves_behind_can_be_trained_on(source: CountingFolder, tmp_path: Path):
    for folder in (None, str(tmp_path), str(tmp_path)):  # kept in memory, written, read
        cached = CachedText(source, folder)
        with torch.inference_mode():
            cached(PROMPTS)
        encoders = cached._loaded
        assert not any(tensor.is_inference() for e in encoders for tensor in [*e.parameters(), *e.buffers()])
        layer = torch.nn.Linear(cached.dim, 1)
        layer(cached(PROMPTS[:1]).tokens.float()).sum().backward()
        assert layer.weight.grad.abs().sum() > 0


def test_the_encoder_is_no_part_of_the_module(source: CountingFolder):
    cached = CachedText(source)
    cached(PROMPTS)
    assert cached.is_loaded
    assert not list(cached.parameters())
    assert not cached.state_dict()
    cached.bfloat16().train()
    assert not source.encoders_made[0]().training


def test_damage_is_noticed_and_mended(source: CountingFolder, tmp_path: Path):
    first = CachedText(source, str(tmp_path))(["lion"])
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    data_start = 8 + int.from_bytes(whole[:8], "little")
    flipped = [whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :] for i in range(data_start, len(whole), 67)]
    truncated = [whole[:i] for i in (0, 7, 8, data_start - 1, data_start, len(whole) - 1)]
    for damaged in [*flipped, *truncated, b"not safetensors at all"]:
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match=rf"{file.name}' are damaged .* computed anew"):
            assert same(CachedText(source, str(tmp_path))(["lion"]), first)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert same(CachedText(source, str(tmp_path))(["lion"]), first)
    for i in range(0, data_start, 17):  # a flipped header either fails or concerns the note of the prompt alone
        file.write_bytes(whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert same(CachedText(source, str(tmp_path))(["lion"]), first)


def test_other_weights_settings_and_prompts_have_other_files(source: CountingFolder, release: Path, tmp_path: Path):
    cached = CachedText(source, str(tmp_path))
    files = {cached.file_of("lion"), cached.file_of("lion "), cached.file_of("")}
    for settings in ({"dtype": "float32"}, {"max_length": 64}):
        files.add(CachedText(PyramidFlowTextFolder(str(release), **settings), str(tmp_path)).file_of("lion"))
    write_miniflux_text(tmp_path / "other", seed=1)
    other = CachedText(PyramidFlowTextFolder(str(tmp_path / "other")), str(tmp_path))
    files.add(other.file_of("lion"))
    assert len(files) == 6
    assert identity_of(other).sha256 != identity_of(cached).sha256 == identity_of(source.load()).sha256
    write_miniflux_text(tmp_path / "same")
    assert CachedText(PyramidFlowTextFolder(str(tmp_path / "same")), str(tmp_path)).file_of("lion") in files


def test_several_writers_at_once(release: Path, tmp_path: Path):
    writers = [CachedText(CountingFolder(str(release)), str(tmp_path)) for _ in range(4)]
    for i, writer in enumerate(writers):
        writer([f"violin {i}"])  # loads the encoder, which is not what is tried here
    start = threading.Barrier(len(writers))

    def write(writer: CachedText) -> TextFeatures:
        start.wait()
        return writer(PROMPTS)

    with ThreadPoolExecutor(len(writers)) as pool:
        results = list(pool.map(write, writers))
    assert all(same(result, results[0]) for result in results)
    assert same(CachedText(CountingFolder(str(release)), str(tmp_path))(PROMPTS), results[0])
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file()) == [".safetensors"] * (
        len(writers) + len(PROMPTS)
    )


def test_a_folder_that_cannot_be_written(source: CountingFolder, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be kept in '.*file' \(.*\): set the text encoder's folder"):
        CachedText(source, str(tmp_path / "file"))(["lion"])


def test_damaged_release_is_reported_before_the_first_prompt(tmp_path: Path):
    write_miniflux_text(tmp_path / "release")
    (tmp_path / "release" / "text_encoder_2" / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-00001-of-00002.safetensors"):
        CachedText(PyramidFlowTextFolder(str(tmp_path / "release")), str(tmp_path / "cache"))


def config(release: Path, folder: Path) -> dict[str, object]:
    return {
        "class_path": "components.encoders.text.cached.CachedText",
        "init_args": {
            "source": {
                "class_path": "components.encoders.text.pyramid_flow_folder.PyramidFlowTextFolder",
                "init_args": {"folder": str(release)},
            },
            "folder": str(folder),
            "device": "cpu",
        },
    }


def parsed(content: dict[str, object]) -> TextEncoder:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(TextEncoder, "text_encoder")
    return parser.instantiate_classes(parser.parse_object({"text_encoder": content})).text_encoder


def test_from_yaml(source: CountingFolder, release: Path, tmp_path: Path):
    cached = parsed(config(release, tmp_path))
    assert isinstance(cached, CachedText)
    assert not cached.is_loaded
    plain = parsed(
        {
            "class_path": "components.encoders.text.pyramid_flow_folder.pyramid_flow_text",
            "init_args": {"folder": str(release), "variant": "miniflux"},
        }
    )
    assert isinstance(plain, PyramidFlowText)
    assert same(cached(PROMPTS), plain(PROMPTS))


def test_a_run_of_known_prompts_does_not_even_import_transformers(
    source: CountingFolder, release: Path, tmp_path: Path
):
    CachedText(source, str(tmp_path))(PROMPTS)
    code = f"""
import json, sys
from tests.components.encoders.text.test_cached import parsed
text_encoder = parsed(json.loads({json.dumps(json.dumps(config(release, tmp_path)))}))
assert text_encoder({PROMPTS!r}).tokens.shape[0] == {len(PROMPTS)}
assert not text_encoder.is_loaded
assert not any(name.partition(".")[0] == "transformers" for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_shapes_only():
    with torch.device("meta"):
        cached = CachedText(PyramidFlowTextFolder("rain1011/pyramid-flow-miniflux"), "nowhere")
    assert (cached.dim, cached.pooled_dim) == (4096, 768)


@pytest.mark.gpu
def test_features_follow_the_module_and_the_encoder_stays(source: CountingFolder, tmp_path: Path):
    cached = CachedText(source, str(tmp_path), device="cpu").cuda()
    features = cached(PROMPTS)
    assert features.tokens.is_cuda
    assert features.mask.is_cuda
    assert features.pooled.is_cuda
    assert next(source.encoders_made[0]().parameters()).device.type == "cpu"
    assert CachedText(source, str(tmp_path)).cuda()(PROMPTS).tokens.is_cuda
    follows = CachedText(source).cuda()
    assert follows(PROMPTS).tokens.is_cuda
    assert next(source.encoders_made[-1]().parameters()).is_cuda
