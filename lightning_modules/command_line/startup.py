"""What happens before a command: our packages first, the user's folder last, no slow import, nothing idle on screen.

Imports the standard library alone, so that nothing of a user's can be taken for ours before it has run.
"""

import importlib
import logging
import pkgutil
import sys
import warnings
from pathlib import Path
from types import ModuleType

HOME = Path(__file__).resolve().parents[2]
"""The folder avsync is installed in: a checkout, or ``site-packages``."""

OWN_PACKAGES = ("lightning_modules", "datamodules", "components", "callbacks")


def own_packages_first() -> None:
    """Our packages are those of this installation, and the working directory comes last on the search path.

    Python itself puts the working directory first for ``python -m``, and so does ``PYTHONPATH=.``: a folder named
    ``callbacks`` there would be taken for ours. Put last, it still gives configurations the user's own modules.
    Processes that start others pass the path on, or come by here themselves.
    """
    before = list(sys.path)
    sys.path.insert(0, str(HOME))
    try:
        # A package that has been imported is not searched for again, and its modules only in its own folder.
        for name in OWN_PACKAGES:
            importlib.import_module(name)
    finally:
        sys.path[:] = before
    here = Path.cwd().resolve()
    if here != HOME:  # in a checkout the working directory is our own place
        sys.path[:] = [*(entry for entry in before if Path(entry).resolve() != here), str(here)]


NAMES_TORCHMETRICS_TAKES = ("AutoModel", "AutoTokenizer")


def import_torchmetrics() -> None:
    """Imports torchmetrics, which Lightning needs, without transformers: several seconds of every start.

    Relies on this: with transformers installed, torchmetrics' metrics of texts take two names from it while they are
    imported, and use them only when such a metric is built, which we never do. Those names come from a stand-in;
    afterwards ``import transformers`` finds the real package. Where torchmetrics needs more, it gets the real package.
    """
    if "transformers" in sys.modules or "torchmetrics" in sys.modules:
        return
    stand_in = ModuleType("transformers")
    # None in place of classes: any use of them fails loudly
    vars(stand_in).update(dict.fromkeys(NAMES_TORCHMETRICS_TAKES))
    sys.modules["transformers"] = stand_in
    try:
        importlib.import_module("torchmetrics")
    except (ImportError, AttributeError, TypeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]:
            del sys.modules[name]  # half imported; Lightning will import it anew
    finally:
        del sys.modules["transformers"]


def keep_console_clear() -> None:
    """Drops Lightning's advertisements, and what is between Lightning and torch, or diffusers and torchao, alone."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*")
    logging.getLogger("diffusers.quantizers.torchao.torchao_quantizer").setLevel(logging.ERROR)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in record.getMessage()


OPTIONAL = ("av", "torchvision")
"""Libraries without which a part of our modules is missing: PyAV for media files, torchvision for Inception."""


def import_own_modules() -> None:
    """Imports all modules of our packages: the parser knows a class by its short name only once it is imported.

    Where one of the `OPTIONAL` libraries is missing, so are the modules that are made of it; everything else runs.
    """
    for root in OWN_PACKAGES:
        package = importlib.import_module(root)
        for module in pkgutil.walk_packages(package.__path__, f"{root}."):
            if module.name.endswith(".__main__"):
                continue
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if str(error.name).partition(".")[0] not in OPTIONAL:
                    raise
