"""Keeps transformers out of start-up: help and error messages should not wait for a model library."""

import sys
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
