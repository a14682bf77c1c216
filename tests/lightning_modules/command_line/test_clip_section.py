"""The section ``clip``: said once, kept when the data set is exchanged, and nowhere else."""

from pathlib import Path

import pytest
import yaml

from lightning_modules.command_line.cli import main
from tests.public_folders.avsync15 import write_avsync15

QUICKSTART = ["--config", "configs/quickstart.yaml"]


def printed(options: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["fit", *options, "--print_config"]) == 0
    found: dict[str, object] = yaml.safe_load(capsys.readouterr().out)
    return found


def refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["fit", *options]) == 2
    return capsys.readouterr().err


def test_later_files_and_options_change_single_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("clip: {fps: 12.0}\n")
    clip = printed([*QUICKSTART, "--config", str(tmp_path / "mine.yaml"), "--clip.width=48"], capsys)["clip"]
    wanted = {"num_frames": 49, "fps": 12.0, "height": 32, "width": 48, "sample_rate": 16000, "min_frames": None}
    assert clip == wanted


def test_a_printed_configuration_says_it_once_and_is_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = printed([*QUICKSTART, "--clip.fps=12"], capsys)
    assert "clip" not in first["data"]["init_args"]
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(first))
    assert printed(["--config", str(tmp_path / "again.yaml")], capsys) == first


def test_another_data_set_keeps_the_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quickstart's model, trained for a step on clips of AVSync15 as the quickstart describes clips."""
    write_avsync15(tmp_path / "AVSync15", num_train=4, num_test=1, height=64, width=128, seconds=3.0)
    shapes = []
    from lightning_modules.syncphony import SyncphonyModule

    real = SyncphonyModule.training_step

    def noting(self, batch, batch_idx):
        shapes.append(tuple(batch.video.shape[1:]))
        return real(self, batch, batch_idx)

    monkeypatch.setattr(SyncphonyModule, "training_step", noting)
    options = [
        "--data=datamodules.avsync15.AVSync15",
        f"--data.root={tmp_path / 'AVSync15'}",
        *("--data.batch_size=4", "--data.num_workers=0", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"),
        *("--callbacks=null", f"--trainer.default_root_dir={tmp_path / 'runs'}"),
    ]
    assert main(["fit", *QUICKSTART, *options]) == 0
    assert shapes == [(49, 3, 32, 32)]


def test_the_sets_of_a_mixture_keep_the_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sets in a file, of which an option changes one; a step of training on each."""
    write_avsync15(tmp_path / "AVSync15", num_train=4, num_test=1, height=64, width=128, seconds=3.0)
    sets = {
        name: {"class_path": "datamodules.avsync15.AVSync15", "init_args": {"root": str(tmp_path / root)}}
        for name, root in (("one", "AVSync15"), ("other", "nowhere"))
    }
    arguments = {"sets": sets, "weights": {"one": 1, "other": 1}, "batch_size": 4, "num_workers": 0}
    mixture = {"data": {"class_path": "datamodules.mixture.Mixture", "init_args": arguments}}
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump(mixture))
    options = [*QUICKSTART, "--config", str(tmp_path / "mixture.yaml")]
    assert "data.sets.other.root: " in refused(options, capsys)
    seen = []
    from lightning_modules.syncphony import SyncphonyModule

    real = SyncphonyModule.training_step

    def noting(self, batch, batch_idx):
        seen.append((batch.ids[0].split("/")[0], tuple(batch.video.shape[1:])))
        return real(self, batch, batch_idx)

    monkeypatch.setattr(SyncphonyModule, "training_step", noting)
    options += [
        f"--data.sets.other.root={tmp_path / 'AVSync15'}",
        *("--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--callbacks=null"),
        f"--trainer.default_root_dir={tmp_path / 'runs'}",
    ]
    assert main(["fit", *options]) == 0
    assert {name for name, _ in seen} == {"one", "other"} and {shape for _, shape in seen} == {(49, 3, 32, 32)}


def test_the_old_places_name_the_new_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "set clip.num_frames" in refused([*QUICKSTART, "--data.num_frames=25"], capsys)
    (tmp_path / "old.yaml").write_text("data: {init_args: {fps: 12.0}}\n")
    assert "set clip.fps" in refused([*QUICKSTART, "--config", str(tmp_path / "old.yaml")], capsys)


def test_clips_of_the_data_set_alone_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The link from ``clip`` would silently win over them."""
    assert "use --clip.fps" in refused([*QUICKSTART, "--data.clip.fps=12"], capsys)
    assert "use --clip.fps" in refused([*QUICKSTART, "--data.init_args.clip.fps=12"], capsys)
    (tmp_path / "mine.yaml").write_text("data: {init_args: {clip: {fps: 12.0}}}\n")
    message = refused([*QUICKSTART, "--config", str(tmp_path / "mine.yaml")], capsys)
    assert "mine.yaml: data.init_args.clip" in message and "move it to a section 'clip'" in message


def test_a_data_set_that_takes_no_clip_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused([*QUICKSTART, "--data=lightning.pytorch.demos.boring_classes.BoringDataModule"], capsys)
    assert "BoringDataModule takes no clip" in message
