"""Joint sampling: tasks by what is given, first frames kept, one call per step, clips that ignore their neighbours."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from components.contracts import TextFeatures, clip_generator
from components.guidance.sync_cfg import SyncCFG
from components.samplers.joint_sampler import JointConditions, JointSampler, ModalityText
from components.samplers.sampling_noise import ClipNoise
from components.schedules.flow_schedule import FlowSchedule
from tests.tiny_harmony import (
    AUDIO_CHANNELS,
    CHANNELS,
    CLOCK,
    HEIGHT,
    NUM_AUDIO,
    NUM_REFERENCE,
    NUM_VIDEO,
    TRANSCRIPT_DIM,
    WIDTH,
    text,
    tiny_harmony,
)
from tests.tiny_syncphony import generator

VIDEO, AUDIO = (CHANNELS, NUM_VIDEO, HEIGHT, WIDTH), (AUDIO_CHANNELS, NUM_AUDIO)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def conditions(rows: int = 2, image: bool = True) -> JointConditions:
    g = generator(7)
    return JointConditions(
        ModalityText(text(rows), negative=text(rows, seed=20, tokens=4)),
        ModalityText(
            text(rows, seed=21),
            text(rows, TRANSCRIPT_DIM, seed=22),
            text(rows, seed=23),
            text(rows, TRANSCRIPT_DIM, 24, 4),
        ),
        image=torch.randn(rows, CHANNELS, 1, HEIGHT, WIDTH, generator=g) if image else None,
        reference=torch.randn(rows, AUDIO_CHANNELS, NUM_REFERENCE, generator=g),
        reference_lengths=NUM_REFERENCE - torch.arange(rows) % 3,
        silence=torch.randn(AUDIO, generator=g),
        still=torch.randn(rows, *VIDEO, generator=g),
        clock=CLOCK,
    )


def pick(features: TextFeatures | None, rows: list[int]) -> TextFeatures | None:
    return None if features is None else TextFeatures(features.tokens[rows], features.mask[rows])


def only(given: JointConditions, rows: list[int]) -> JointConditions:
    def words(part: ModalityText) -> ModalityText:
        return ModalityText(*(pick(getattr(part, name), rows) for name in part.__dataclass_fields__))

    return replace(
        given,
        video_text=words(given.video_text),
        audio_text=words(given.audio_text),
        image=given.image[rows],
        reference=given.reference[rows],
        reference_lengths=given.reference_lengths[rows],
        still=given.still[rows],
    )


def noise(names: list[str], shape: tuple[int, ...], kind: str) -> torch.Tensor:
    return ClipNoise([clip_generator(f"{name} {kind}", 0) for name in names]).initial((len(names), *shape))


def starts(names: tuple[str, ...] = ("a", "b")) -> dict:
    return {"video_noise": noise(list(names), VIDEO, "video"), "audio_noise": noise(list(names), AUDIO, "audio")}


class Calls:
    """Listens to a model's forward calls."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.calls: list[dict] = []
        model.register_forward_pre_hook(lambda m, args, kwargs: self.calls.append(kwargs), with_kwargs=True)


@pytest.fixture(scope="module")
def model():
    return tiny_harmony(trained=True).requires_grad_(False)


