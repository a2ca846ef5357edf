"""A thread that does one thing for ever, in sessions: what both directions of the bridge run beside the event loop."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Final, Protocol

import psycopg
from confluent_kafka import KafkaException

from mesh import telemetry
from mesh.errors import MeshError
from mesh.logs import logger
from mesh.process import Process
from sync_bridge.kafka import BridgeSettings

# A session that lived for this long was well: the next pause is the shortest again.
_WELL_S: Final = 10.0


class Interrupted(Exception):
    """The session cannot go on, and the next one may: it was fenced, or another is at work."""


class Session(Protocol):
    def run(self, stop: threading.Event) -> None: ...
    def close(self) -> None: ...


class Worker:
    """Keeps a session going; ends the process when a session fails in a way that trying again cannot mend."""

    def __init__(
        self, name: str, process: Process, settings: BridgeSettings, open_session: Callable[[], Session]
    ) -> None:
        self._process = process
        self._settings = settings
        self._open = open_session
        self._log = logger(name)
        self._failed = telemetry.meter().create_counter("bridge.sessions_failed", unit="1")
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        # Ends the session but not the worker: the leaf has rotated, and librdkafka reads its files only once.
        self._renew = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.failure: BaseException | None = None
        process.identity.on_change(lambda _: self._renew.set())

    async def start(self) -> None:
        self._thread.start()

    async def stop(self, grace_s: float) -> None:
        self._stopping.set()
        self._renew.set()
        await asyncio.to_thread(self._thread.join, grace_s)

    def _run(self) -> None:
        try:
            self._keep_going()
        except MeshError as error:
            self._log.error("stopped", reason=error.reason, detail=error.message, remedy=error.remedy)
            self.failure = error
        except BaseException as error:
            self._log.exception("stopped", reason=type(error).__name__)
            self.failure = error
        finally:
            # The loop is closed when the process was quicker.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._process.stopping.set)

    def _keep_going(self) -> None:
        pause_s = self._settings.bridge_backoff_s
        while not self._stopping.is_set():
            began = self._loop.time()
            self._renew.clear()
            if self._stopping.is_set():
                return
            try:
                self._one_session()
                continue
            except psycopg.ProgrammingError:
                # The schema is not what this program was written for: no pause makes that right.
                raise
            except (psycopg.Error, KafkaException, Interrupted, TimeoutError) as error:
                self._failed.add(1, {"error": type(error).__name__})
                cause = str(error).strip().splitlines()
                self._log.warning("session_ended", error=type(error).__name__, detail=cause[0] if cause else "")
            if self._loop.time() - began >= _WELL_S:
                pause_s = self._settings.bridge_backoff_s
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, self._settings.bridge_backoff_s_max)

    def _one_session(self) -> None:
        session = self._open()
        try:
            session.run(self._renew)
        finally:
            session.close()
