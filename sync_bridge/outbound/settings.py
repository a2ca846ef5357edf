"""What the outward bridge is told from outside."""

from pydantic import Field

from sync_bridge.kafka import BridgeSettings


class OutboundSettings(BridgeSettings):
    """Environment ISTHMUS_OUTBOUND_*, beside what both directions are told."""

    outbound_batch_records_max: int = Field(default=500, ge=1, le=10_000)
    # Between two looks into an empty outbox. Notifications would be quicker, and would make every commit that writes
    # to the outbox wait for every other.
    outbound_poll_s: float = Field(default=0.1, gt=0, le=10)
    # How often a relay that stands by tries to become the active one.
    outbound_standby_s: float = Field(default=1.0, gt=0, le=60)
    # A transaction that Kafka has not taken by then is given up and sent again.
    outbound_send_s_max: float = Field(default=10.0, gt=0, le=60)
    outbound_statement_s_max: float = Field(default=10.0, gt=0)
