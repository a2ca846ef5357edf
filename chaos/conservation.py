"""Send events while everything on their way is killed at random, and account for each of them afterwards.

    python -m chaos.conservation [--events N] [--seed N]... [--home DIRECTORY]

The sender knows of each event how it ended: `ok` (the spool said that it is on the disk), or `unknown` (the spool's
process was killed before it said so). It never sends one again. Meanwhile spool and shipper, the inward bridge, the
broker and the database are killed with SIGKILL, in an order that follows from the seed. In the end:

    lost         ok, and no row                         must be 0
    duplicated   more than one row                      must be 0
    unexpected   a row, and never sent                  must be 0
    recovered    unknown, and a row: allowed

and the ledger of conservation must balance. Exit status 0 only if all of this held for every seed.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
from isthmus.events.v1 import events_pb2

from deploy.local.mesh import LocalMesh
from deploy.local.settings import REPOSITORY

CLICK = 2
PORT_BASE = 17_600
CHUNK = 500
# Slow enough for much to be killed while events are on their way.
EVENTS_PER_S = 4_000
# Events that were written to the sender and not yet answered.
AHEAD_MAX = 20_000
SETTLE_S = 300.0
# Of how often which is killed. The sender takes the spool and the shipper with it.
TARGETS = {"sender": 5, "bridge-inbound": 4, "kafka": 1, "postgres": 1}
PAUSE_S = (0.3, 2.0)


class NotSettled(Exception):
    """Something did not end in time. Says what."""


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the events of one run."""

    seed: int
    events: int
    ok: int
    unknown: int
    lost: int
    duplicated: int
    unexpected: int
    recovered: int
    balanced: bool
    kills: dict[str, int]
    seconds: float

    @property
    def held(self) -> bool:
        return self.balanced and not (self.lost or self.duplicated or self.unexpected)


def account(sent: int, unknown: set[int], rows: Counter[int]) -> tuple[int, int, int, int]:
    """(lost, duplicated, unexpected, recovered) of the events 0 to `sent`; rows: how often each number is there."""
    lost = sum(1 for number in range(sent) if number not in unknown and number not in rows)
    duplicated = sum(count - 1 for count in rows.values())
    unexpected = sum(1 for number in rows if not 0 <= number < sent)
    recovered = sum(1 for number in unknown if number in rows)
    return lost, duplicated, unexpected, recovered


