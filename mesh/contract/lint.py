"""Find every policy that must not be built, and say where it stands and what to write instead.

Works on the descriptor set and not on the loaded contract, so that it can list all findings with file and line where
`load` stops at the first.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from isthmus.policy.v1 import policy_pb2

from mesh.contract.model import DataClass
from mesh.contract.reader import read_http, read_rates, read_retention
from mesh.contract.templates import VARIABLE, TemplateError, pattern

DESCRIPTORS: Final = Path(__file__).resolve().parent.parent / "generated" / "contract.binpb"
# Workloads that serve nothing of the contract and may call all the same.
_CALLERS_ONLY: Final = frozenset({"edge-gateway", "core-gateway", "operator", "bridge-inbound", "bridge-outbound"})
_PACKAGE: Final = "isthmus."
# Field numbers in descriptor.proto, as source positions name elements by them.
_FILE_MESSAGE, _FILE_SERVICE, _MESSAGE_FIELD, _MESSAGE_NESTED, _SERVICE_METHOD = 4, 6, 2, 3, 2

Position = tuple[int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One broken rule. `line` counts from 1."""

    file: str
    line: int
    rule: str
    element: str
    remedy: str

    def __str__(self) -> str:
        return f"protos/{self.file}:{self.line}: {self.element}: {self.rule}; {self.remedy}"


@dataclass(frozen=True)
class _Message:
    file: str
    line: int
    proto: descriptor_pb2.DescriptorProto
    field_lines: Mapping[str, int]

    def class_of(self, proto: descriptor_pb2.FieldDescriptorProto) -> int:
        stated: int = getattr(proto.options.Extensions[policy_pb2.field], "class")
        return stated or self._default

    @property
    def highest(self) -> int:
        """Of its own fields; without any, what it states for all of them. 0 where its fields have no class."""
        return max((self.class_of(proto) for proto in self.proto.field), default=self._default or DataClass.PUBLIC)

    @property
    def _default(self) -> int:
        fields: int = self.proto.options.Extensions[policy_pb2.message].fields
        return fields


@dataclass(frozen=True)
class _Method:
    file: str
    line: int
    service: str
    proto: descriptor_pb2.MethodDescriptorProto
    zone: int
    workload: str

    @property
    def name(self) -> str:
        return f"{self.service}.{self.proto.name}"

    @property
    def policy(self) -> policy_pb2.MethodPolicy:
        return self.proto.options.Extensions[policy_pb2.method]


@dataclass
class _Tree:
    """The descriptor set, by full name."""

    messages: dict[str, _Message] = field(default_factory=dict)
    methods: list[_Method] = field(default_factory=list)
    services: list[tuple[str, int, str, policy_pb2.ServicePolicy]] = field(default_factory=list)

    def reachable(self, root: str, seen: set[str] | None = None) -> set[str]:
        """The message and every message of the mesh that it holds."""
        seen = set() if seen is None else seen
        message = self.messages.get(root)
        if message is None or root in seen:
            return seen
        seen.add(root)
        for proto in message.proto.field:
            self.reachable(proto.type_name.lstrip("."), seen)
        return seen

    def has(self, root: str, path: str) -> bool:
        """Whether a message has such a field, or one of those that it holds: item.slug."""
        message, (name, _, inner) = self.messages.get(root.lstrip(".")), path.partition(".")
        found = next((each for each in message.proto.field if each.name == name), None) if message else None
        return found is not None and (not inner or self.has(found.type_name, inner))

    def highest(self, root: str) -> int:
        """The highest class in a message and in all that it holds. 0 where no field has one."""
        return max((self.messages[name].highest for name in self.reachable(root)), default=DataClass.PUBLIC)


class _Rule(Protocol):
    def __call__(self, tree: _Tree) -> Iterator[Finding]: ...


def lint(descriptors: Path = DESCRIPTORS) -> list[Finding]:
    """Every finding in a FileDescriptorSet with source positions, in file order. Empty: the contract may be built."""
    tree = _read(descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()))
    return sorted({finding for rule in _RULES for finding in rule(tree)})


def _services_state_their_place(tree: _Tree) -> Iterator[Finding]:
    for file, line, name, policy in tree.services:
        if not policy.zone or not policy.workload:
            remedy = "state both in option (isthmus.policy.v1.service)"
            yield Finding(file, line, "a service needs a zone and a workload", name, remedy)