@pytest.mark.parametrize("task", ["joint", "audio_to_video", "video_to_audio"])
def test_one_step_by_hand(model, task):
    """Every branch as a forward pass of its own, combined by the paper's formulas, one Euler step to the data."""
    given, begin = conditions(), starts()
    clean = {"video": torch.randn(2, *VIDEO), "audio": torch.randn(2, *AUDIO)}
    arguments = dict(begin)
    if task == "audio_to_video":
        arguments = {"video_noise": begin["video_noise"], "audio": clean["audio"]}
    if task == "video_to_audio":
        arguments = {"audio_noise": begin["audio_noise"], "video": clean["video"]}
    sampler = JointSampler(1, FlowSchedule("euler", 1.0), guidance=SyncCFG("text+sync", 4.0, 3.0, 2.5, 1.5))
    video, audio = sampler.sample(model, given, **arguments)

    z_v, z_a = arguments.get("video_noise"), arguments.get("audio_noise", clean["audio"])
    z_v = clean["video"] if z_v is None else torch.cat([given.image, z_v[:, :, 1:]], dim=2)
    t_v = torch.full((2,), 0.0 if "video" in arguments else 1000.0)
    t_a = torch.full((2,), 0.0 if "audio" in arguments else 1000.0)
    words, null = {"text_v": given.video_text.prompt, "text_a": given.audio_text.prompt}, torch.zeros(2)
    words["transcript"] = given.audio_text.transcript
    negatives = {"text_v": given.video_text.negative, "text_a": given.audio_text.negative}
    negatives["transcript"] = given.audio_text.negative_transcript

    def run(z_v, z_a, t_v, t_a, text):
        return model(
            z_v, z_a, given.reference, t_v=t_v, t_a=t_a, first_frame=torch.ones(2).bool(),
            ref_len=given.reference_lengths, clock=given.clock, **text,
        )  # fmt: skip

    joint, negative = run(z_v, z_a, t_v, t_a, words), run(z_v, z_a, t_v, t_a, negatives)
    silent = run(z_v, given.silence.expand(2, -1, -1), t_v, null, words)
    still = run(given.still, z_a, null, t_a, words)
    v_v = negative[0] + 4.0 * (joint[0] - negative[0]) + 1.5 * (joint[0] - silent[0])
    v_a = negative[1] + 3.0 * (joint[1] - negative[1]) + 0.5 * (joint[1] - still[1])
    if "video" in arguments:
        assert video is clean["video"]
    else:
        assert_close(video[:, :, 1:], (begin["video_noise"] - v_v)[:, :, 1:], **CLOSE)
        assert torch.equal(video[:, :, :1], given.image)
    if "audio" in arguments:
        assert audio is clean["audio"]
    else:
        assert_close(audio, begin["audio_noise"] - v_a, **CLOSE)


@pytest.mark.parametrize(
    ("guidance", "rows"), [("none", 1), ("text", 2), ("sync", 3), ("text+sync", 4)], ids=lambda value: str(value)
)
def test_one_call_per_step_with_a_row_per_branch(guidance, rows):
    model, steps = tiny_harmony(), []
    calls = Calls(model)
    JointSampler(3, guidance=SyncCFG(guidance)).sample(model, conditions(), **starts(), progress=steps.append)
    assert steps == [1, 1, 1]
    assert [len(call["z_v"]) for call in calls.calls] == [2 * rows] * 3
    image = conditions().image
    for call in calls.calls:
        assert call["first_frame"].all()
        ones = call["z_v"].chunk(rows)[: rows - ("sync" in guidance)]
        assert all(torch.equal(part[:, :, :1], image) for part in ones), "the first frame is never noisy"


def test_a_given_modality_needs_no_anchor_of_its_own():
    model, given = tiny_harmony(), conditions()
    calls, sampler = Calls(model), JointSampler(1, guidance=SyncCFG("sync"))
    sampler.sample(model, given, video_noise=starts()["video_noise"], audio=torch.randn(2, *AUDIO))
    sampler.sample(model, given, audio_noise=starts()["audio_noise"], video=torch.randn(2, *VIDEO))
    sampler.sample(model, replace(given, still=None), **starts())
    assert [len(call["z_v"]) for call in calls.calls] == [4, 4, 4]
    assert not calls.calls[0]["t_a"].any()
    assert not calls.calls[1]["t_v"].any()
    assert calls.calls[2]["t_a"].tolist() == [999, 999, 0, 0]


