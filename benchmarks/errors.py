"""The two ways a run ends early that are not a fault of the program."""


class UserError(Exception):
    """Something the user can put right; shown as one line, exit code 2."""


class InterruptedRunError(Exception):
    """Ctrl-C; the message says what is kept; exit code 130."""
