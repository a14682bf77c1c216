"""What stands in for V-AURA's checkout and MMAudio's package: same names, shapes and refusals, no weights.

Both sound like the brightness of the pictures they are given, with a little noise from the generator they are to use:
what is heard tells which frame was shown when.
"""

from pathlib import Path

import torch
import yaml

VAURA = """
from pathlib import Path
from types import SimpleNamespace
import torch
import yaml

class Codec:
    def decode(self, codes):
        tokens, _ = codes[0]
        assert tokens.shape[1] == 9 and tokens.dtype == torch.long and (tokens >= 0).all()
        level = tokens[:, 0] / 255 * 0.4 + tokens[:, 1] / 1e5
        return level.repeat_interleave(512, dim=-1)[:, None].half()

class VAURAModel:
    def __init__(self, hparams):
        assert hparams["learning_rate"] == 1e-5
        assert Path(hparams["feature_extractor_config"]["params"]["ckpt_path"]).read_text() == "avclip"
        assert Path("models/vaura_model.py").is_file(), "search paths are relative to the checkout"
        self.sampler, self.audio_encoder = SimpleNamespace(audio_tokens_per_video_frame=None), Codec()
        self.num_codebooks, self.training = 9, True

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path, hparams_file, map_location):
        assert checkpoint_path.read_text() == "checkpoint" and map_location == "cpu"
        return cls(yaml.safe_load(Path(hparams_file).read_text()))

    def to(self, device):
        return self

    def eval(self):
        self.training = False
        return self

    def generate(self, frames=None, audio=None, clip_indices=None, max_new_tokens=512, return_attention_weights=False,
                 return_sampled_indices=False, check=False, use_sampling=True, temp=1.0, top_k=256, top_p=0.0,
                 remove_prompts=False, prompt_is_encoded=False, cfg_scale=1.0):
        assert not self.training and not torch.is_grad_enabled()
        assert self.sampler.audio_tokens_per_video_frame == 7
        assert (temp, top_k, top_p, cfg_scale, use_sampling) == (1.0, 128, 0.0, 6.0, True)
        assert return_sampled_indices and prompt_is_encoded and not remove_prompts
        batch, segments, *rest = frames.shape
        assert batch == 1 and segments <= 4 and rest == [3, 16, 224, 224], frames.shape
        assert -1 <= frames.min() and frames.max() <= 1
        known = 0 if audio is None else audio.shape[-1]
        assert known < max_new_tokens <= segments * 8 * 7, "more tokens than the features last"
        level = frames.mean(dim=(2, 4, 5)).reshape(-1)  # [S * 16]
        times = torch.arange(max_new_tokens) * 512 / 44100
        shown = ((level[(times * 25).long()] + 1) * 127.5).round().long()
        codes = torch.stack([shown] + [torch.randint(1024, shown.shape) for _ in range(8)])[None]
        if known:
            codes[..., :known] = audio
        return {"generated_audio": None, "sampled_indices": codes}
"""

VAURA_UTILS = """
def get_file_with_best_val_loss(path, pattern="*.ckpt"):
    files = list(path.glob(pattern))
    assert len(files) == 1
    return files[0]
"""

