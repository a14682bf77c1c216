"""What happens before a command runs: which packages are imported, which names are known, what stays silent."""

import logging
import subprocess
import sys
import warnings
from pathlib import Path

from lightning_modules.command_line.startup import PLUGIN_PACKAGES, import_plugins, keep_console_clear

ROOT = Path(__file__).parents[3]


def test_lightning_loads_without_transformers_which_stays_importable():
    code = """
import sys
from lightning_modules.command_line.startup import without_transformers
with without_transformers():
    import lightning.pytorch
assert not any(name.startswith("transformers") for name in sys.modules), "imported"
import torchmetrics.text
from transformers import AutoModel
assert AutoModel is not None
with without_transformers():
    import transformers
assert transformers.AutoModel is AutoModel, "once it is there it stays"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_every_module_of_the_packages_is_a_plug_in():
    import_plugins()
    for package in PLUGIN_PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            assert name in sys.modules or name.endswith("__main__")


def test_advertisements_are_dropped_and_news_are_kept(caplog):
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with warnings.catch_warnings():
        keep_console_clear()
        with caplog.at_level(logging.INFO, logger=logger.name):
            logger.info("Tip: For seamless cloud logging")
            logger.info("`Trainer.fit` stopped")
        assert [record.getMessage() for record in caplog.records] == ["`Trainer.fit` stopped"]
