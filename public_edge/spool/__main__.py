"""Spool events from standard input and ship them to Kafka: for events that come in a file, and for checks that kill it.

    python -m public_edge.spool DIRECTORY < EVENTS

A line is the kind's number and the message in hexadecimal. For each group that is on the disk, how many lines have been
taken is printed. Ends when the input has ended and everything is shipped; what was not is shipped by the next one on
the directory. Environment, as an edge node's: ISTHMUS_NODE, ISTHMUS_IDENTITY_DIR, ISTHMUS_KAFKA_BOOTSTRAP.
"""

import asyncio
import sys
from pathlib import Path

from google.protobuf.message import DecodeError
from isthmus.events.v1 import events_pb2
from pydantic_settings import BaseSettings, SettingsConfigDict

from mesh.contract import load
from public_edge.kafka import KafkaAccess
from public_edge.spool import event
from public_edge.spool.event import Kind, pack
from public_edge.spool.shipper import Shipper
from public_edge.spool.spool import Spool

GROUP_MAX = 256
DRAIN_S = 120.0
_LINE_BYTES_MAX = 1 << 18


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ISTHMUS_", extra="ignore")

    node: str
    identity_dir: Path
    kafka_bootstrap: str


def parse(line: bytes) -> bytes:
    """The line as it lies in the spool. Raises ValueError for one that is no event."""
    kind_text, _, message_hex = line.strip().partition(b" ")
    kind, body = Kind(int(kind_text)), bytes.fromhex(message_hex.decode("ascii"))
    try:
        message = event.parse(kind, body)
    except DecodeError as error:
        raise ValueError(f"not a {kind.message}") from error
    return pack(kind, bytes.fromhex(message.event_id), "", body)


async def take(spool: Spool) -> int:
    """Spool standard input to its end; returns the number of lines. Raises ValueError naming a line that is none."""
    reader = asyncio.StreamReader(limit=_LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    taken = 0
    rest = b""
    while chunk := await reader.read(_LINE_BYTES_MAX):
        *lines, rest = (rest + chunk).split(b"\n")
        for at in range(0, len(lines), GROUP_MAX):
            group = lines[at : at + GROUP_MAX]
            try:
                last = spool.append_many(list(map(parse, group)), durable=True)
            except ValueError as error:
                raise ValueError(f"one of the lines {taken + 1} to {taken + len(group)}: {error}") from error
            assert last is not None
            await spool.synced(last)
            taken += len(group)
            print(taken, flush=True)
    return taken


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    settings, events = Settings(), load().events
    topics = {kind: events[kind.message].topic for kind in Kind}
    ledger_topic = events[events_pb2.SpoolLedger.DESCRIPTOR.full_name].topic
    spool = Spool(Path(arguments[0]))
    access = KafkaAccess(settings.kafka_bootstrap, settings.identity_dir, settings.node)
    shipper = Shipper(spool, access, topics, ledger_topic, settings.node)
    shipper.start()
    try:
        asyncio.run(take(spool))
    except ValueError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    finally:
        shipper.drain(DRAIN_S)
        shipper.stop(1.0)
        spool.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