MMAUDIO = {
    "__init__.py": "",
    "model/__init__.py": "",
    "model/utils/__init__.py": "",
    "model/flow_matching.py": """
class FlowMatching:
    def __init__(self, min_sigma=0.0, inference_mode="euler", num_steps=25):
        self.args = (min_sigma, inference_mode, num_steps)
""",
    "model/networks.py": """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def load_weights(self, state):
        self.load_state_dict(state)

    def update_seq_lengths(self, latent, clip, sync):
        self.latent_seq_len, self.clip_seq_len, self.sync_seq_len = latent, clip, sync

def get_my_mmaudio(name):
    return {"small_16k": Net, "small_44k": Net}[name]()
""",
    "model/utils/features_utils.py": """
from pathlib import Path
import torch

class FeaturesUtils(torch.nn.Module):
    def __init__(self, *, tod_vae_ckpt=None, bigvgan_vocoder_ckpt=None, synchformer_ckpt=None, enable_conditions=True,
                 mode="16k", need_vae_encoder=True):
        super().__init__()
        assert enable_conditions and not need_vae_encoder
        assert Path(tod_vae_ckpt).name == f"v1-{mode[:2]}.pth"
        assert Path(synchformer_ckpt).name == "synchformer_state_dict.pth"
        assert (bigvgan_vocoder_ckpt is None) == (mode == "44k")
        self.weight = torch.nn.Parameter(torch.zeros(2))

    def train(self, mode=True):
        return super().train(False)

    device = property(lambda self: self.weight.device)
    dtype = property(lambda self: self.weight.dtype)
""",
    "eval_utils.py": """
import dataclasses, math
from pathlib import Path
import torch

@dataclasses.dataclass
class Lengths:
    duration: float
    sampling_rate: int
    hop: int
    latent_seq_len = property(lambda self: math.ceil(self.duration * self.sampling_rate / self.hop / 2))
    clip_seq_len = property(lambda self: int(self.duration * 8))
    sync_seq_len = property(lambda self: int(((self.duration * 25 - 16) // 8 + 1) * 8))

@dataclasses.dataclass
class ModelConfig:
    model_path: Path
    vae_path: Path
    bigvgan_16k_path: object
    mode: str
    synchformer_ckpt: Path = Path("ext_weights/synchformer_state_dict.pth")

    @property
    def seq_cfg(self):
        return Lengths(8.0, 16000, 256) if self.mode == "16k" else Lengths(8.0, 44100, 512)

all_model_cfg = {
    "small_16k": ModelConfig(Path("weights/mmaudio_small_16k.pth"), Path("ext_weights/v1-16.pth"),
                             Path("ext_weights/best_netG.pt"), "16k"),
    "small_44k": ModelConfig(Path("weights/mmaudio_small_44k.pth"), Path("ext_weights/v1-44.pth"), None, "44k"),
}

def generate(clip_video, sync_video, text, *, negative_text=None, feature_utils, net, fm, rng, cfg_strength):
    assert not feature_utils.training and not net.training and torch.is_inference_mode_enabled()
    assert (fm.args, cfg_strength, negative_text) == ((0, "euler", 25), 4.5, ["music"])
    assert feature_utils.dtype == torch.bfloat16 and rng.device == feature_utils.device
    assert clip_video.shape == (1, net.clip_seq_len, 3, 384, 384) and 0 <= clip_video.min()
    assert sync_video.shape[2:] == (3, 224, 224) and -1 <= sync_video.min() and sync_video.max() <= 1
    frames = sync_video.shape[1]
    assert ((frames - 16) // 8 + 1) * 8 == net.sync_seq_len, "features and tokens of one duration"
    rate, hop = (16000, 256) if net.weight[0] == 16 else (44100, 512)
    times = torch.arange(net.latent_seq_len * 2 * hop) / rate
    level = (sync_video[0].mean(dim=(1, 2, 3)) + 1) / 2
    sound = 0.4 * level[(times * 25).long().clamp(max=frames - 1)] * (1 if text == ["a drum"] else 0.5)
    return (sound + 0.01 * torch.rand(sound.shape, generator=rng))[None, None]
""",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def vaura_checkout(folder: Path) -> Path:
    """A checkout, beside it the experiment and the video features."""
    hparams = {"learning_rate": 1e-5, "feature_extractor_config": {"target": "x", "params": {"ckpt_path": "theirs"}}}
    experiment = "logs/24-08-01T08-34-26"
    files = {
        "models/vaura_model.py": VAURA,
        "utils/utils.py": VAURA_UTILS,
        f"{experiment}/checkpoints/epoch=1-val_loss=5.0.ckpt": "checkpoint",
        f"{experiment}/lightning_logs/hparams.yaml": yaml.safe_dump(hparams),
        "epoch_best.pt": "avclip",
    }
    return write(folder, files)


def vaura_arguments(checkout: Path) -> list[str]:
    return [
        "vaura", "--checkout", str(checkout), "--experiment", str(checkout / "logs/24-08-01T08-34-26"),
        "--avclip", str(checkout / "epoch_best.pt"), "--device", "cpu",
    ]  # fmt: skip


def mmaudio_package(folder: Path) -> Path:
    """A folder to be searched for packages."""
    return write(folder, {f"mmaudio/{name}": text for name, text in MMAUDIO.items()})


def mmaudio_weights(folder: Path) -> Path:
    """The files of the small variants, as the authors' scripts download them into a checkout."""
    names = ("v1-16.pth", "v1-44.pth", "best_netG.pt", "synchformer_state_dict.pth")
    write(folder, {f"ext_weights/{name}": name for name in names})
    (folder / "weights").mkdir()
    for khz in (16, 44):
        torch.save({"weight": torch.full((3,), float(khz))}, folder / "weights" / f"mmaudio_small_{khz}k.pth")
    return folder


def hub_cache(folder: Path) -> Path:
    """A cache of the hub with what the package takes from there."""
    for name, file in (
        ("apple/DFN5B-CLIP-ViT-H-14-384", "open_clip_config.json"),
        ("nvidia/bigvgan_v2_44khz_128band_512x", "config.json"),
    ):
        place = folder / f"models--{name.replace('/', '--')}"
        write(place, {"refs/main": "abc", f"snapshots/abc/{file}": "{}"})
    return folder
