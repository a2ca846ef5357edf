"""Dead letters that are to land after all: the same rules, the same tables, one transaction."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import psycopg

from sync_bridge.inbound.decoder import Decoder
from sync_bridge.inbound.domain import Partition, Refused, Tally
from sync_bridge.inbound.store import Store
from sync_bridge.ledger import conservation, settlement
from sync_bridge.ledger.settlement import Content, Letter, Selection

# Letters of one transaction: the worker's own commits wait for it.
LETTERS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class _Record:
    """A buried record, as the client library once handed it out."""

    letter: Letter
    content: Content

    def topic(self) -> str:
        return self.letter.topic

    def partition(self) -> int:
        return self.letter.partition or 0

    def offset(self) -> int:
        return self.letter.position

    def key(self) -> bytes | None:
        return self.content.key

    def value(self) -> bytes | None:
        return self.content.payload

    def headers(self) -> list[tuple[str, bytes | None]]:
        return self.content.headers

    def timestamp(self) -> tuple[int, int]:
        time = self.letter.record_time
        return 1, int(time.timestamp() * 1000) if time else 0


@dataclass(slots=True)
class Replayed:
    landed: int = 0
    duplicates: int = 0
    # Outward: back in the outbox, for the gate to look at; and of no use any more, for there is a newer state.
    sent_again: int = 0
    superseded: int = 0
    failed: list[Letter] = field(default_factory=list)
    # Behind which letter the rest of the selection waits; 0: there is no rest.
    next_after_id: int = 0


def replay(store: Store, decoder: Decoder, selection: Selection, after_id: int = 0) -> Replayed:
    """Land the next letters of the selection, in the order of their records.

    Idempotent: a settled letter is not selected again, and an event that is there already is not doubled.
    """
    outcome = Replayed()
    with store.transaction() as connection:
        letters = settlement.lock(connection, selection, after_id, LETTERS_MAX)
        taken: dict[tuple[str, str, int, datetime], int] = {}
        tallies: dict[Partition, Tally] = {}
        for letter, content in letters:
            record = _Record(letter, content)
            if letter.direction == "outward":
                _send_again(connection, letter, outcome)
                continue
            try:
                landed = _land(store, decoder, record)
            except Refused as refused:
                outcome.failed.append(
                    settlement.fail_again(connection, letter.dead_letter_id, refused.cause, refused.detail)
                )
                continue
            settlement.settle_replayed(connection, letter.dead_letter_id)
            outcome.landed += landed
            outcome.duplicates += 1 - landed
            place = conservation.place_of(record)
            taken[place] = taken.get(place, 0) - 1
            tally = tallies.setdefault((letter.topic, record.partition()), Tally())
            tally.landed += landed
            tally.duplicates += 1 - landed
        conservation.change(connection, taken)
        # Last, as when records land: whoever locks in one order does not lock the other out.
        store.recount(tallies)
    if len(letters) == LETTERS_MAX:
        outcome.next_after_id = letters[-1][0].dead_letter_id
    return outcome


def _send_again(connection: psycopg.Connection, letter: Letter, outcome: Replayed) -> None:
    """Put what the letter holds into the outbox, behind nothing that is newer. The gate has the last word again."""
    ((became,),) = connection.execute("SELECT bridge.send_again(%s)", (letter.dead_letter_id,)).fetchall()
    if became == "sent":
        outcome.sent_again += 1
    elif became == "superseded":
        outcome.superseded += 1
    else:
        detail = "a newer state of the same key waits in the outbox, and settles this letter when it is sent"
        outcome.failed.append(settlement.fail_again(connection, letter.dead_letter_id, letter.cause, detail))


def _land(store: Store, decoder: Decoder, record: _Record) -> int:
    """Rows that landed: 1, or 0 when the event is there already. Raises Refused."""
    try:
        table = decoder.table(record.topic())
    except KeyError:
        raise Refused("NOT_INWARD", f"no event of the contract comes inward by {record.topic()}") from None
    payload, trace_id = decoder.admit(record)
    values = table.values(payload, trace_id, record.partition(), record.offset())
    return store.land_one(table, values, record)