class Sender:
    """Writes events to a process that spools and ships them; starts it again whenever it was killed."""

    def __init__(self, mesh: LocalMesh, directory: Path, seed: int, events: int, accepted_us: int) -> None:
        self._directory = directory
        self._seed = seed
        self._events = events
        self._accepted_us = accepted_us
        identity = mesh.home.identity("edge-1")
        self._environment = os.environ | {
            "ISTHMUS_NODE": "edge-1",
            "ISTHMUS_IDENTITY_DIR": str(identity),
            "ISTHMUS_KAFKA_BOOTSTRAP": mesh.kafka_bootstrap,
        }
        self.process: asyncio.subprocess.Process | None = None
        self.sent = self.answered = 0
        self.unknown: set[int] = set()

    @property
    def all_sent(self) -> bool:
        return self.sent == self._events

    async def run(self) -> None:
        """Returns when every event was sent once and the last process has shipped all that is spooled."""
        while True:
            with (self._directory.parent / "sender.log").open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "public_edge.spool", str(self._directory)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=self._environment,
                    cwd=REPOSITORY,
                )
            first = self.sent
            self.answered = first
            answers = asyncio.create_task(self._read_answers(first))
            # Killed: how far it had come is settled below.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                await self._write()
            code = await self.process.wait()
            await answers
            # Else the loop tells of a pipe that broke, as it had to.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                assert self.process.stdin is not None
                await self.process.stdin.wait_closed()
            self.unknown |= set(range(self.answered, self.sent))
            if self.all_sent and code == 0:
                return
            if code not in (0, -9):
                raise NotSettled(f"the sender ended with {code}: see {self._directory.parent / 'sender.log'}")

    async def _write(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        while self.sent < self._events:
            if self.process.returncode is not None:
                return
            if self.sent - self.answered > AHEAD_MAX:
                await asyncio.sleep(0.005)
                continue
            upto = min(self._events, self.sent + CHUNK)
            lines = b"".join(self._line(number) for number in range(self.sent, upto))
            # From here on it may have been taken.
            self.sent = upto
            self.process.stdin.write(lines)
            await self.process.stdin.drain()
            await asyncio.sleep(CHUNK / EVENTS_PER_S)
        self.process.stdin.close()

    async def _read_answers(self, first: int) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.answered = first + int(line)

    def _line(self, number: int) -> bytes:
        click = events_pb2.Click(
            event_id=f"{self._seed:08x}{number:024x}",
            source_time_us=self._accepted_us,
            accepted_time_us=self._accepted_us,
            node="edge-1",
            slot=f"position-{number % 3 + 1}",
            campaign_id="conservation",
            impression_id=f"{self._seed + 1:08x}{number:024x}",
        )
        return b"%d %s\n" % (CLICK, click.SerializeToString().hex().encode())


async def kill_at_random(mesh: LocalMesh, sender: Sender, seed: int, kills: Counter[str]) -> None:
    """Until all is sent. One thing at a time dies, and the next when it is back, so that nothing ends for good."""
    chance = random.Random(seed)  # noqa: S311 (repeatable, not secret)
    while not sender.all_sent:
        await asyncio.sleep(chance.uniform(*PAUSE_S))
        (target,) = chance.choices(list(TARGETS), list(TARGETS.values()))
        if target == "sender":
            if sender.process is None or sender.process.returncode is not None:
                continue
            sender.process.kill()
        elif mesh.process(target).pid is None:
            # It ended by itself, for want of what was killed before, and is about to be started again.
            continue
        else:
            killed = mesh.kill(target)
            while mesh.process(target).pid in (killed, None):  # noqa: ASYNC110 - another process' death has no event
                await asyncio.sleep(0.02)
            await mesh.wait_ready(target, SETTLE_S)
            # Its deaths were wanted: they do not count towards giving it up.
            await mesh.resume(target)
        kills[target] += 1


async def check(home: Path, events: int, seed: int, port_base: int = PORT_BASE) -> Account:
    """One run in a mesh of its own under `home`. Raises NotSettled when something did not end in time."""
    shutil.rmtree(home, ignore_errors=True)
    began = time.monotonic()
    # In a minute that is over, so that the ledger's lines need not wait for its end.
    accepted_us = (int(time.time()) // 60 - 3) * 60_000_000
    # An edge node brings the identity to send with; it takes no part.
    async with LocalMesh(home, port_base, edge_nodes=1, only=("bridge-inbound", "edge")) as mesh:
        await mesh.suspend("edge-1")
        sender = Sender(mesh, home / "conservation", seed, events, accepted_us)
        kills: Counter[str] = Counter()
        killer = asyncio.create_task(kill_at_random(mesh, sender, seed, kills))
        try:
            await _either(sender.run(), killer)
        finally:
            killer.cancel()
            await asyncio.gather(killer, return_exceptions=True)
        for name in ("kafka", "postgres", "bridge-inbound"):
            await mesh.wait_ready(name, SETTLE_S)
        url = mesh.database_url.replace("postgresql+psycopg://", "postgresql://", 1)
        (lost, duplicated, unexpected, recovered), balanced = await _settled(home, url, sender, seed)
        return Account(
            seed=seed,
            events=events,
            ok=sender.sent - len(sender.unknown),
            unknown=len(sender.unknown),
            lost=lost,
            duplicated=duplicated,
            unexpected=unexpected,
            recovered=recovered,
            balanced=balanced,
            kills=dict(kills),
            seconds=round(time.monotonic() - began, 1),
        )


async def _either(work: Coroutine[None, None, None], killer: "asyncio.Task[None]") -> None:
    """Wait for the work; a killer that fails ends it too."""
    task = asyncio.create_task(work)
    done, _ = await asyncio.wait({task, killer}, return_when=asyncio.FIRST_EXCEPTION)
    if killer in done and killer.exception() is not None:
        task.cancel()
        killer.result()
    await task


async def _settled(home: Path, url: str, sender: Sender, seed: int) -> tuple[tuple[int, int, int, int], bool]:
    """Account until nothing is missing or time is up: what is on its way may still arrive."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        found = account(sender.sent, sender.unknown, await asyncio.to_thread(_rows, url, seed))
        balanced = not found[0] and await asyncio.to_thread(_balanced, home)
        if balanced or time.monotonic() >= deadline:
            return found, balanced
        await asyncio.sleep(1.0)


def _rows(url: str, seed: int) -> Counter[int]:
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT event_id FROM warehouse.click")
        return Counter(row[0].int - (seed << 96) for row in found)


def _balanced(home: Path) -> bool:
    command = [str(Path(sys.executable).with_name("isthmus")), "bridge", "audit", "--json", "--wait", "0"]
    done = subprocess.run(
        command, env=os.environ | {"ISTHMUS_HOME": str(home)}, capture_output=True, text=True, check=False, timeout=120
    )
    if not done.stdout:
        return False
    found = json.loads(done.stdout)
    return bool(found["balanced"]) and found["open_lines"] == 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.conservation", description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, action="append", help="may be given several times; by default 1, 2 and 3")
    parser.add_argument("--home", type=Path, default=REPOSITORY / "var" / "conservation")
    chosen = parser.parse_args(arguments)
    accounts = []
    for seed in chosen.seed or (1, 2, 3):
        accounts.append(asyncio.run(check(chosen.home / f"seed-{seed}", chosen.events, seed)))
        print(json.dumps(asdict(accounts[-1])), flush=True)
    return 0 if all(each.held for each in accounts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
