"""The agent of a zone: looks once a second whether every process of the zone holds a good, young leaf."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mesh import telemetry
from mesh.errors import MeshError
from mesh.logs import logger
from mesh.spiffe import SpiffeId
from security.identity import wallet
from security.identity.authority import Authority
from security.identity.bundle import BEHIND_GATEWAY, bundle
from security.identity.topology import Holder, holders

log = logger("identity")


class Agent:
    """Keeps `home/run/<process>/identity` of every process of the authority's zone good. Survives any restart."""

    def __init__(
        self,
        home: Path,
        authority: Authority,
        ttl: timedelta,
        other_root_wait_s: float,
        always: frozenset[Holder] = frozenset(),
    ) -> None:
        self._home = home
        self._authority = authority
        self._ttl = ttl
        self._other_root_wait_s = other_root_wait_s
        # Served whatever the process table says: the agent itself, which starts before everything else.
        self._always = always
        self._checked: dict[Holder, tuple[wallet.Fingerprint, bytes, datetime]] = {}
        self._waiting_since: dict[Holder, float] = {}
        meter = telemetry.meter()
        self._issued = meter.create_counter("identity.leaves_issued")
        self._failures = meter.create_counter("identity.failures", description="rounds in which a holder got nothing")

    async def run(self, stopping: asyncio.Event, poll_s: float) -> None:
        """One round every `poll_s` seconds until `stopping` is set. A round that fails is logged and tried again."""
        while not stopping.is_set():
            try:
                await asyncio.to_thread(self.round)
            except (MeshError, OSError) as error:
                log.error("round_failed", detail=str(error))
            try:
                await asyncio.wait_for(stopping.wait(), poll_s)
            except TimeoutError:
                continue

    def round(self) -> int:
        """Look at every holder once; returns how many leaves were issued."""
        self._authority = self._authority.reopened().rotated()
        listed = holders(self._home, self._authority.zone)
        names = {one.process for one in listed}
        found = listed | {one for one in self._always if one.process not in names}
        for gone in self._checked.keys() - found:
            del self._checked[gone]
        issued = 0
        for holder in sorted(found):
            try:
                issued += self._serve(holder)
            except (MeshError, OSError) as error:
                # One full or unreadable directory must not keep the others from their leaves.
                self._failures.add(1, {"workload": holder.workload})
                log.error("leaf_failed", process=holder.process, detail=str(error))
        return issued

    def _serve(self, holder: Holder) -> bool:
        roots = bundle(self._home, holder.workload, self._authority.zone)
        if roots is None:
            self._wait(holder)
            return False
        self._waiting_since.pop(holder, None)
        directory = self._home / "run" / holder.process / "identity"
        why = self._reason_to_issue(holder, directory, roots)
        if not why:
            return False
        leaf = self._authority.issue(holder.workload, self._ttl, holder.addresses)
        gateway = self._authority.gateway_pem if holder.workload in BEHIND_GATEWAY else None
        wallet.write(directory, wallet.Wallet(leaf, roots, gateway))
        self._issued.add(1, {"workload": holder.workload})
        log.info(
            "leaf_issued",
            process=holder.process,
            serial=f"{leaf.serial:x}",
            not_after=leaf.not_after.isoformat(),
            because=why,
        )
        self._remember(holder, directory, roots)
        return True

    def _reason_to_issue(self, holder: Holder, directory: Path, roots: bytes) -> str:
        now = datetime.now(UTC)
        print_now = wallet.fingerprint(directory)
        checked = self._checked.get(holder)
        if checked is None or checked[:2] != (print_now, roots):
            gateway = self._authority.gateway_pem if holder.workload in BEHIND_GATEWAY else None
            issuer = self._authority.issuer_of(holder.workload)
            spiffe_id = str(SpiffeId(self._authority.zone, holder.workload, self._authority.trust_domain))
            why = wallet.fault(directory, issuer, spiffe_id, roots, gateway, holder.addresses)
            if why:
                return why
            self._remember(holder, directory, roots)
        end = self._checked[holder][2]
        if wallet.due(end, now, self._ttl) and end < self._authority.ends:
            return "half of its life is over"
        return ""

    def _remember(self, holder: Holder, directory: Path, roots: bytes) -> None:
        print_now = wallet.fingerprint(directory)
        end = wallet.not_after(directory)
        if print_now is not None:
            self._checked[holder] = (print_now, roots, end)

    def _wait(self, holder: Holder) -> None:
        """The other zone's root is not there: its agent may still be starting, but not for ever."""
        since = self._waiting_since.setdefault(holder, time.monotonic())
        if time.monotonic() - since > self._other_root_wait_s:
            self._waiting_since[holder] = time.monotonic()
            self._failures.add(1, {"workload": holder.workload})
            log.error("other_root_missing", process=holder.process, waited_s=self._other_root_wait_s)
