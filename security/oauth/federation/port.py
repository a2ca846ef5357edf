"""What the pages need of an identity provider, whichever protocol it speaks."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

# How far the clocks of a provider and of this server may differ.
CLOCK_SKEW_S: Final = 60


class AwayError(Exception):
    """The provider did not answer, or not in a form that can be read. Says what, for the log."""


class NotProvenError(Exception):
    """What came back proves nobody. rule: which rule it broke, for the log and the audit record."""

    def __init__(self, rule: str, detail: str = "") -> None:
        super().__init__(f"{rule}: {detail}" if detail else rule)
        self.rule = rule


@dataclass(frozen=True)
class Secrets:
    """What one round trip is known by. The first two travel with the browser; the third never leaves this server."""

    state: str
    nonce: str
    # RFC 7636, section 4.1.
    verifier: str


@dataclass(frozen=True)
class Wanted:
    """What is asked of the sign-in there. age_s_max: how long ago it may have been; None for any time."""

    started_s: int
    age_s_max: int | None = None


@dataclass(frozen=True)
class Person:
    """Whom a provider has signed in. authority: who says so, and for whom `subject` is one person, for good."""

    authority: str
    subject: str
    # None: the provider does not say.
    signed_in_at: datetime | None


class Provider(Protocol):
    """One identity provider. Both methods have deadlines of their own."""

    @property
    def titles(self) -> Mapping[str, str]:
        """What people call it, by language."""

    async def address(self, secrets: Secrets, wanted: Wanted) -> str:
        """Where to send the browser. AwayError when that cannot be known now."""

    async def person(self, answer: Mapping[str, str], secrets: Secrets, wanted: Wanted) -> Person:
        """Whom the answer proves, the query that the browser came back with. NotProvenError, AwayError."""
