"""Aesthetic and imaging quality: the public files' keys, the heads by hand, and which frames are rated."""

import pytest
import torch

from components.errors import InputError
from components.metrics.video.aesthetic_quality import AestheticPredictorV25, LaionAesthetics, ScoringHead
from components.metrics.video.imaging_quality import ImagingQuality
from components.metrics.video.musiq import Musiq, MusiqShape
from tests.components.metrics.video.clips import generation, noise, saved, vision_folder

pytest.importorskip("torchvision")
SHAPE = MusiqShape(width=24, mlp_width=32, heads=2, layers=1, longer_sides=(64, 96))


def values(judge, clips, rows=(0,)):
    return [next(iter(score.values.values())) for score in judge.score(clips, rows)]


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return vision_folder(tmp_path_factory.mktemp("siglip"), "siglip")


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """The head in the form of the public file."""
    torch.manual_seed(1)
    net = ScoringHead(32)
    file = tmp_path_factory.mktemp("head") / "aesthetic_predictor_v2_5.pth"
    torch.save(net.state_dict(), file)
    return str(file)


def test_the_head_has_the_public_keys():
    """As ``scoring_head.N``, where dropouts take the odd numbers."""
    with torch.device("meta"):
        found = {key: tuple(value.shape) for key, value in ScoringHead(1152).state_dict().items()}
    widths = (1152, 1024, 128, 64, 16, 1)
    assert found == {
        f"scoring_head.{2 * i}.{part}": shape
        for i in range(5)
        for part, shape in (("weight", (widths[i + 1], widths[i])), ("bias", (widths[i + 1],)))
    }


def test_aesthetic_quality_by_hand(siglip, head):
    """SigLIP's pooled embedding at unit length through five linear layers, a tenth of the mean over frames."""
    import transformers as hf

    video = noise(1, 3, 40, 56)
    found = values(AestheticPredictorV25(head, siglip, frames_at_once=2), generation(video))[0]
    front_end = hf.AutoImageProcessor.from_pretrained(siglip)
    pixels = front_end(images=list((255 * video[0]).round().byte()), return_tensors="pt")["pixel_values"]
    state = torch.load(head, weights_only=True)
    with torch.no_grad():
        rated = torch.nn.functional.normalize(hf.SiglipModel.from_pretrained(siglip).vision_model(pixels).pooler_output)
        for i in (0, 2, 4, 6, 8):
            rated = rated @ state[f"scoring_head.{i}.weight"].T + state[f"scoring_head.{i}.bias"]
    assert found == pytest.approx(rated.mean().item() / 10, abs=1e-6)


def test_laion_by_hand(tmp_path):
    """CLIP's projected embedding at unit length through one linear layer, a tenth of the mean over frames."""
    import transformers as hf

    folder = vision_folder(tmp_path / "clip", "clip")
    state = {"weight": torch.randn(1, 20), "bias": torch.randn(1)}
    torch.save(state, tmp_path / "sa_0_4_vit_l_14_linear.pth")
    video = noise(1, 3, 40, 56)
    judge = LaionAesthetics(str(tmp_path / "sa_0_4_vit_l_14_linear.pth"), folder)
    (score,) = judge.score(generation(video), [0])
    front_end = hf.AutoImageProcessor.from_pretrained(folder)
    pixels = front_end(images=list((255 * video[0]).round().byte()), return_tensors="pt")["pixel_values"]
    clip = hf.CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        projected = clip.visual_projection(clip.vision_model(pixels).pooler_output)
    rated = torch.nn.functional.normalize(projected) @ state["weight"].T + state["bias"]
    assert score.values == {"aesthetic_quality_laion": pytest.approx(rated.mean().item() / 10, abs=1e-6)}


def test_frames_are_rated_at_a_rate_and_alone(siglip, head):
    clips = generation(noise(2, 6, 40, 40), fps=12.0)
    every, some = AestheticPredictorV25(head, siglip), AestheticPredictorV25(head, siglip, rate_hz=6.0)
    picked = generation(clips.video[:, ::2], fps=6.0)
    assert values(some, clips, [1, 0]) == pytest.approx(values(every, picked, [1, 0]), abs=1e-6)
    assert values(every, clips, [1])[0] == pytest.approx(values(every, clips, [0, 1])[1], abs=1e-6)
    assert values(every, clips) != pytest.approx(values(some, clips), abs=1e-6)
    assert every.identity() != some.identity()


def test_files_that_do_not_fit_are_told(siglip, head, tmp_path):
    with pytest.raises(InputError, match=r"AestheticPredictorV25.head: .* is no file on this disk; download https://"):
        AestheticPredictorV25(str(tmp_path / "absent.pth"), siglip)
    with pytest.raises(InputError, match="SHA-256"):
        AestheticPredictorV25(head, siglip, head_sha256="0" * 64)
    torch.save(ScoringHead(40).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(InputError, match=r"scoring_head.0.weight"):
        AestheticPredictorV25(str(tmp_path / "wide.pth"), siglip)
    with pytest.raises(InputError, match="rate_hz is 0; it must be positive"):
        AestheticPredictorV25(head, siglip, rate_hz=0)
    with pytest.raises(InputError, match=r"ImagingQuality.weights: .* download musiq_spaq"):
        ImagingQuality(str(tmp_path / "absent.pth"))


@pytest.fixture(scope="module")
def musiq(tmp_path_factory):
    torch.manual_seed(2)
    net = Musiq(SHAPE)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return saved(net, tmp_path_factory.mktemp("musiq") / "musiq.safetensors")


def test_imaging_quality_is_a_hundredth_of_the_mean_rating(musiq):
    clips = generation(noise(2, 3, 60, 80))
    judge = ImagingQuality(musiq, shape=SHAPE)
    with torch.no_grad():
        ratings = [judge.net(frame).item() for frame in clips.video[1]]
    assert values(judge, clips, [0, 1])[1] == pytest.approx(sum(ratings) / 3 / 100, rel=1e-5)
    assert values(judge, clips, [1])[0] == values(judge, clips, [0, 1])[1]


def test_large_pictures_are_shrunk_first(musiq):
    """128 x 96 to a longest side of 64; smaller ones are left as they are."""
    clips = generation(noise(1, 1, 128, 96))
    shrunk = ImagingQuality(musiq, longest_side=64, shape=SHAPE)
    small = torch.nn.functional.interpolate(clips.video[0], (64, 48), mode="bilinear", align_corners=False)
    as_it_is = ImagingQuality(musiq, longest_side=None, shape=SHAPE)
    assert values(shrunk, clips) == pytest.approx(values(as_it_is, generation(small[None])), abs=1e-6)
    assert values(as_it_is, clips) != pytest.approx(values(shrunk, clips), abs=1e-6)
    assert values(ImagingQuality(musiq, longest_side=128, shape=SHAPE), clips) == values(as_it_is, clips)
