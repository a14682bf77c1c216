"""Keeps transformers out of start-up: help and error messages should not wait for a model library.

Keeps what a person cannot act on off the screen.

Imports every part, so that configurations may name classes by their short names.
"""

import importlib
import logging
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_transformers() -> Iterator[None]:
    """Import Lightning without importing transformers.

    Lightning imports torchmetrics, whose BERTScore takes two names from transformers as soon as that package is
    installed: about half a second of every start, for a metric of texts. Inside this context those two names
    come from an empty stand-in; afterwards ``import transformers`` finds the real package. Only BERTScore notices.
    """
    if "transformers" in sys.modules or "torchmetrics" in sys.modules:
        yield
        return
    stand_in = ModuleType("transformers")
    vars(stand_in).update(AutoModel=None, AutoTokenizer=None)
    sys.modules["transformers"] = stand_in
    try:
        yield
    finally:
        del sys.modules["transformers"]


def keep_console_clear() -> None:
    """Drops Lightning's advertisements and a deprecation warning that is between Lightning and torch alone."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*")


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in record.getMessage()


PLUGIN_PACKAGES = ("lightning_modules", "datamodules", "components", "callbacks")


def import_plugins() -> None:
    """Imports all modules of the four packages; classes from elsewhere are named by their full path."""
    for root in PLUGIN_PACKAGES:
        package = importlib.import_module(root)
        for module in pkgutil.walk_packages(package.__path__, f"{root}."):
            if not module.name.endswith(".__main__"):
                importlib.import_module(module.name)
