"""The error that a user sees as one message."""


class UserError(Exception):
    """A mistake of the user's or a fault of the input: shown as one message, without a traceback.

    The message says what was found, what was expected, where, and what to do.
    """
