"""Is this machine fit to run a mesh, and is the one that runs here well? Each finding has a remedy.

The findings come in the order in which things depend on each other: the first that fails is the one to mend first.
"""

import asyncio
import fcntl
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from deploy.local import clocks, control_planes, events, postgres, preflight, processes, replication, table, topology
from deploy.local.errors import LauncherError
from deploy.local.health import NotReady, check_identity, probe, tls_context
from deploy.local.kafka import broker
from deploy.local.settings import Home, LauncherSettings
from deploy.local.topology import Listen, Process, Topology
from mesh.database import migrate
from mesh.database.engine import async_engine
from mesh.errors import MeshError
from mesh.spiffe import ZONES

# A leaf with less than this has missed a rotation.
LEAF_S_MIN = 600.0
# A root with less than this should be rotated now.
ROOT_S_MIN = 30 * 24 * 3600.0
# Tokens are refused for less than twice as much.
SKEW_S_MAX = 2.0
HANDSHAKE_DEADLINE_S = 3.0
# What OpenSSL says of bytes that are no record of TLS.
_NO_RECORD = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})


class Doubt(Exception):
    """Not well, and not broken either."""


@dataclass(frozen=True)
class Finding:
    name: str
    # pass, warn or fail
    result: str
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class _Mesh:
    """The mesh that runs here: what its table says, and which of it lives."""

    settings: LauncherSettings
    running: Topology
    alive: list[Process]

    @property
    def home(self) -> Home:
        return self.settings.layout


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
    orphans = "End them with `kill`, or start the mesh again: it ends them first"
    findings.append(await _guarded("orphans", orphans, lambda: _orphans(settings.layout)))
    if not alive:
        return [*findings, Finding("mesh", "warn", f"none runs in {settings.layout.root}", "Start one: make run")]
    mesh = _Mesh(settings, running, alive)
    for name, remedy, step in _steps(settings.layout.logs):
        findings.append(await _guarded(name, remedy, lambda step=step: step(mesh)))  # type: ignore[misc]
    return findings


async def finding(name: str) -> Finding:
    """One of the findings about the mesh that runs here.

    Raises:
        LauncherError: none runs.
    """
    settings = LauncherSettings()
    running = topology.read(settings.layout.topology)
    alive = [one for one in running.processes if processes.read_pid(settings.layout, one.name)]
    ((remedy, step),) = [found[1:] for found in _steps(settings.layout.logs) if found[0] == name]
    return await _guarded(name, remedy, lambda: step(_Mesh(settings, running, alive)))


def _steps(logs: Path) -> tuple[tuple[str, str, Callable[[_Mesh], Awaitable[str]]], ...]:
    return (
        ("clock", "Let one source set the clocks of this machine, of the database's and of those named", _clock),
        ("certificates", f"See {logs}/identity-*.log; the zone's identity agent issues them", _certificates),
        ("trust bundles", f"See {logs}/identity-*.log; a process takes up a new bundle by itself", _bundles),
        (
            "tls",
            f"A port that speaks TLS 1.2, or none, must not stay open: stop its process. Of a silent one see {logs}",
            _tls,
        ),
        ("migrations", "Restart the mesh: it migrates first", _migrations),
        ("topics", "Restart the mesh: it first makes them as the contract has them", _topics),
        ("control planes", f"See {logs}/control-*.log", _control_planes),
        ("data planes", "See `isthmus config status`, and the log of each one named", _data_planes),
        ("configuration", "See `isthmus config history`; mend what the reason names", _configuration),
        ("endpoints", f"See the logs of those named in {logs}", _endpoints),
        ("processes", f"See the logs of those named in {logs}", _processes),
        ("lag", f"See {logs}/bridge-inbound.log and `isthmus bridge status`", _lag),
    )


