"""Bad input is found behind whatever exceptions it arrives in."""

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from components.errors import InputError
from lightning_modules.command_line.broken_runs import input_error_sentence


def test_the_sentence_is_found_behind_other_exceptions():
    outer = RuntimeError("many\nlines")
    outer.__cause__ = ValueError("of a parser")
    outer.__cause__.__cause__ = InputError("lr is 9; use at most 5")
    assert input_error_sentence(outer) == "lr is 9; use at most 5"


def test_the_sentence_is_found_in_a_worker_process_traceback():
    text = (
        "Caught InputError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1, in f\n    raise InputError("a")\n'
        "components.errors.InputError: a.mp4 is empty; remove it\n"
    )
    assert input_error_sentence(InputError(text)) == "a.mp4 is empty; remove it"


def test_lightning_own_complaints_become_one_line():
    assert input_error_sentence(MisconfigurationException("no\n  loader")) == "no loader"


def test_other_exceptions_are_no_bad_input():
    assert input_error_sentence(OSError("disk")) is None
    try:
        try:
            raise InputError("recovered from")
        except InputError:
            raise OSError("disk")  # noqa: B904
    except OSError as error:
        assert input_error_sentence(error) is None
