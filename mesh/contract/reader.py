"""Read the contract from the generated descriptors."""

import functools
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Final

import isthmus
from google.api import annotations_pb2
from google.protobuf import descriptor
from google.protobuf.message import Message
from isthmus.policy.v1 import policy_pb2

from mesh.contract.model import (
    EACH,
    AuditLevel,
    Contract,
    DataClass,
    Direction,
    Durability,
    EventPolicy,
    FieldPolicy,
    HttpRule,
    Mask,
    MethodPolicy,
    RateClass,
    RateLimit,
    Rates,
    ServicePolicy,
)

# Cybersecurity Law of the People's Republic of China, article 21: network logs are kept for six months or more.
RECORD_DAYS_MIN: Final = 184

_VERBS = ("get", "put", "post", "delete", "patch")
_ZONES = {policy_pb2.ZONE_PUBLIC: "public", policy_pb2.ZONE_PRIVATE: "private", policy_pb2.ZONE_EACH: EACH}


class ContractError(ValueError):
    """The protos state no usable policy. Says which element, which rule and what to write."""


@functools.cache
def load() -> Contract:
    """The contract of every service, event and message under the package `isthmus`.

    Raises ContractError at the first method without a policy, event without a direction or field without a class: a
    process must not start on half a policy. `isthmus policy lint` lists all of them.
    """
    services: dict[str, ServicePolicy] = {}
    methods: dict[str, MethodPolicy] = {}
    events: dict[str, EventPolicy] = {}
    messages: dict[str, dict[str, FieldPolicy]] = {}
    resident: set[str] = set()
    for file in files():
        for message in _messages(file.message_types_by_name.values()):
            messages[message.full_name] = read_fields(message)
            if message.GetOptions().Extensions[policy_pb2.message].resident:
                resident.add(message.full_name)
            event = read_event(message)
            if event is not None:
                events[event.message] = event
        for service in file.services_by_name.values():
            policy = read_service(service)
            services[policy.name] = policy
            methods.update((method.path, method) for method in policy.methods)
    rates, classes = read_rates(policy_pb2.RateClass.DESCRIPTOR), policy_pb2.DataClass.DESCRIPTOR
    kept, recorded = read_retention(classes), read_record_retention(classes)
    return Contract(services, methods, events, messages, rates, kept, recorded, frozenset(resident))


def files() -> Iterator[descriptor.FileDescriptor]:
    """Every generated file of the mesh but the vocabulary of policy itself."""
    for module in sorted(
        info.name for info in pkgutil.walk_packages(isthmus.__path__, "isthmus.") if info.name.endswith("_pb2")
    ):
        file = importlib.import_module(module).DESCRIPTOR
        if file.package != "isthmus.policy.v1":
            yield file


def read_rates(classes: descriptor.EnumDescriptor) -> dict[RateClass, Rates]:
    """The limits of each rate class, from the options of its value."""
    found: dict[RateClass, Rates] = {}
    for value in classes.values:
        if value.number == 0:
            continue
        options = value.GetOptions().Extensions[policy_pb2.rates]
        names = ["member", "system", "gateway", "address"]
        names += [name for name in ("key", "bots") if options.HasField(name)]
        limits = {name: getattr(options, name) for name in names}
        if not all(limit.per_second and limit.burst for limit in limits.values()):
            needed = "member, system, gateway and address, each with rate and burst"
            raise ContractError(f"rate class {value.name}: state {needed}")
        stated = {name: RateLimit(limit.per_second, limit.burst) for name, limit in limits.items()}
        found[RateClass(value.number)] = Rates(**stated)
    return found


def read_retention(classes: descriptor.EnumDescriptor) -> dict[DataClass, int]:
    """For how many days each data class is kept, from the options of its value; 0: for ever."""
    found: dict[DataClass, int] = {}
    for value in classes.values:
        if value.number == 0:
            continue
        if not value.GetOptions().HasExtension(policy_pb2.retention):
            raise ContractError(f"data class {value.name}: state how long it is kept in (isthmus.policy.v1.retention)")
        found[DataClass(value.number)] = value.GetOptions().Extensions[policy_pb2.retention].days
    return found


def read_record_retention(classes: descriptor.EnumDescriptor) -> dict[DataClass, int]:
    """For how many days records of calls that answer with each data class are kept; 0: for ever."""
    found: dict[DataClass, int] = {}
    longest = 0
    for value in classes.values:
        if value.number == 0:
            continue
        days = value.GetOptions().Extensions[policy_pb2.retention].record_days
        # The less a call has shown, the sooner nobody asks who made it.
        if days and (days < RECORD_DAYS_MIN or days < longest or 0 in found.values()):
            raise ContractError(
                f"data class {value.name}: records of calls that answer with it are kept for {days} days; "
                f"state {RECORD_DAYS_MIN} or more, and no fewer than for a lower class"
            )
        longest = days
        found[DataClass(value.number)] = days
    return found


