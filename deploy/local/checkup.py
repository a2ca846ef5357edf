"""Is this machine fit to run a mesh, and is the one that runs here well? Each finding has a remedy."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from deploy.local import postgres, preflight, processes, table, topology
from deploy.local.errors import LauncherError
from deploy.local.health import NotReady, check_identity, probe, tls_context
from deploy.local.kafka import broker
from deploy.local.settings import LauncherSettings
from deploy.local.topology import Listen, Process, Topology
from mesh import contract
from mesh.database import migrate
from mesh.database.engine import async_engine

# A leaf with less than this has missed a rotation.
LEAF_S_MIN = 600.0
HANDSHAKE_DEADLINE_S = 3.0


@dataclass(frozen=True)
class Finding:
    name: str
    # pass, warn or fail
    result: str
    detail: str
    remedy: str = ""


async def all_findings() -> list[Finding]:
    """The findings in order. What needs a running mesh is left out, with one warning, when none runs."""
    settings = LauncherSettings()
    findings = [await _guarded("java", "Run `make setup`", lambda: _java(settings))]
    try:
        running = topology.read(settings.layout.topology)
        alive = [one for one in running.processes if processes.read_pid(settings.layout, one.name)]
    except LauncherError:
        alive = []
    findings.append(await _guarded("ports", "Set ISTHMUS_PORT_BASE", lambda: _ports(settings, bool(alive))))
    if not alive:
        return [*findings, Finding("mesh", "warn", f"none runs in {settings.layout.root}", "Start one: make run")]
    log = f"See {settings.layout.root / 'logs'}"
    steps: tuple[tuple[str, str, Callable[[], Awaitable[str]]], ...] = (
        ("certificates", "See logs/identity-*.log", lambda: _certificates(settings, running)),
        ("tls", "A port that speaks TLS 1.2 must not stay open: stop its process", lambda: _tls(settings, alive)),
        ("migrations", "Restart the mesh: it migrates first", lambda: _migrations(settings)),
        ("topics", "Restart the mesh: it creates them first", lambda: _topics(settings, running)),
        (
            "control planes",
            "See logs/control-*.log",
            lambda: _ready(settings, alive, ("control-public", "control-private")),
        ),
        ("processes", log, lambda: _ready(settings, alive, tuple(p.name for p in running.processes if p.listens))),
    )
    return findings + [await _guarded(*step) for step in steps]


async def _guarded(name: str, remedy: str, step: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(name, "pass", await step())
    except LauncherError as error:
        return Finding(name, "fail", error.message, error.remedy)
    except Exception as error:
        # A check that cannot be made has not passed.
        return Finding(name, "fail", f"{type(error).__name__}: {error}".splitlines()[0], remedy)


async def _java(settings: LauncherSettings) -> str:
    if settings.kafka_bootstrap:
        return "not needed: Kafka is brought along"
    return f"version {await asyncio.to_thread(preflight.java_version)}"


async def _ports(settings: LauncherSettings, running: bool) -> str:
    rows = table.build(settings)
    count = sum(len(row.process.listens) for row in rows)
    if not running:
        preflight.check_ports(rows)
    return f"{count} from {settings.port_base}, {'in use by this mesh' if running else 'all free'}"


async def _certificates(settings: LauncherSettings, running: Topology) -> str:
    identities = [settings.layout.identity(one.name) for one in running.processes if one.workload != "postgres"]
    least_s = min(check_identity(identity) for identity in identities)
    if least_s < LEAF_S_MIN:
        raise NotReady(f"a leaf ends in {least_s:.0f} s: rotation has stopped")
    return f"{len(identities)} leaves, the shortest has {least_s / 3600:.1f} h left"


async def _tls(settings: LauncherSettings, alive: Iterable[Process]) -> str:
    listens = [(one, listen) for one in alive for listen in one.listens]
    old = await asyncio.gather(*(asyncio.to_thread(_accepts_tls_1_2, settings, *pair) for pair in listens))
    bad = [f"{one.name} {listen.port}" for (one, listen), accepts in zip(listens, old, strict=True) if accepts]
    if bad:
        raise NotReady(f"TLS 1.2 is accepted by {', '.join(bad)}")
    return f"{len(listens)} ports refuse TLS 1.2"


def _accepts_tls_1_2(settings: LauncherSettings, process: Process, listen: Listen) -> bool:
    """Offer TLS 1.2 with a good certificate, as someone who should get in otherwise."""
    context = tls_context(settings.layout.identity(process.name))
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((listen.address, listen.port), HANDSHAKE_DEADLINE_S) as connection:
        try:
            context.wrap_socket(connection, server_hostname="localhost").close()
        except (ssl.SSLError, ConnectionError):
            return False
    return True


async def _migrations(settings: LauncherSettings) -> str:
    url = settings.database_url or postgres.url(settings.layout)
    engine = async_engine(url, "check", pool_size=1)
    try:
        owners = migrate.owners()
        for owner in owners:
            await migrate.require_current(engine, owner)
    finally:
        await engine.dispose()
    return f"{len(owners)} schemas are at their newest revision"


async def _topics(settings: LauncherSettings, running: Topology) -> str:
    bootstrap = settings.kafka_bootstrap or str(running.process("kafka").listen("kafka"))
    admin = broker.admin(settings.layout.identity("kafka"), bootstrap)
    there = (await asyncio.to_thread(admin.list_topics, timeout=HANDSHAKE_DEADLINE_S)).topics
    wanted = {event.topic for event in contract.load().events.values()}
    if missing := sorted(wanted - there.keys()):
        raise NotReady(f"missing: {', '.join(missing)}")
    return f"{len(wanted)} of the contract are there"


async def _ready(settings: LauncherSettings, alive: list[Process], names: tuple[str, ...]) -> str:
    by_name = {one.name: one for one in alive}
    if gone := sorted(set(names) - by_name.keys()):
        raise NotReady(f"not running: {', '.join(gone)}")
    await asyncio.gather(*(probe(settings.layout, by_name[name])() for name in names))
    return f"{len(names)} ready"
