"""Whose fault it is: one exception class per kind of blame.

An `InputError` is the user's to mend; the command line prints its sentence and exits with status 2. Anything else that
escapes is a bug of ours and prints a traceback.
"""


class InputError(Exception):
    """What the user gave cannot be used.

    The sentence names the place (file, row or feature), what was expected, what was found, and what to do.
    """

    status = 2


class ResourceError(Exception):
    """The machine cannot do what was asked: a full disk, a store that another process is writing."""

    status = 1
