"""The life of a process: settings, logs, identity, telemetry, then its own main, then a drain. The same for all."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import uvloop
from opentelemetry.metrics import Observation
from pydantic import ValidationError

from mesh import csds, fallback, logs, telemetry
from mesh.channel import Channels
from mesh.contract import Contract, ContractError, load
from mesh.server import MeshServer
from mesh.settings import ProcessSettings
from mesh.tls import Identity, IdentityError, require_tls13

S = TypeVar("S", bound=ProcessSettings)
_EXIT_MISCONFIGURED = 2
# New objects, then collections of the young ones, then of those that outlived one.
_COLLECT_AFTER = (20_000, 20, 20)


class Service(Protocol):
    """Something that runs beside the server: a consumer, a relay, an HTTP front."""

    async def start(self) -> None: ...
    async def stop(self, grace_s: float) -> None: ...


class Process:
    """What a main gets to build with. `stopping` is set when the process is asked to end."""

    def __init__(self, settings: ProcessSettings, identity: Identity, contract: Contract) -> None:
        self.settings = settings
        self.identity = identity
        self.contract = contract
        self.channels = Channels(identity, contract)
        self.stopping = asyncio.Event()
        self.log = logs.logger("process")

    async def serve(self, server: MeshServer | None, *others: Service) -> None:
        """Start `others` in order, then the server; say that calls may come; wait for SIGTERM; drain in reverse.

        One of `others` that fails to start ends the process: half a process is worse than none.
        """
        services: list[Service] = list(others)
        standby = fallback.of_process(self._applied)
        if standby is not None:
            services.insert(0, standby)
        if self.settings.metrics_address:
            services.insert(0, telemetry.MetricsEndpoint(self.settings.metrics_address, self.identity))
        if server is not None:
            services.append(server)
        started: list[Service] = []
        watch = asyncio.create_task(self.identity.watch(), name="identity")
        try:
            for service in services:
                await service.start()
                started.append(service)
            if server is not None:
                await server.mark(serving=True)
            self.log.info("serving", grpc=self.settings.grpc_address, http=self.settings.http_address)
            await self.stopping.wait()
            self.log.info("draining", limit_s=self.settings.drain_s)
        finally:
            watch.cancel()
            if server is not None and server in started:
                await server.mark(serving=False)
            for service in reversed(started):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.settings.drain_s + 1):
                        await service.stop(self.settings.drain_s)
            await self.channels.close()

    async def _applied(self) -> bytes:
        return csds.applied() if self.channels.discover else b""


def start(main: Callable[[S, Process], Awaitable[None]], settings_type: type[S]) -> None:
    """Run a process from its environment to its end. What __main__ calls."""
    try:
        require_tls13()
        settings = settings_type()
    except IdentityError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        sys.exit(_EXIT_MISCONFIGURED)
    except ValidationError as error:
        wrong = "; ".join(f"ISTHMUS_{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        print(f"cannot start: {wrong}", file=sys.stderr)
        sys.exit(_EXIT_MISCONFIGURED)
    try:
        logs.configure(settings)
    except ContractError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        sys.exit(_EXIT_MISCONFIGURED)
    _let_threads_finish()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_live(main, settings))


def _let_threads_finish() -> None:
    """A thread that is woken does not take the processor from the one that woke it (docs/adr/0012).

    Work changes hands between the loop and threads of gRPC, of the HTTP front or of Kafka: they pass on several at a
    time. For this thread and all that it starts.
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


async def _live(main: Callable[[S, Process], Awaitable[None]], settings: S) -> None:
    identity = await Identity.wait(settings.identity_dir)
    telemetry.configure(settings)
    process = Process(settings, identity, load())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.stopping.set)
    telemetry.meter().create_observable_gauge(
        "identity.remaining", [lambda _: [Observation(identity.remaining_s())]], unit="s"
    )
    # What stands now stays for good: the collector need not look through it again and again.
    gc.collect()
    gc.freeze()
    # A call leaves a few hundred objects and hardly a cycle: looked for at every third call, one is seldom found.
    gc.set_threshold(*_COLLECT_AFTER)
    try:
        await main(settings, process)
    finally:
        telemetry.shutdown()