async def _guarded(name: str, remedy: str, step: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(name, "pass", await step())
    except Doubt as doubt:
        return Finding(name, "warn", str(doubt), remedy)
    except (LauncherError, MeshError) as error:
        return Finding(name, "fail", error.message, error.remedy or remedy)
    except Exception as error:
        # A check that cannot be made has not passed.
        text = str(error) if isinstance(error, NotReady) else f"{type(error).__name__}: {error}"
        return Finding(name, "fail", text.splitlines()[0], remedy)


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


async def _orphans(home: Home) -> str:
    left = processes.orphans(home)
    if left and not _launcher_lives(home):
        raise NotReady("without a launcher: " + ", ".join(f"{name} (pid {one.pid})" for name, one in left.items()))
    return "none"


def _launcher_lives(home: Home) -> bool:
    """Whether somebody holds the home's lock."""
    try:
        with home.lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


async def _clock(mesh: _Mesh) -> str:
    before = time.time()
    theirs = await events.database_clock(_database_url(mesh.settings))
    skew_s = max(0.0, before - theirs, theirs - time.time())
    if skew_s > SKEW_S_MAX:
        raise NotReady(f"the database's clock is {skew_s:.1f} s away from this machine's")
    skews = await clocks.skews(mesh.home, mesh.alive)
    off = [f"{name} by {skew:.1f} s" for name, skew in sorted(skews.items()) if skew > SKEW_S_MAX]
    if off:
        raise NotReady(f"clocks are away from this machine's: {', '.join(off)}")
    return f"{skew_s * 1000:.0f} ms away from the database's; {len(skews)} processes agree"


async def _certificates(mesh: _Mesh) -> str:
    least_s, shortest = float("inf"), ""
    for one in mesh.running.processes:
        if one.by_socket:
            continue
        try:
            left_s = check_identity(mesh.home.identity(one.name))
        except NotReady as error:
            raise NotReady(f"{one.name}: {error}") from error
        if left_s < least_s:
            least_s, shortest = left_s, one.name
    if least_s < LEAF_S_MIN:
        raise NotReady(f"the leaf of {shortest} ends in {least_s:.0f} s: rotation has stopped")
    return f"the shortest, of {shortest}, has {least_s / 3600:.1f} h left"


async def _bundles(mesh: _Mesh) -> str:
    roots = {zone: _read_certificates(mesh.home.root / "ca" / zone / "root.pem") for zone in ZONES}
    for zone, found in roots.items():
        left_s = min((each.not_valid_after_utc - datetime.now(UTC)).total_seconds() for each in found)
        if left_s < ROOT_S_MIN:
            raise Doubt(f"the root of the {zone} zone ends in {left_s / 86400:.0f} days")
    lacking = []
    for one in mesh.running.processes:
        if not one.by_socket:
            bundle = _read_certificates(mesh.home.identity(one.name) / "bundle.pem")
            if not any(each in bundle for each in roots[one.zone]):
                lacking.append(one.name)
    if lacking:
        raise NotReady(f"the root of their own zone is not trusted by {', '.join(lacking)}")
    return "every process trusts the root of its zone"


def _read_certificates(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


class _SpeaksNoTls(Exception):
    pass


async def _tls(mesh: _Mesh) -> str:
    listens = [(one, listen) for one in mesh.alive for listen in one.listens]
    asked = (asyncio.to_thread(_accepts_tls_1_2, mesh.settings, *pair) for pair in listens)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    bad, bare, silent = [], [], []
    for (one, listen), accepts in zip(listens, answers, strict=True):
        if isinstance(accepts, _SpeaksNoTls):
            bare.append(f"{one.name} {listen.port}")
        elif isinstance(accepts, OSError):
            silent.append(f"{one.name} {listen.port} ({type(accepts).__name__})")
        elif isinstance(accepts, BaseException):
            raise accepts
        elif accepts:
            bad.append(f"{one.name} {listen.port}")
    if bad:
        raise NotReady(f"TLS 1.2 is accepted by {', '.join(bad)}")
    if bare:
        raise NotReady(f"no TLS is spoken by {', '.join(bare)}")
    if silent:
        raise NotReady(f"what they accept is not known of {', '.join(silent)}")
    return f"{len(listens)} ports refuse TLS 1.2"


def _accepts_tls_1_2(settings: LauncherSettings, process: Process, listen: Listen) -> bool:
    """Offer TLS 1.2 with a good certificate, as someone who should get in otherwise. OSError where nobody answers,
    _SpeaksNoTls where somebody does in the clear."""
    context = tls_context(settings.layout.identity(process.name))
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((listen.address, listen.port), HANDSHAKE_DEADLINE_S) as connection:
        try:
            context.wrap_socket(connection, server_hostname="localhost").close()
        except ssl.SSLCertVerificationError:
            # Whoever shows a certificate has agreed to the version before.
            return True
        except ssl.SSLError as error:
            if error.reason in _NO_RECORD:
                raise _SpeaksNoTls from error
            return False
        except ConnectionError:
            # Hung up.
            return False
    return True


def _database_url(settings: LauncherSettings) -> str:
    return settings.database_url or postgres.url(settings.layout, nodes=replication.nodes(settings.layout))


async def _migrations(mesh: _Mesh) -> str:
    engine = async_engine(_database_url(mesh.settings), "check", pool_size=1)
    try:
        owners = migrate.owners()
        for owner in owners:
            await migrate.require_current(engine, owner)
    finally:
        await engine.dispose()
    return f"{len(owners)} schemas are at their newest revision"


def _bootstrap(mesh: _Mesh) -> str:
    return mesh.settings.kafka_bootstrap or ",".join(
        str(one.listen("kafka")) for one in mesh.running.of(broker.WORKLOAD)
    )


def _broker_identity(mesh: _Mesh) -> Path:
    return mesh.home.identity(mesh.running.of(broker.WORKLOAD)[0].name)


async def _topics(mesh: _Mesh) -> str:
    wrong = await asyncio.to_thread(events.topic_faults, _broker_identity(mesh), _bootstrap(mesh))
    if wrong:
        raise NotReady("; ".join(wrong))
    return "all of the contract are there, as the contract has them"


async def _control_planes(mesh: _Mesh) -> str:
    await _ready(mesh, tuple(f"control-{zone}" for zone in ZONES))
    said = await control_planes.reports(mesh.home)
    if said.silent:
        raise NotReady("; ".join(f"{control} does not answer: {why}" for control, why in said.silent.items()))
    return "both are ready"


async def _data_planes(mesh: _Mesh) -> str:
    said = await control_planes.reports(mesh.home)
    connected = {plane.node for report in said.found for plane in report.planes if plane.connected}
    # Gateways need their control plane's word; other processes ask only for those whom they call.
    missing = [one.node for one in mesh.alive if one.workload.endswith("-gateway") and one.node not in connected]
    if missing:
        raise NotReady(f"not connected to their control plane: {', '.join(missing)}")
    return f"{len(connected)} are connected"


async def _configuration(mesh: _Mesh) -> str:
    said = await control_planes.reports(mesh.home)
    for group, change in {change.group: change for change in said.changes}.items():
        if change.fate in ("rejected", "withheld"):
            raise NotReady(f"{group}: {change.configuration} is {change.fate}: {change.reason}")
    behind = [
        f"{plane.node} ({control_planes.short(kind)})"
        for report in said.found
        for plane in report.planes
        for kind, told in plane.types.items()
        if plane.connected and told.sent != told.acknowledged and not kind.endswith("ClusterLoadAssignment")
    ]
    if behind:
        raise Doubt(f"not acknowledged yet by {', '.join(behind)}")
    return "what was offered last is acknowledged everywhere"


async def _endpoints(mesh: _Mesh) -> str:
    states = {each.node: control_planes.state(each) for each in (await control_planes.reports(mesh.home)).endpoints}
    bad = [f"{node} is {state}" for node, state in sorted(states.items()) if state != "healthy"]
    if any("unhealthy" in each for each in bad):
        raise NotReady(", ".join(bad))
    if bad:
        raise Doubt(", ".join(bad))
    return f"{len(states)} answer the control planes' probes"


async def _processes(mesh: _Mesh) -> str:
    return await _ready(mesh, tuple(one.name for one in mesh.running.processes if one.listens))


async def _ready(mesh: _Mesh, names: Iterable[str]) -> str:
    by_name = {one.name: one for one in mesh.alive}
    wanted = [name for name in names if mesh.running.process(name).listens]
    if gone := sorted(set(wanted) - by_name.keys()):
        raise NotReady(f"not running: {', '.join(gone)}")

    async def ask(name: str) -> None:
        try:
            await probe(mesh.home, by_name[name])()
        except NotReady as error:
            raise NotReady(f"{name}: {error}") from error

    await asyncio.gather(*(ask(name) for name in wanted))
    return f"{len(wanted)} ready"


async def _lag(mesh: _Mesh) -> str:
    behind = await events.lag(_broker_identity(mesh), _bootstrap(mesh), _database_url(mesh.settings))
    if behind > events.LAG_MAX:
        raise Doubt(f"{behind} events wait for the warehouse")
    return f"{behind} events wait for the warehouse"
