import hashlib

import lightning as L

from callbacks.run_record import config_sha256, config_text, run_folder, seed, versions


def test_a_run_folder_is_where_the_logger_writes(tmp_path):
    plain = L.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    assert run_folder(plain) == tmp_path
    logger = L.pytorch.loggers.CSVLogger(tmp_path, "name", version=3)
    assert run_folder(L.Trainer(accelerator="cpu", logger=logger)) == tmp_path / "name/version_3"
    assert run_folder(L.Trainer(accelerator="cpu", fast_dev_run=True)) is None


def test_configuration_and_its_hash_are_of_the_file(tmp_path):
    assert config_text(tmp_path) is None and config_sha256(tmp_path) is None
    (tmp_path / "config.yaml").write_bytes(b"a: 1\n")
    assert config_text(tmp_path) == "a: 1\n"
    assert config_sha256(tmp_path) == hashlib.sha256(b"a: 1\n").hexdigest()


def test_seed_is_what_was_given(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert seed() is None
    L.seed_everything(12)
    assert seed() == 12


def test_versions_name_what_numbers_depend_on():
    import torch

    assert versions()["torch"] == torch.__version__.partition("+")[0] or versions()["torch"] == torch.__version__
    assert {"python", "avsync", "lightning", "av"} <= set(versions())
