"""What the inward bridge is told from outside."""

from pydantic import Field

from sync_bridge.kafka import BridgeSettings


class InboundSettings(BridgeSettings):
    """Environment ISTHMUS_INBOUND_*, beside what both directions are told."""

    inbound_group: str = "isthmus.inbound"
    # One transaction takes this many records at most, and waits this long for more after the first. More of them do not
    # fit into the caches of a core, and each costs a sixth more.
    inbound_batch_records_max: int = Field(default=2000, ge=1, le=50_000)
    inbound_linger_s: float = Field(default=0.01, ge=0, le=1)
    # Records fetched ahead and not yet taken; when it is full, fetching pauses.
    inbound_queue_kib_max: int = Field(default=16 * 1024, ge=64)
    # A worker that is silent for this long loses its partitions to another.
    inbound_session_s: float = Field(default=10.0, ge=6, le=300)
    inbound_statement_s_max: float = Field(default=30.0, gt=0)
    # How often the broker is asked whether the topics are still the same ones.
    inbound_topic_check_s: float = Field(default=10.0, gt=0)
