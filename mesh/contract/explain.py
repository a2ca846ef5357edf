"""Which rule of a method's policy decides what: where it is written and where it is enforced."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf import descriptor_pb2
from isthmus.policy.v1 import policy_pb2

from mesh.contract.lint import DESCRIPTORS
from mesh.contract.model import EACH, AuditLevel, Contract, MethodPolicy
from mesh.spiffe import SpiffeId

SOURCES: Final = Path(__file__).resolve().parents[2] / "protos"
# Field numbers in descriptor.proto, as source positions name elements by them.
_FILE_SERVICE, _SERVICE_METHOD, _METHOD_OPTIONS = 6, 2, 4
_GUARD: Final = "mesh/guard.py in every node of {workload}"
_ADMISSION: Final = "mesh/admission.py in every node of {workload}"
_TOKENS: Final = "security/tokens/rule.py in every node of {workload}"
_DECISION: Final = "security/gateway/decision.py, which the core gateway asks"
_CHANNELS: Final = "mesh/channel.py in its callers"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a method, in the order in which a call meets them."""

    rule: str
    value: str
    # protos/<file>:<line>
    written: str
    enforced: tuple[str, ...]
    # allows, refuses, or what it depends on.
    verdict: str


@dataclass(frozen=True, slots=True)
class Subject:
    """Who comes from outside with a token. scopes: all that it may hold. human: a member, and not a client itself."""

    scopes: frozenset[str]
    human: bool


Principal = SpiffeId | Subject


def find(contract: Contract, wanted: str) -> list[MethodPolicy]:
    """Methods with this name, or whose name ends so: Orders.PlaceOrder, orders/PlaceOrder (by workload)."""
    name = wanted.strip("/").replace("/", ".")
    found = []
    for _, method in sorted(contract.methods.items()):
        short = method.full_name.rsplit(".", 1)[1]
        if method.full_name == name or method.full_name.endswith(f".{name}") or f"{method.workload}.{short}" == name:
            found.append(method)
    return found


def rules(method: MethodPolicy, principal: Principal | None, descriptors: Path = DESCRIPTORS) -> list[Rule]:
    """Every rule of the method; with a principal, what each comes to for it."""
    lines = _Lines(method, descriptors)

    def rule(name: str, value: str, verdict: str, *enforced: str, written: str = "") -> Rule:
        places = tuple(each.format(workload=method.workload) for each in enforced)
        return Rule(name, value, lines.of(written or name), places, verdict)

    return list(_rules(method, principal, rule))


def _rules(method: MethodPolicy, principal: Principal | None, rule: Callable[..., Rule]) -> Iterator[Rule]:
    gateways = _gateways(method)
    # The edge gateway leaves it to the core gateway to repeat what that leads on.
    repeating = gateways and f"at the {'core' if method.zone == 'private' else 'edge'} gateway"
    named = ", ".join(sorted(method.callers))
    peer = _peer_verdict(method, principal)
    subject = principal if isinstance(principal, Subject) else None
    gates = [_GUARD, "mesh/control/resources/access.py at the core gateway"] if method.zone == "private" else [_GUARD]
    decided = [_DECISION] if method.zone == "private" and (method.scopes or method.human or method.step_up) else []
    yield rule("callers", named, peer, *gates, *(f"{each}: for tokens exchanged inside" for each in decided))
    if method.scopes:
        edge = ["mesh/control/resources/routes.py at the edge gateway: signature and audience"]
        edge = edge if method.zone == "private" and method.http else []
        value = " ".join(sorted(method.scopes))
        yield rule("scopes", value, _scopes_verdict(method, subject), *edge, *decided, _TOKENS)
    if method.human:
        human = _human_verdict(subject, "allows")
        yield rule("human", "a member's token, not a client's", human, *decided, _TOKENS)
    if method.step_up:
        fresh = _human_verdict(subject, "depends on the sign-in")
        yield rule("step_up", "a fresh second factor", fresh, *decided, _TOKENS)
    rates = [f"mesh/control/resources/rates.py {gateways}"] if gateways else []
    rates += [*decided, "mesh/rates.py in every node of {workload}"]
    front = []
    if method.zone == "public" and method.http:
        front.append(f"public_edge/{method.service.split('.')[1]}/http.py in every node of {{workload}}")
        rates.append("public_edge/http/bots.py in every node of {workload}")
    yield rule("rate_class", method.rate_class.name, "depends on the caller's rate", *rates)
    if method.rate_key:
        at = "mesh/control/resources/rates.py at the edge gateway"
        yield rule("rate_key", f"each {method.rate_key} by itself", "depends on the caller's rate", at)
    obeyed = f"the field rules of {method.request}"
    yield rule("fields", obeyed, "depends on the request", *front, _GUARD, written="method")
    routes = [f"mesh/control/resources/routes.py {gateways}"] if gateways else []
    yield rule("deadline_ms", f"{method.deadline_ms} ms", "allows", *routes, _ADMISSION, _CHANNELS)
    repeats = [f"mesh/control/resources/routes.py {repeating}"] if repeating else []
    if method.idempotent:
        yield rule("idempotent", "may be done twice", "allows", "mesh/contract/lint.py", *repeats, _CHANNELS)
    if method.retry_attempts > 1:
        value = f"{method.retry_attempts} attempts, {method.retry_budget_percent}% of the calls"
        budget = [f"mesh/control/compile.py {repeating}"] if repeating else []
        yield rule("retry", value, "allows", *repeats, *budget, _CHANNELS)
    recorder = "security/audit/recorder.py in every node of {workload}"
    if method.audit is not AuditLevel.NONE:
        verdict = "refuses when no record can be written" if method.audit is AuditLevel.REQUIRED else "allows"
        yield rule("audit", method.audit.name, verdict, recorder)
    if method.subject_field:
        yield rule("subject_field", f"on record: whose {method.subject_field} it is", "allows", recorder)
    # What of an answer may be shown in a log is said by its fields, one by one; this is the highest of them.
    kept = [f"security/audit/{name}.py in the audit log" for name in ("retention", "alerts")]
    kept = [] if method.audit is AuditLevel.NONE else kept
    yield rule("answer", method.answer_class.name, "allows", "mesh/contract/lint.py", *kept)
    if method.location_field:
        yield rule("location_field", f"302 to {method.location_field}", "allows", *front, "mesh/contract/openapi.py")


