"""Removing an account: of a member who is erased nothing stays here by which anybody signs in, or is recognised.

What they had open was ended before (`FamilyStore.end_all`); that it was, by the member's id, stays until tokens of then
have run out.
"""

from typing import Final

from sqlalchemy import Table, delete

from security.oauth.federation.store import IDENTITIES
from security.oauth.passkeys import PASSKEYS
from security.oauth.second_factor import SECOND_FACTORS
from security.oauth.session_store import CONSENTS, SESSIONS
from security.oauth.store import ACCOUNTS, CODES
from security.oauth.transactions import Transactions
from security.oauth.waiting_store import DEVICES

# The account last: the others refer to it.
_OF_A_MEMBER: Final[tuple[Table, ...]] = (
    SESSIONS,
    CONSENTS,
    PASSKEYS,
    SECOND_FACTORS,
    IDENTITIES,
    DEVICES,
    CODES,
    ACCOUNTS,
)


class Erasure:
    """Call it from a thread. Raises what Transactions does."""

    def __init__(self, transactions: Transactions) -> None:
        self._transaction = transactions.begin

    def erase(self, member_id: str) -> None:
        """Nothing is left to remove when there is no such account, or it was removed before."""
        with self._transaction() as connection:
            for table in _OF_A_MEMBER:
                connection.execute(delete(table).where(table.c.member_id == member_id))
