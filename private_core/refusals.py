"""What the rules of the private core refuse, by kind. Standard library only, so that any domain may raise them."""


class Refusal(Exception):
    """A rule says no.

    reason: UPPER_SNAKE, for programs. message: for people, without personal data. remedy: what to do.
    """

    def __init__(self, reason: str, message: str, remedy: str = "") -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.remedy = remedy


class Malformed(Refusal):
    """No state of the world would make this right."""


class Absent(Refusal):
    """There is no such thing, or none that the caller may know of."""


class Forbidden(Refusal):
    """The caller may not do this."""


class WrongState(Refusal):
    """It may be right at another time."""


class Busy(Refusal):
    """Somebody else is at it. The same call may succeed in a moment, so this is no answer to keep."""


class Duplicate(Refusal):
    """There is one already."""
