"""The one exception class whose message is meant for the person at the keyboard."""

from typing import Literal, get_args

Fault = Literal[
    "unreadable",
    "shorter than a clip",
    "without sound",
    "with holes in the sound",
    "silent",
    "with more words than a clip",
]
"""What is wrong with a recording that cannot be used, in the words in which they are counted."""
FAULTS: tuple[Fault, ...] = get_args(Fault)


class InputError(ValueError):
    """Something the user gave (file, key, number) cannot be used.

    The message is one sentence that names the file or key, the value found and the fix.
    The command line prints it without a traceback and exits with status 2.

    Args:
        message: the sentence.
        fault: what is wrong with the recording, where one cannot be used.
    """

    def __init__(self, message: object, fault: Fault = "unreadable") -> None:
        super().__init__(message)
        self.fault: Fault = fault
