"""Imports every part, so that configurations may name classes by their short names."""

import importlib
import pkgutil

PLUGIN_PACKAGES = ("lightning_modules", "datamodules", "components", "callbacks")


def import_plugins() -> None:
    """Imports all modules of the four packages; classes from elsewhere are named by their full path."""
    for root in PLUGIN_PACKAGES:
        package = importlib.import_module(root)
        for module in pkgutil.walk_packages(package.__path__, f"{root}."):
            if not module.name.endswith(".__main__"):
                importlib.import_module(module.name)
