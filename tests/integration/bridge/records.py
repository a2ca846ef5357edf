"""Records as the client library would hand them out, without a broker."""

from dataclasses import dataclass, field

from google.protobuf.message import Message

from tests.integration.bridge import events


@dataclass(frozen=True)
class Fetched:
    """Satisfies sync_bridge.inbound.domain.Record."""

    at: tuple[str, int, int]
    payload: bytes | None
    sent_headers: dict[str, bytes | None] = field(default_factory=dict)
    time_ms: int = 1_700_000_000_000

    def topic(self) -> str:
        return self.at[0]

    def partition(self) -> int:
        return self.at[1]

    def offset(self) -> int:
        return self.at[2]

    def key(self) -> bytes | None:
        return b"key"

    def value(self) -> bytes | None:
        return self.payload

    def headers(self) -> list[tuple[str, bytes | None]]:
        return list(self.sent_headers.items())

    def timestamp(self) -> tuple[int, int]:
        return 1, self.time_ms


def record(event: Message, offset: int, partition: int = 0, **changed: bytes | None) -> Fetched:
    """`event` at an offset; `changed` headers replace the right ones, None removes one."""
    headers: dict[str, bytes | None] = {
        name: value.encode() if isinstance(value, str) else value for name, value in events.headers(event).items()
    }
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    kept: dict[str, bytes | None] = {name: value for name, value in headers.items() if value is not None}
    return Fetched((events.topic_of(event), partition, offset), event.SerializeToString(), kept)
