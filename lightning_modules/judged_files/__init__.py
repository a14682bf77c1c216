"""Generated files in place of a model: read back and judged as if they had just been made."""

from lightning_modules.judged_files.module import GeneratedFiles

__all__ = ["GeneratedFiles"]
