"""Ids of entities: UUID version 7 (RFC 9562, section 5.7), so that they sort by the time they were made."""

import secrets
import uuid


def new_id(now_us: int) -> str:
    """A new id: the millisecond in the first 48 bits, 74 random bits behind it."""
    random = secrets.randbits(74)
    value = (
        (now_us // 1000 & (1 << 48) - 1) << 80 | 0x7 << 76 | (random >> 62) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    )
    return str(uuid.UUID(int=value))