def _gateways(method: MethodPolicy) -> str:
    """At which its calls pass; "" where none leads to it."""
    at = ["edge"] if method.http else []
    at += ["core"] if method.zone == "private" else []
    return f"at the {' and the '.join(at)} gateway" if at else ""


def _peer_verdict(method: MethodPolicy, principal: Principal | None) -> str:
    if principal is None:
        return "depends on the caller"
    if isinstance(principal, Subject):
        gateway = "core-gateway" if method.zone == "private" else "edge-gateway"
        if not method.http:
            return "refuses: no HTTP binding leads here from outside"
        return f"allows: {gateway}" if gateway in method.callers else f"refuses: {gateway} is not named"
    if principal.workload not in method.callers:
        return "refuses: not named"
    # Both gateways call on behalf of others; all other callers share the zone of what they call.
    if method.zone not in (principal.zone, EACH):
        return f"refuses: {principal.zone} is another zone"
    return "allows"


def _scopes_verdict(method: MethodPolicy, subject: Subject | None) -> str:
    if subject is None:
        return "depends on the token"
    lacking = sorted(method.scopes - subject.scopes)
    return f"refuses: may not hold {' '.join(lacking)}" if lacking else "allows: may hold them"


def _human_verdict(subject: Subject | None, member: str) -> str:
    if subject is None:
        return "depends on the token"
    return member if subject.human else "refuses: a client's token is nobody's in person"


class _Lines:
    """Where the parts of one method's policy stand."""

    def __init__(self, method: MethodPolicy, descriptors: Path) -> None:
        self._file, self._first, self._last = "", 1, 1
        content = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
        for file in content.file:
            for index, service in enumerate(file.service):
                if f"{file.package}.{service.name}" != method.service:
                    continue
                names = [each.name for each in service.method]
                number = names.index(method.full_name.rsplit(".", 1)[1])
                path = [_FILE_SERVICE, index, _SERVICE_METHOD, number]
                self._file = file.name
                self._span(file, path)
        self._text = self._read()

    def _span(self, file: descriptor_pb2.FileDescriptorProto, path: list[int]) -> None:
        policy = [*path, _METHOD_OPTIONS, policy_pb2.METHOD_FIELD_NUMBER]
        for place in file.source_code_info.location:
            if list(place.path) in (path, policy):
                self._first = place.span[0] + 1
                self._last = (place.span[2] if len(place.span) == 4 else place.span[0]) + 1
            if list(place.path) == policy:
                return

    def _read(self) -> list[str]:
        path = SOURCES / self._file
        return path.read_text().splitlines()[self._first - 1 : self._last] if path.is_file() else []

    def of(self, name: str) -> str:
        """protos/<file>:<line> of a part; of the policy where the part has no line of its own."""
        for number, line in enumerate(self._text):
            if line.strip().startswith(f"{name}:"):
                return f"protos/{self._file}:{self._first + number}"
        return f"protos/{self._file}:{self._first}"
