"""What happens before a command runs: which packages are imported, which names are known, what stays silent."""

import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.command_line.startup import OWN_PACKAGES, import_own_modules, keep_console_clear
from tests.processes import run_ranks

pytestmark = pytest.mark.gate

ROOT = Path(__file__).parents[3]


def run(code: str) -> str:
    """What ``code`` prints in a process of its own, which must succeed."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """One process that starts as the command does, then without the optional libraries, and looks at itself."""
    said = run("""
import json
import sys

def transformers_modules():
    return [name for name in sys.modules if name.startswith("transformers")]

from lightning_modules.command_line.startup import import_own_modules, import_torchmetrics
import_torchmetrics()
seen = {"torchmetrics": "torchmetrics" in sys.modules}
import lightning.pytorch
seen["with_lightning"] = transformers_modules()
missing = ("av", "torchvision", "cv2", "speechmos", "litdata")
for name in [name for name in sys.modules if name.partition(".")[0] in missing]:
    del sys.modules[name]
sys.modules |= dict.fromkeys(missing)  # as if they were not installed
import_own_modules()
seen["all"] = sorted(name for name, module in sys.modules.items() if module is not None)
import torchmetrics.text
from transformers import AutoModel
seen["auto_model"] = AutoModel is not None
import_torchmetrics()
import transformers
seen["stays"] = transformers.AutoModel is AutoModel
print(json.dumps(seen))
""")
    return json.loads(said.splitlines()[-1])


def test_lightning_loads_without_transformers_which_stays_importable(seen):
    """Fails when torchmetrics takes more from transformers than our stand-in has: it would then be imported."""
    assert seen["torchmetrics"], "torchmetrics needs other names of transformers than it did"
    assert seen["with_lightning"] == [], "imported"
    assert seen["auto_model"]
    assert seen["stays"], "once it is there it stays"


def test_a_torchmetrics_that_needs_more_gets_the_real_transformers():
    run("""
import sys
from lightning_modules.command_line import startup
startup.NAMES_TORCHMETRICS_TAKES = ("AutoModel",)
startup.import_torchmetrics()
assert not {"torchmetrics", "transformers"} & set(sys.modules), "half imported"
import torchmetrics.text
assert sys.modules["transformers"].__file__, "the real one"
""")


def test_every_module_of_ours_is_imported():
    import_own_modules()
    for package in OWN_PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            assert name in sys.modules or name.endswith("__main__")


def test_without_pyav_all_but_media_is_imported(seen):
    """An experiment that reads no files can then be run."""
    assert "components.media.reader" not in seen["all"]
    assert {"lightning_modules.syncphony.module", "callbacks.cyclesync", "components.media.clock"} <= set(seen["all"])


def test_without_the_libraries_of_the_extras_all_but_inception_is_imported(seen):
    """``pip install -e .`` gives a command that runs."""
    assert "components.metrics.video.inception_net" not in seen["all"]
    needed = {"components.metrics.video.inception", "components.metrics.video.optical_flow"}
    assert needed <= set(seen["all"])


def test_another_missing_library_is_not_passed_over():
    (ended,) = run_ranks(import_without_einops, (), 1)
    assert ended.status == 0, ended.said


def import_without_einops():
    """In a process that has imported all, and now imports our modules anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN_PACKAGES]:
        del sys.modules[name]
    sys.modules["einops"] = None
    with pytest.raises(ModuleNotFoundError, match="einops"):
        import_own_modules()


def test_advertisements_are_dropped_and_news_are_kept(caplog):
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with warnings.catch_warnings():
        keep_console_clear()
        with caplog.at_level(logging.INFO, logger=logger.name):
            logger.info("Tip: For seamless cloud logging")
            logger.info("`Trainer.fit` stopped")
        assert [record.getMessage() for record in caplog.records] == ["`Trainer.fit` stopped"]
