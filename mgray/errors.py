"""The one error type that means: the user's input or configuration is wrong. And how its line lists names."""

from collections.abc import Sequence


class InputError(ValueError):
    """A user's mistake: what is wrong, where, how to mend it, in one line. A job prints it and exits with 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class NotTrainableError(InputError):
    """A log that can be scored but not trained on: rules or split leave a part without events."""


def first_few(names: Sequence[str], limit: int) -> str:
    """The first `limit` names, and `, ...` where there are more."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