def _methods_state_a_policy(tree: _Tree) -> Iterator[Finding]:
    for method in tree.methods:
        if not method.proto.options.HasExtension(policy_pb2.method):
            remedy = "add option (isthmus.policy.v1.method)"
            yield Finding(method.file, method.line, "a method without a policy cannot start", method.name, remedy)
            continue
        for name in ("callers", "deadline_ms", "audit", "rate_class", "answer"):
            if not getattr(method.policy, name):
                rule = f"the policy leaves out {name}"
                yield Finding(method.file, method.line, rule, method.name, f"set {name} in (isthmus.policy.v1.method)")


def _callers_exist(tree: _Tree) -> Iterator[Finding]:
    known = _CALLERS_ONLY | {
        policy.workload for _, _, _, policy in tree.services if policy.zone != policy_pb2.ZONE_EACH
    }
    for method in tree.methods:
        for caller in set(method.policy.callers) - known:
            remedy = f"name one of {', '.join(sorted(known))}"
            yield Finding(method.file, method.line, f"no workload is called {caller}", method.name, remedy)


def _only_the_idempotent_is_retried(tree: _Tree) -> Iterator[Finding]:
    for method in tree.methods:
        if method.policy.HasField("retry") and not method.policy.idempotent:
            rule = "a method that is not idempotent has retries"
            yield Finding(method.file, method.line, rule, method.name, "remove retry, or make it idempotent by a key")
        if method.policy.HasField("retry") and not 2 <= method.policy.retry.attempts <= 5:
            yield Finding(method.file, method.line, "retry.attempts counts all of 2 to 5", method.name, "set it within")


def _deadlines_shrink_inward(tree: _Tree) -> Iterator[Finding]:
    """A deadline that no method of the calling workload grants is found.

    One that is longer than that of the very method it is called from is not: the contract names the workloads that
    call, not their methods, and a workload calls of its own accord, too. There the channel shortens the call to what
    is left of the caller's deadline (`mesh.channel`).
    """
    longest: dict[str, int] = {}
    for method in tree.methods:
        longest[method.workload] = max(longest.get(method.workload, 0), method.policy.deadline_ms)
    for method in tree.methods:
        for caller in method.policy.callers:
            if caller in longest and method.policy.deadline_ms > longest[caller]:
                rule = f"the deadline of {method.policy.deadline_ms} ms is longer than any of its caller {caller}'s"
                remedy = f"make it {longest[caller]} ms or less"
                yield Finding(method.file, method.line, rule, method.name, remedy)


def _answers_state_their_class(tree: _Tree) -> Iterator[Finding]:
    for method in tree.methods:
        highest, declared = tree.highest(method.proto.output_type.lstrip(".")), method.policy.answer
        if not declared or not highest or highest == declared:
            continue
        remedy = f"declare answer: DATA_CLASS_{DataClass(highest).name}"
        if highest > declared:
            rule = f"the answer holds a {DataClass(highest).name} field and is declared {DataClass(declared).name}"
        else:
            rule = f"the answer holds nothing above {DataClass(highest).name}, is declared {DataClass(declared).name}"
            remedy += ", or state the class of its fields that is the truth"
        yield Finding(method.file, method.line, rule, method.name, remedy)


def _subjects_exist(tree: _Tree) -> Iterator[Finding]:
    for method in tree.methods:
        request = tree.messages.get(method.proto.input_type.lstrip("."))
        subject = method.policy.subject_field
        if subject and request is not None and subject not in request.field_lines:
            remedy = f"name a field of {request.proto.name}"
            yield Finding(
                method.file, method.line, f"subject_field {subject} is none of its fields", method.name, remedy
            )


def _locations_exist(tree: _Tree) -> Iterator[Finding]:
    for method in tree.methods:
        answer, location = tree.messages.get(method.proto.output_type.lstrip(".")), method.policy.location_field
        if location and answer is not None and location not in answer.field_lines:
            rule, remedy = f"location_field {location} is none of its fields", f"name a field of {answer.proto.name}"
            yield Finding(method.file, method.line, rule, method.name, remedy)
        if location and method.zone != policy_pb2.ZONE_PUBLIC:
            rule = "a method outside of the public zone answers with a redirect, which no gateway makes"
            yield Finding(method.file, method.line, rule, method.name, "take location_field away")


