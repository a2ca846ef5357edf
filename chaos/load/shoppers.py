"""The customers of the transaction file: each registers once, then buys in the order of the file."""

import asyncio
from collections.abc import Mapping, Sequence

from chaos.load.outcomes import CallFailed
from chaos.load.pace import Pace
from chaos.load.storefront import Storefront
from chaos.load.transactions import Purchase


async def play_purchases(
    storefront: Storefront, customers: Mapping[str, Sequence[Purchase]], pace: Pace, at_once: int
) -> None:
    """Every customer once, `at_once` at a time. What fails is counted by the storefront, and the rest goes on."""
    waiting = iter(enumerate(customers.items()))

    async def shopper() -> None:
        for number, (customer, purchases) in waiting:
            await _shop(storefront, customer, number, purchases, pace)

    async with asyncio.TaskGroup() as shoppers:
        for _ in range(at_once):
            shoppers.create_task(shopper())


async def _shop(storefront: Storefront, customer: str, number: int, purchases: Sequence[Purchase], pace: Pace) -> None:
    try:
        member_id = await storefront.register(customer, number)
    except CallFailed:
        pace.purchases.done += len(purchases)
        return
    for purchase in purchases:
        try:
            await storefront.buy(member_id, purchase)
        except CallFailed:
            continue
        finally:
            pace.purchases.done += 1