def read_service(service: descriptor.ServiceDescriptor) -> ServicePolicy:
    options = service.GetOptions().Extensions[policy_pb2.service]
    if options.zone not in _ZONES or not options.workload:
        raise ContractError(f"service {service.full_name}: state its zone and workload in (isthmus.policy.v1.service)")
    zone = _ZONES[options.zone]
    methods = tuple(_read_method(method, zone, options.workload) for method in service.methods)
    return ServicePolicy(service.full_name, options.workload, zone, methods)


def _read_method(method: descriptor.MethodDescriptor, zone: str, workload: str) -> MethodPolicy:
    options = method.GetOptions()
    if not options.HasExtension(policy_pb2.method):
        raise ContractError(f"method {method.full_name}: state its policy in (isthmus.policy.v1.method)")
    policy = options.Extensions[policy_pb2.method]
    missing = [
        name
        for name, value in (
            ("callers", policy.callers),
            ("deadline_ms", policy.deadline_ms),
            ("audit", policy.audit),
            ("rate_class", policy.rate_class),
            ("answer", policy.answer),
        )
        if not value
    ]
    if missing:
        raise ContractError(f"method {method.full_name}: its policy leaves out {', '.join(missing)}")
    service = method.containing_service.full_name
    return MethodPolicy(
        full_name=method.full_name,
        path=f"/{service}/{method.name}",
        service=service,
        workload=workload,
        zone=zone,
        request=method.input_type.full_name,
        response=method.output_type.full_name,
        callers=frozenset(policy.callers),
        scopes=frozenset(policy.scopes),
        human=policy.human,
        step_up=policy.step_up,
        idempotent=policy.idempotent,
        deadline_ms=policy.deadline_ms,
        retry_attempts=max(1, policy.retry.attempts),
        retry_budget_percent=policy.retry.budget_percent,
        audit=AuditLevel(policy.audit),
        rate_class=RateClass(policy.rate_class),
        answer_class=DataClass(policy.answer),
        subject_field=policy.subject_field,
        http=read_http(options),
        location_field=policy.location_field,
        rate_key=policy.rate_key,
    )


def read_http(options: Message) -> tuple[HttpRule, ...]:
    """The bindings that the options of a method state."""
    if not options.HasExtension(annotations_pb2.http):
        return ()
    rule = options.Extensions[annotations_pb2.http]
    return tuple(
        HttpRule(verb.upper(), getattr(binding, verb), binding.body)
        for binding in (rule, *rule.additional_bindings)
        for verb in _VERBS
        if binding.WhichOneof("pattern") == verb
    )


def read_event(message: descriptor.Descriptor) -> EventPolicy | None:
    options = message.GetOptions()
    if not options.HasExtension(policy_pb2.event):
        return None
    policy = options.Extensions[policy_pb2.event]
    crosses = policy.direction != policy_pb2.DIRECTION_WITHIN
    if not (policy.topic and policy.direction and policy.durability and (policy.partitions or not crosses)):
        raise ContractError(f"event {message.full_name}: state its topic, direction, durability and partitions")
    if policy.key_field not in message.fields_by_name:
        raise ContractError(f"event {message.full_name}: key_field {policy.key_field!r} is none of its fields")
    return EventPolicy(
        message=message.full_name,
        topic=policy.topic,
        direction=Direction(policy.direction),
        durability=Durability(policy.durability),
        retention_days=policy.retention_days,
        key_field=policy.key_field,
        partitions=policy.partitions,
        compacted=policy.compacted,
    )


def read_fields(message: descriptor.Descriptor) -> dict[str, FieldPolicy]:
    default = message.GetOptions().Extensions[policy_pb2.message].fields
    policies: dict[str, FieldPolicy] = {}
    for field in message.fields:
        policy = field.GetOptions().Extensions[policy_pb2.field]
        stated = getattr(policy, "class") or default
        if not stated:
            raise ContractError(
                f"field {field.full_name}: state its class in (isthmus.policy.v1.field), "
                "or one for the whole message in (isthmus.policy.v1.message)"
            )
        policies[field.name] = FieldPolicy(field.name, DataClass(stated), Mask(policy.mask), policy.markup)
    return policies


def _messages(messages: object) -> Iterator[descriptor.Descriptor]:
    for message in messages:  # type: ignore[attr-defined]
        # Entries of a map are synthetic; the map's own field has the class.
        if not message.GetOptions().map_entry:
            yield message
            yield from _messages(message.nested_types)
