"""The contract as plain values: no descriptor and no generated type leaves `mesh.contract`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final

from mesh.spiffe import ZONES

# The zone of a service that each zone has for itself.
EACH: Final = "each"


class DataClass(IntEnum):
    """How much harm a value does in the wrong hands; the order is part of the contract."""

    PUBLIC = 1
    INTERNAL = 2
    PERSONAL = 3
    SENSITIVE = 4
    SECRET = 5


class Mask(Enum):
    DEFAULT = 0
    PHONE = 1
    NAME = 2
    ALL = 3


class AuditLevel(IntEnum):
    NONE = 1
    RECORD = 2
    REQUIRED = 3


class RateClass(Enum):
    CROWD = 1
    MEMBER = 2
    BULK = 3
    ADMIN = 4


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket: what flows in each second, and what it holds at most."""

    per_second: int
    burst: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one rate class: for one member and for one system at a server, and for all together at a gateway.

    At a gateway of the public besides: for one address, and for one value of a method's rate_key. At a node of the
    public's: for one class of bots.
    """

    member: RateLimit
    system: RateLimit
    gateway: RateLimit
    address: RateLimit
    key: RateLimit | None = None
    bots: RateLimit | None = None


class Durability(IntEnum):
    BOUNDED = 1
    DURABLE = 2
    QUORUM = 3


class Direction(Enum):
    INWARD = 1
    OUTWARD = 2
    WITHIN = 3


@dataclass(frozen=True, slots=True)
class HttpRule:
    """One google.api.http binding: POST /v1/orders with body "*"."""

    verb: str
    template: str
    body: str

    def verbs(self, zone: str) -> tuple[str, ...]:
        """Its HTTP methods. Edge nodes answer HEAD wherever they answer GET (RFC 9110, section 9.3.2)."""
        return ("GET", "HEAD") if self.verb == "GET" and zone == "public" else (self.verb,)


@dataclass(frozen=True, slots=True)
class MethodPolicy:
    # isthmus.orders.v1.Orders.PlaceOrder
    full_name: str
    # /isthmus.orders.v1.Orders/PlaceOrder
    path: str
    service: str
    workload: str
    # public, private or each.
    zone: str
    request: str
    response: str
    callers: frozenset[str]
    scopes: frozenset[str]
    human: bool
    step_up: bool
    idempotent: bool
    deadline_ms: int
    # Attempts in all; 1 where nothing may be repeated.
    retry_attempts: int
    retry_budget_percent: int
    audit: AuditLevel
    rate_class: RateClass
    answer_class: DataClass
    # Names the request's field that says whose data it is; "" when there is none.
    subject_field: str
    http: tuple[HttpRule, ...]
    # Names the answer's field that says where it leads, where its answer over HTTP is a redirect; "" elsewhere.
    location_field: str = ""
    # Names the request's field whose values have buckets of their own; "" where none has.
    rate_key: str = ""

    @property
    def deadline_s(self) -> float:
        return self.deadline_ms / 1000

    @property
    def needs_token(self) -> bool:
        """A method that asks for a scope, a member or a fresh second factor asks for a token."""
        return bool(self.scopes) or self.human or self.step_up

    def served_in(self, zone: str) -> str:
        """The workload that serves it in a zone."""
        return f"{self.workload}-{zone}" if self.zone == EACH else self.workload


@dataclass(frozen=True, slots=True)
class ServicePolicy:
    name: str
    # Of each zone: what it is called before -<zone>.
    workload: str
    zone: str
    methods: tuple[MethodPolicy, ...]

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """Zone and workload of whoever serves it."""
        if self.zone == EACH:
            return tuple((zone, f"{self.workload}-{zone}") for zone in ZONES)
        return ((self.zone, self.workload),)


@dataclass(frozen=True, slots=True)
class FieldPolicy:
    name: str
    data_class: DataClass
    mask: Mask
    markup: bool = False


@dataclass(frozen=True, slots=True)
class EventPolicy:
    # Full name of the message that is the record's value.
    message: str
    topic: str
    direction: Direction
    durability: Durability
    # 0: for ever.
    retention_days: int
    key_field: str
    partitions: int
    compacted: bool

    @property
    def crosses(self) -> bool:
        """Whether it goes from one zone into the other, by Kafka."""
        return self.direction is not Direction.WITHIN


@dataclass(frozen=True, slots=True)
class Contract:
    # By full name: isthmus.orders.v1.Orders
    services: Mapping[str, ServicePolicy]
    # By path: /isthmus.orders.v1.Orders/PlaceOrder
    methods: Mapping[str, MethodPolicy]
    # By the message's full name.
    events: Mapping[str, EventPolicy]
    # By the message's full name, then the field's name.
    messages: Mapping[str, Mapping[str, FieldPolicy]]
    rates: Mapping[RateClass, Rates] = field(default_factory=dict)
    # Days since a value of the class was last of use. 0: for ever.
    kept_days: Mapping[DataClass, int] = field(default_factory=dict)
    # Days since a call that answers with the class, for which its audit record is kept. 0: for ever.
    recorded_days: Mapping[DataClass, int] = field(default_factory=dict)
    # Full names of the messages that stay in the region of their store.
    resident: frozenset[str] = frozenset()

    def fields(self, message: str) -> Mapping[str, FieldPolicy]:
        """The policy of each field of a message. Raises KeyError for a message that no contract names."""
        return self.messages[message]

    def of_workload(self, workload: str) -> tuple[ServicePolicy, ...]:
        """The services that a workload must serve, by name."""
        served = (service for _, service in sorted(self.services.items()))
        return tuple(service for service in served if workload in (each for _, each in service.places))
