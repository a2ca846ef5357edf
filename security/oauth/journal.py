"""What the authorization server puts into the audit log: sign-ins, issues, refusals, revocations. Ids only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mesh import telemetry
from mesh.clock import Clock
from mesh.forwarded import HEADER, forwarded_peer
from security.audit.record import AuditRecord, Decision, clean, new_record_id
from security.audit.subjects import Subjects

_SERVICE: Final = "/isthmus.oauth/"


@dataclass(frozen=True)
class Caller:
    """Who sent a request, as the zone's gateway says: nobody else can speak to this server."""

    # SPIFFE id of the gateway's peer, and the SHA-256 of its certificate in base64url (RFC 8705, section 3.1).
    peer: str = ""
    thumbprint: str = ""
    # The address outside, as the edge gateway saw it.
    address: str = ""
    trace_id: str = ""


def caller(headers: Mapping[str, str]) -> Caller:
    """Read x-forwarded-client-cert, x-forwarded-for and traceparent, which the gateway writes."""
    peer, thumbprint = forwarded_peer(headers.get(HEADER, ""))
    addresses = [each.strip() for each in headers.get("x-forwarded-for", "").split(",")]
    return Caller(
        peer=peer,
        thumbprint=thumbprint,
        address=addresses[-2] if len(addresses) > 1 else addresses[-1],
        trace_id=telemetry.valid_traceparent(headers.get("traceparent", ""))[3:35],
    )


class Journal:
    """Makes records; whoever changes something writes them in the same transaction."""

    def __init__(self, workload: str, node: str, subjects: Subjects, clock: Clock) -> None:
        self._workload = workload
        self._node = node
        self._subjects = subjects
        self._clock = clock

    def named(self, value: str) -> str:
        """What logs and records call what somebody typed where an id belongs."""
        return self._subjects.named(clean(value))

    def record(
        self,
        event: str,
        by: Caller,
        *,
        subject: str = "",
        client: str = "",
        data_subject: str = "",
        detail: str = "",
        refused: bool = False,
    ) -> AuditRecord:
        """One event. detail: the grant, or the rule that refused."""
        return AuditRecord(
            record_id=new_record_id(),
            time_us=self._clock.now_us(),
            peer=clean(by.peer),
            token_subject=clean(subject),
            token_client=self.named(client),
            method=_SERVICE + event,
            data_subject=self.named(data_subject),
            decision=Decision.DENIED if refused else Decision.ALLOWED,
            result="UNAUTHENTICATED" if refused else "OK",
            reason=clean(detail),
            trace_id=by.trace_id,
            workload=self._workload,
            node=self._node,
        )