def _bindings_can_be_routed(tree: _Tree) -> Iterator[Finding]:
    bound: dict[tuple[str, str], str] = {}
    for method in tree.methods:
        if not method.proto.options.HasExtension(annotations_pb2.http):
            continue
        rules = read_http(method.proto.options)
        stated = 1 + len(method.proto.options.Extensions[annotations_pb2.http].additional_bindings)
        if len(rules) != stated:
            rule = "a binding has no HTTP method that the gateways know"
            yield Finding(method.file, method.line, rule, method.name, "take get, put, post, delete or patch")
        for each in rules:
            try:
                path = pattern(each.template)
            except TemplateError as error:
                yield Finding(method.file, method.line, str(error), method.name, "write {field} for one segment")
                continue
            for variable in VARIABLE.findall(each.template):
                if not tree.has(method.proto.input_type, variable):
                    rule = f"{each.template} names {variable}, which is no field of the request"
                    yield Finding(method.file, method.line, rule, method.name, "name a field of it")
            other = bound.setdefault((each.verb, path), method.name)
            if other != method.name:
                rule = f"{each.verb} {each.template} leads to {other} already"
                yield Finding(method.file, method.line, rule, method.name, "give one of the two another path")


def _rate_keys_are_limited(tree: _Tree) -> Iterator[Finding]:
    limited = {number.value for number, rates in read_rates(policy_pb2.RateClass.DESCRIPTOR).items() if rates.key}
    for method in tree.methods:
        request, key = tree.messages.get(method.proto.input_type.lstrip(".")), method.policy.rate_key
        if key and request is not None and key not in request.field_lines:
            remedy = f"name a field of {request.proto.name}"
            yield Finding(method.file, method.line, f"rate_key {key} is none of its fields", method.name, remedy)
        if key and method.policy.rate_class not in limited:
            rule = "a method with a rate_key is of a rate class without a limit for keys"
            yield Finding(method.file, method.line, rule, method.name, "state key in the rates of its class")


def _sensitive_methods_need_a_token(tree: _Tree) -> Iterator[Finding]:
    for method in tree.methods:
        outside = method.proto.options.HasExtension(annotations_pb2.http)
        if outside and method.zone == policy_pb2.ZONE_PRIVATE and not method.policy.scopes:
            rule = "a private method with an HTTP route needs no token"
            yield Finding(method.file, method.line, rule, method.name, "name its scopes, or take the route away")


def _each_zone_keeps_its_own_to_itself(tree: _Tree) -> Iterator[Finding]:
    for method in tree.methods:
        if method.zone != policy_pb2.ZONE_EACH:
            continue
        if method.proto.options.HasExtension(annotations_pb2.http) or method.policy.scopes:
            rule = "a method of each zone has an HTTP route or scopes, and no gateway leads to it or decides on tokens"
            remedy = "take them away, or give the service one zone"
            yield Finding(method.file, method.line, rule, method.name, remedy)


def _fields_have_a_class(tree: _Tree) -> Iterator[Finding]:
    for name, message in tree.messages.items():
        for proto in message.proto.field:
            if not message.class_of(proto):
                remedy = "state it in (isthmus.policy.v1.field), or for all fields in (isthmus.policy.v1.message)"
                line = message.field_lines[proto.name]
                rule = "a field without a data class cannot cross a zone"
                yield Finding(message.file, line, rule, f"{name}.{proto.name}", remedy)


def _the_public_zone_holds_nothing_personal(tree: _Tree) -> Iterator[Finding]:
    for method in tree.methods:
        if method.zone == policy_pb2.ZONE_PRIVATE:
            continue
        for root in (method.proto.input_type, method.proto.output_type):
            yield from _above_internal(tree, root.lstrip("."), "a message of the public zone")


def _outward_events_hold_nothing_personal(tree: _Tree) -> Iterator[Finding]:
    for name, message in tree.messages.items():
        event = message.proto.options.Extensions[policy_pb2.event]
        if not message.proto.options.HasExtension(policy_pb2.event):
            continue
        crosses = event.direction != policy_pb2.DIRECTION_WITHIN
        if not (event.topic and event.direction and event.durability and (event.partitions or not crosses)):
            remedy = "state them in option (isthmus.policy.v1.event)"
            rule = "an event needs topic, direction, durability and partitions"
            yield Finding(message.file, message.line, rule, name, remedy)
        if event.key_field not in message.field_lines:
            remedy = f"name a field of {message.proto.name}"
            yield Finding(
                message.file, message.line, f"key_field {event.key_field!r} is none of its fields", name, remedy
            )
        # Inward events are made by the public zone, which must not hold such values either.
        if crosses:
            yield from _above_internal(tree, name, "an event that crosses the zones")


