"""Is each endpoint well? The control plane asks itself, over mTLS, and believes nobody's word for it."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from mesh.control import strangers
from mesh.control.probes import Outcome, Probe, over_grpc, over_https, over_kafka
from mesh.control.registry import Endpoint
from mesh.logs import logger
from mesh.spiffe import SpiffeId
from mesh.tls import Identity

# The second failure in a row decides: one lost probe is no proof, and the second follows at once.
_FAILURES_MAX: Final = 2
# The second is given less time than the first, so that both and the interval before them end within 1.4 s.
_SECOND_SHARE: Final = 0.7
# A process whose certificate is refused is looked at when it is given up, and with every so many failures after that.
_LOOK_EVERY: Final = 10
# By what is spoken there.
_PROBES: Final = {"grpc": over_grpc, "https": over_https, "kafka": over_kafka}


class State(Enum):
    # Not probed yet, or not of a kind that can be.
    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    # It answers, and says that it takes no more calls.
    DRAINING = "draining"
    # It refuses, or does not answer in time: dead, frozen and unreachable look the same to a caller.
    UNHEALTHY = "unhealthy"


@dataclass(slots=True)
class Record:
    """What the probes of one endpoint have shown so far."""

    state: State = State.UNKNOWN
    failures: int = 0
    # What was last found to be wrong with its certificate.
    certificate: str = ""

    def observe(self, outcome: Outcome) -> bool:
        """Take in one probe; True when the state changed."""
        before = self.state
        if outcome is Outcome.UNSURE:
            return False
        self.failures = self.failures + 1 if outcome is Outcome.FAILED else 0
        if outcome is Outcome.SERVING:
            self.state = State.HEALTHY
        elif outcome is Outcome.NOT_SERVING:
            self.state = State.DRAINING
        elif self.failures >= _FAILURES_MAX:
            self.state = State.UNHEALTHY
        return self.state is not before

    @property
    def doubtful(self) -> bool:
        """A first failure is asked about again at once."""
        return 0 < self.failures < _FAILURES_MAX

    @property
    def looked_into(self) -> bool:
        """Whether it is time to look why it fails."""
        return self.failures >= _FAILURES_MAX and (self.failures - _FAILURES_MAX) % _LOOK_EVERY == 0


class Health:
    """Probes one port of every node, each in a task of its own over a connection that stays open.

    A node's other ports share its state: they are the same process.
    """

    def __init__(
        self,
        identity: Identity,
        trust_domain: str,
        changed: Callable[[], None],
        *,
        interval_s: float,
        timeout_s: float,
        probes_max: int,
    ) -> None:
        self._identity = identity
        self._trust_domain = trust_domain
        self._changed = changed
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(probes_max)
        self._records: dict[Endpoint, Record] = {}
        self._by_node: dict[str, Record] = {}
        self._probes: dict[Endpoint, asyncio.Task[None]] = {}
        self._news = asyncio.Event()
        self._log = logger("control")

    def state(self, node: str) -> State:
        """Of a node; unknown for nodes that are not probed."""
        record = self._by_node.get(node)
        return State.UNKNOWN if record is None else record.state

    def watch(self, endpoints: Iterable[Endpoint]) -> None:
        """Probe exactly these from now on; what was known of those that stay is kept."""
        wanted = frozenset(endpoints)
        for gone in self._probes.keys() - wanted:
            self._probes.pop(gone).cancel()
            del self._records[gone]
            self._by_node.pop(gone.node, None)
        for new in wanted - self._probes.keys():
            self._records[new] = self._by_node[new.node] = Record()
            self._probes[new] = asyncio.create_task(self._probe(new), name=f"probe {new.node}")

    async def settled(self, within_s: float) -> None:
        """Return when every endpoint has been asked, or after `within_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while any(record.state is State.UNKNOWN for record in self._records.values()):
                    await self._news.wait()
                    self._news.clear()

    def count(self) -> dict[State, int]:
        """How many endpoints are in each state."""
        found = Counter(record.state for record in self._records.values())
        return {state: found[state] for state in State}

    async def start(self) -> None:
        # The leaf of a channel is that of its opening.
        self._identity.on_change(lambda _: self._reopen())

    async def stop(self, grace_s: float) -> None:
        for probe in self._probes.values():
            probe.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)

    def _reopen(self) -> None:
        for endpoint, probe in list(self._probes.items()):
            probe.cancel()
            self._probes[endpoint] = asyncio.create_task(self._probe(endpoint), name=f"probe {endpoint.node}")

    async def _probe(self, endpoint: Endpoint) -> None:
        peer = self._peer(endpoint)
        async with _PROBES[endpoint.protocol](str(endpoint), self._identity, peer) as probe:
            await self._ask_for_ever(endpoint, self._records[endpoint], probe)

    async def _ask_for_ever(self, endpoint: Endpoint, record: Record, probe: Probe) -> None:
        while True:
            async with self._slots:
                outcome = await probe.ask(self._timeout_s * (_SECOND_SHARE if record.doubtful else 1))
            if record.observe(outcome):
                self._log.info("health", endpoint=endpoint.node, at=str(endpoint), state=record.state.value)
                self._news.set()
                self._changed()
            if record.doubtful:
                continue
            if record.looked_into:
                await self._look_into(endpoint, record)
            probe.lost.clear()
            with contextlib.suppress(TimeoutError):
                # Spread, so that thirty endpoints are not asked in the same millisecond.
                async with asyncio.timeout(self._interval_s * random.uniform(0.9, 1.1)):  # noqa: S311
                    await probe.lost.wait()

    async def _look_into(self, endpoint: Endpoint, record: Record) -> None:
        """Name in the log whose certificate it shows, where that is what it fails by; once for each."""
        found = await strangers.shown(str(endpoint), self._identity, self._peer(endpoint), self._timeout_s)
        if found and found != record.certificate:
            self._log.warning("certificate refused", endpoint=endpoint.node, at=str(endpoint), certificate=found)
        record.certificate = found

    def _peer(self, endpoint: Endpoint) -> SpiffeId:
        return SpiffeId(endpoint.zone, endpoint.workload, self._trust_domain)
