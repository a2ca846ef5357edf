"""One ADS stream: what comes in and what goes out, by the rules of its conversation."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final, Protocol

from mesh.control.conversation import ANSWER_WITHIN_S, Ack, Conversation, Nack
from mesh.control.snapshot import Snapshot

# Requests that a client may have sent ahead of their handling.
_INBOX_MAX: Final = 64
# How long a stream sleeps at most before it looks at its own deadlines.
_TICK_S: Final = 5.0
_WARMING_TICK_S: Final = 0.25


class Observer(Protocol):
    """Hears what one data plane says and is told."""

    def received(self, request: Any, event: Ack | Nack | None) -> None: ...
    def sent(self, kind: str, version: str) -> None: ...


async def converse(
    requests: AsyncIterator[Any],
    newest: Callable[[], Snapshot | None],
    changed: asyncio.Event,
    observer: Observer,
    *,
    name: str,
) -> AsyncGenerator[Any, None]:
    """The DiscoveryResponses to a stream of DiscoveryRequests, until it ends.

    changed: set by the caller whenever `newest` answers something else. name: who answers, as Envoy's statistics show
    it. Raises ConversationError, and TimeoutError when a response is neither acknowledged nor refused, or nothing is
    ever asked.
    """
    conversation = Conversation()
    silent_since: float | None = time.monotonic()
    inbox: asyncio.Queue[Any] = asyncio.Queue(_INBOX_MAX)
    reader = asyncio.create_task(_read(requests, inbox, changed), name="ads")
    try:
        while True:
            changed.clear()
            while not inbox.empty():
                request, silent_since = inbox.get_nowait(), None
                observer.received(request, conversation.receive(request))
            snapshot = newest()
            response = conversation.next(snapshot, time.monotonic()) if snapshot else None
            if response is not None:
                response.control_plane.identifier = name
                observer.sent(response.type_url, response.version_info)
                yield response
                continue
            if reader.done() and inbox.empty():
                return
            if conversation.overdue(time.monotonic()):
                raise TimeoutError("an answer was neither acknowledged nor refused")
            if silent_since is not None and time.monotonic() - silent_since > ANSWER_WITHIN_S:
                raise TimeoutError("nothing was asked")
            await _wait(changed, _WARMING_TICK_S if conversation.waits_for_warmth() else _TICK_S)
    finally:
        reader.cancel()


async def _read(requests: AsyncIterator[Any], inbox: asyncio.Queue[Any], wake: asyncio.Event) -> None:
    try:
        async for request in requests:
            await inbox.put(request)
            wake.set()
    finally:
        wake.set()


async def _wait(wake: asyncio.Event, at_most_s: float) -> None:
    try:
        async with asyncio.timeout(at_most_s):
            await wake.wait()
    except TimeoutError:
        return
