"""Keeps what a person cannot act on off the screen."""

import logging
import warnings


def keep_console_clear() -> None:
    """Drops Lightning's advertisements and a deprecation warning that is between Lightning and torch alone."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*")


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in record.getMessage()
