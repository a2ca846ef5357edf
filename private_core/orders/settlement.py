"""Cancels orders that nobody has paid in time, and ends a cancelling that a call left undecided: its process died, or
payments was away and nobody called again.
"""

from dataclasses import replace
from typing import Final

from mesh.logs import logger
from private_core.orders import domain
from private_core.orders.settings import UNPAID_S
from private_core.orders.store import OrderStore

# Longer than the longest deadline of a call, so that whoever began it is gone.
ABANDONED_S: Final = 10.0
_ROUND_MAX: Final = 500


class Settlement:
    """Harmless in several replicas at once, and beside the call itself."""

    def __init__(
        self,
        store: OrderStore,
        payments: domain.Payments,
        unpaid_s: float = UNPAID_S,
        abandoned_s: float = ABANDONED_S,
    ) -> None:
        self._store = store
        self._payments = payments
        self._unpaid_s = unpaid_s
        self._abandoned_s = abandoned_s
        self._log = logger("settlement")

    async def round(self) -> int:
        """End what was abandoned and what nobody has paid, as a call would; how many. Raises MeshError."""
        ended = 0
        begun = await self._store.undecided(self._abandoned_s, _ROUND_MAX)
        begun += await self._store.begin_unpaid(self._unpaid_s, _ROUND_MAX)
        for order_id, version in begun:
            order = domain.existing(await self._store.read(order_id))
            end = domain.decided(await self._payments.any_live(order_id))
            if await self._store.end_cancel(replace(order, state=end), version):
                ended += 1
                self._log.info("settled", order=order_id, state=end)
        return ended
