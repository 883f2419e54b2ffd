"""Mistakes that a user can mend, and the exit codes of commands."""

# What a command returns besides 0 and `restore.utils.signals.INTERRUPTED`: work that could not be
# finished; a mistake in what was asked.
FAILURE, MISTAKE = 1, 2


class UserError(Exception):
    """A mistake of the user: one sentence that says what is wrong, where, and what to do.

    The command line prints the sentence and exits with code 2; Python callers may catch it. Bytes
    of a file's name that are no UTF-8, which could not be printed, are escaped in it.
    """

    def __init__(self, sentence: str = ""):
        super().__init__(sentence.encode("utf-8", "backslashreplace").decode("utf-8"))


class UnreadableImage(UserError):
    """A picture file that cannot be decoded (missing, truncated, no image at all)."""

    def __init__(self, path: object, reason: object):
        super().__init__(f"cannot read the image {path}: {reason}")
        self.path = str(path)
        self.reason = str(reason)

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        # Data loader workers send exceptions between processes; the default would lose an argument.
        return type(self), (self.path, self.reason)


class Unwritable(UserError):
    """A file that cannot be written: the disk is full, read-only, or refuses for another reason."""


class RunFailure(Exception):
    """Work that could not be finished though nothing was asked wrongly: a sentence, exit code 1."""


class NonFinite(RunFailure):
    """A loss or gradient is no longer a number; raised before the optimizer could use it."""