def _events_go_with_their_class(tree: _Tree) -> Iterator[Finding]:
    kept = read_retention(policy_pb2.DataClass.DESCRIPTOR)
    for name, message in tree.messages.items():
        event = message.proto.options.Extensions[policy_pb2.event]
        highest = tree.highest(name)
        if not event.topic or event.compacted or not highest:
            continue
        days = kept[DataClass(highest)]
        if days and not 0 < event.retention_days <= days:
            stated = f"for {event.retention_days} days" if event.retention_days else "for ever"
            rule = f"the event is kept {stated}, and holds a {DataClass(highest).name} field, which is kept for {days}"
            yield Finding(message.file, message.line, rule, name, f"set retention_days to {days} or fewer")


def _what_is_resident_stays(tree: _Tree) -> Iterator[Finding]:
    for name, message in tree.messages.items():
        if not message.proto.options.HasExtension(policy_pb2.event):
            continue
        for held in sorted(tree.reachable(name)):
            if tree.messages[held].proto.options.Extensions[policy_pb2.message].resident:
                rule = f"an event holds {held}, which stays in its region"
                yield Finding(message.file, message.line, rule, name, "carry its id instead")


def _above_internal(tree: _Tree, root: str, what: str) -> Iterator[Finding]:
    for name in tree.reachable(root):
        message = tree.messages[name]
        for proto in message.proto.field:
            data_class = message.class_of(proto)
            if data_class > DataClass.INTERNAL:
                rule = f"{what} holds a {DataClass(data_class).name} field"
                remedy = "keep the field in the private zone, or lower its class if that is the truth"
                yield Finding(message.file, message.field_lines[proto.name], rule, f"{name}.{proto.name}", remedy)


_RULES: Final[tuple[_Rule, ...]] = (
    _services_state_their_place,
    _methods_state_a_policy,
    _callers_exist,
    _only_the_idempotent_is_retried,
    _deadlines_shrink_inward,
    _answers_state_their_class,
    _subjects_exist,
    _locations_exist,
    _bindings_can_be_routed,
    _rate_keys_are_limited,
    _sensitive_methods_need_a_token,
    _each_zone_keeps_its_own_to_itself,
    _fields_have_a_class,
    _the_public_zone_holds_nothing_personal,
    _outward_events_hold_nothing_personal,
    _events_go_with_their_class,
    _what_is_resident_stays,
)


def _read(descriptors: descriptor_pb2.FileDescriptorSet) -> _Tree:
    tree = _Tree()
    for file in descriptors.file:
        if not file.package.startswith(_PACKAGE) or file.package.startswith(f"{_PACKAGE}policy."):
            continue
        lines = {tuple(place.path): place.span[0] + 1 for place in file.source_code_info.location}
        for index, message in enumerate(file.message_type):
            _read_message(tree, file, lines, message, (_FILE_MESSAGE, index), file.package)
        for index, service in enumerate(file.service):
            path = (_FILE_SERVICE, index)
            name = f"{file.package}.{service.name}"
            policy = service.options.Extensions[policy_pb2.service]
            tree.services.append((file.name, lines.get(path, 1), name, policy))
            for number, method in enumerate(service.method):
                line = lines.get((*path, _SERVICE_METHOD, number), 1)
                tree.methods.append(_Method(file.name, line, name, method, policy.zone, policy.workload))
    return tree


def _read_message(
    tree: _Tree,
    file: descriptor_pb2.FileDescriptorProto,
    lines: Mapping[Position, int],
    message: descriptor_pb2.DescriptorProto,
    path: Position,
    prefix: str,
) -> None:
    if message.options.map_entry:
        return
    name = f"{prefix}.{message.name}"
    fields = {proto.name: lines.get((*path, _MESSAGE_FIELD, index), 1) for index, proto in enumerate(message.field)}
    tree.messages[name] = _Message(file.name, lines.get(path, 1), message, fields)
    for index, nested in enumerate(message.nested_type):
        _read_message(tree, file, lines, nested, (*path, _MESSAGE_NESTED, index), name)
