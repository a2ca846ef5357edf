"""Idempotency records: the first answer to an intent is stored with its effect, and given again to whoever repeats it.

An intent is who calls (the token's subject, or the peer where there is no token), which method, and the key that the
caller chose. Only its hash is stored, so a key may hold anything. The record says which body it was made with: the same
key with another body is refused. Refusals by the rules of a room are answers too, and are stored like any other.

A record is made open (no answer yet) or answered. Of two calls with one intent the later waits for the earlier one's
transaction, because both write the same primary key. An open record whose maker died is taken up by the next call.

Every room keeps its records in its own schema (`CREATE_TABLE`), so that they commit with its own data.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message
from google.rpc import status_pb2
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import current_call
from mesh.errors import AlreadyExists, Internal, MeshError, from_status
from security.audit import attached

CREATE_TABLE: Final = """
    CREATE TABLE {schema}.idempotency (
        intent bytea PRIMARY KEY,
        body bytea NOT NULL,
        -- The serialised response.
        answer bytea,
        -- The serialised google.rpc.Status.
        refusal bytea,
        created_time timestamptz NOT NULL DEFAULT now(),
        CHECK (answer IS NULL OR refusal IS NULL)
    )
"""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a caller wants, and the body it was said with. Both SHA-256."""

    id: bytes
    body: bytes

    @property
    def name(self) -> str:
        """32 hex digits that name this intent, also to others (a payment provider)."""
        return self.id.hex()[:32]

    @property
    def parameters(self) -> dict[str, Any]:
        """:intent and :body, for a statement that makes the record itself."""
        return {"intent": self.id, "body": self.body}


def intent_of(request: Message, key: str) -> Intent:
    """The intent of the call being served, named by `key`."""
    call = current_call()
    caller = f"subject {call.claims.subject}" if call.claims else f"peer {call.peer}"
    digest = hashlib.sha256()
    for part in (caller, call.method.path, key):
        encoded = part.encode()
        # With its length before it, no part can run into the next.
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return Intent(digest.digest(), hashlib.sha256(request.SerializeToString(deterministic=True)).digest())


@dataclass(frozen=True, slots=True)
class Answer:
    """How an intent ended: one of the two is set."""

    answer: bytes | None = None
    refusal: bytes | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """:answer and :refusal."""
        return {"answer": self.answer, "refusal": self.refusal}

    @property
    def audited(self) -> dict[str, str]:
        """:audit, for security.audit.attached.RECORDED: the record of the call that ends with this answer."""
        if self.refusal is None:
            return {"audit": attached.rows()}
        refused = from_status(status_pb2.Status.FromString(self.refusal))
        return {"audit": attached.rows(refused.code, refused.reason)}

    @classmethod
    def of(cls, outcome: Message | MeshError) -> "Answer":
        if isinstance(outcome, MeshError):
            return cls(refusal=outcome.to_status().SerializeToString())
        return cls(answer=outcome.SerializeToString(deterministic=True))

    def give(self) -> bytes:
        """The serialised response. Raises the refusal where it was one."""
        if self.refusal is not None:
            raise from_status(status_pb2.Status.FromString(self.refusal))
        if self.answer is None:
            raise Internal("ANSWER_MISSING", "the record of this call holds no answer")
        return self.answer


def key_reused() -> AlreadyExists:
    return AlreadyExists(
        "IDEMPOTENCY_KEY_REUSED",
        "this idempotency key was used with another body",
        remedy="send the first body again, or choose a new key for a new intent",
    )


class Idempotency:
    """The records of one schema."""

    def __init__(self, schema: str) -> None:
        table = f'"{schema}".idempotency'
        self._claim = text(
            f"INSERT INTO {table} (intent, body, answer, refusal) VALUES (:intent, :body, :answer, :refusal)"  # noqa: S608
            " ON CONFLICT DO NOTHING RETURNING intent"
        )
        self._earlier = text(f"SELECT body, answer, refusal FROM {table} WHERE intent = :intent FOR UPDATE")  # noqa: S608
        self._settle = text(
            f"UPDATE {table} SET answer = :answer, refusal = :refusal"  # noqa: S608
            " WHERE intent = :intent AND answer IS NULL AND refusal IS NULL"
        )

    async def claim(self, connection: AsyncConnection, intent: Intent, answer: Answer | None = None) -> Answer | None:
        """Make the record, answered at once where the answer is known already. Returns the earlier answer, if any.

        None: nobody answered yet; go on, and `settle` in the same transaction unless `answer` was given. Waits while
        another transaction works on the same intent. Raises AlreadyExists IDEMPOTENCY_KEY_REUSED for another body.
        """
        parameters = intent.parameters | (answer or Answer()).parameters
        if (await connection.execute(self._claim, parameters)).first() is not None:
            return None
        earlier = await self.earlier(connection, intent)
        if earlier is None and answer is not None:
            await self.settle(connection, intent, answer)
        return earlier

    async def earlier(self, connection: AsyncConnection, intent: Intent) -> Answer | None:
        """The stored answer, or None while the record is open or absent. Locks it until the transaction ends."""
        row = (await connection.execute(self._earlier, {"intent": intent.id})).first()
        if row is None:
            return None
        if bytes(row.body) != intent.body:
            raise key_reused()
        if row.answer is None and row.refusal is None:
            return None
        return Answer(row.answer, row.refusal)

    async def settle(self, connection: AsyncConnection, intent: Intent, answer: Answer) -> None:
        """Store the answer of an open record."""
        await connection.execute(self._settle, {"intent": intent.id} | answer.parameters)
