"""The one exception class whose message is meant for the person at the keyboard."""


class InputError(ValueError):
    """Something the user gave (file, key, number) cannot be used.

    The message is one sentence that names the file or key, the value found and the fix.
    The command line prints it without a traceback and exits with status 2.
    """
