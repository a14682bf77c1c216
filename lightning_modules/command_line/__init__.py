"""The command ``avsync``: configuration files, start-up, and errors in one sentence."""