def test_the_window_follows_each_modalitys_own_noise_level():
    model = tiny_harmony()
    calls = Calls(model)
    guidance = SyncCFG("sync", sync_sigmas=(0.5, 1.0))
    schedules = FlowSchedule("euler", 5.0), FlowSchedule("euler", 1.0)
    JointSampler(4, *schedules, guidance).sample(model, conditions(), **starts())
    video, audio = (schedule.start(4).sigmas[:-1] >= 0.5 for schedule in schedules)
    assert [len(call["z_v"]) // 2 for call in calls.calls] == (1 + video.int() + audio.int()).tolist()
    assert video.sum() > audio.sum()


def test_a_clip_does_not_depend_on_its_batch(model):
    sampler = JointSampler(2)
    together = sampler.sample(model, conditions(), **starts())
    alone = sampler.sample(model, only(conditions(), [1]), **starts(("b",)))
    for both, one in zip(together, alone, strict=True):
        assert_close(both[1:], one, atol=1e-4, rtol=1e-3)
    assert torch.equal(starts(("b", "a"))["audio_noise"][1], starts()["audio_noise"][0])


def test_without_an_image_every_frame_is_generated(model):
    video, audio = JointSampler(2).sample(model, conditions(image=False), **starts())
    assert video.shape == (2, *VIDEO)
    assert audio.shape == (2, *AUDIO)
    assert not torch.equal(video[:, :, 0], starts()["video_noise"][:, :, 0])


def test_a_modality_alone(model):
    given = conditions()
    video, none = JointSampler(2).sample(model, replace(given, audio_text=None), video_noise=starts()["video_noise"])
    assert none is None
    assert video.shape == (2, *VIDEO)
    none, audio = JointSampler(2).sample(model, replace(given, video_text=None), audio_noise=starts()["audio_noise"])
    assert none is None
    assert audio.shape == (2, *AUDIO)


def test_guidance_of_one_call_overrides_the_samplers(model):
    sampler = JointSampler(1)
    guided, plain = sampler.sample(model, conditions(), **starts()), None
    plain = sampler.sample(model, conditions(), **starts(), guidance=SyncCFG("none"))
    assert not torch.allclose(guided[1], plain[1])


def test_any_joint_model_is_sampled():
    """A model that is no module and knows the clean latents: its velocity leads every solver there."""
    clean = {"z_v": torch.randn(2, *VIDEO), "z_a": torch.randn(2, *AUDIO)}
    clocks = []

    def oracle(z_v, z_a, *, t_v, t_a, clock, active, **_given):
        clocks.append(clock)
        assert active == ["video", "audio"]
        pairs = ((z_v, t_v, clean["z_v"]), (z_a, t_a, clean["z_a"]))
        return tuple((z - x) / (t / 1000).view(-1, *[1] * (z.ndim - 1)) for z, t, x in pairs)

    given = JointConditions(ModalityText(text(2)), ModalityText(text(2)), clock=CLOCK)
    schedule = FlowSchedule("euler", 3.0)
    video, audio = JointSampler(4, schedule, guidance=SyncCFG("none")).sample(oracle, given, **starts())
    assert_close(video, clean["z_v"], **CLOSE)
    assert_close(audio, clean["z_a"], **CLOSE)
    assert clocks == [CLOCK] * 4


def test_mistakes_are_named(model):
    sampler, given = JointSampler(1), conditions()
    with pytest.raises(ValueError, match="nothing to sample"):
        sampler.sample(model, given, video=torch.randn(2, *VIDEO))
    with pytest.raises(ValueError, match="video has both noise and latents"):
        sampler.sample(model, given, **starts(), video=torch.randn(2, *VIDEO))
    with pytest.raises(ValueError, match="negative prompts"):
        sampler.sample(model, replace(given, video_text=ModalityText(given.video_text.prompt)), **starts())
    with pytest.raises(ValueError, match="audio takes part but has no text"):
        sampler.sample(model, replace(given, audio_text=None), **starts())
    with pytest.raises(ValueError, match="num_steps is 0"):
        JointSampler(0)
