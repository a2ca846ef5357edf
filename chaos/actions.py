"""Actions of the extension: what an experiment may break. Each is journalled before it is made, and ends by itself.

`for_s` is a fault's time to live in seconds: the mesh heals it then, even when nobody is left to ask for it.
Every action fails, and nothing is touched, when it would reach further than the experiment's blast radius.
"""

import math
import random
import time

from chaoslib.exceptions import ActivityFailed

from chaos.checkers.keys import COMMAND_WITHIN_S, root_rotated, rotated, signing_replaced
from chaos.drill import current
from chaos.drill.leaders import leader
from chaos.drill.session import Session
from chaos.drill.topics import deletion_refused
from chaos.load.outcomes import CallFailed
from deploy.local.errors import LauncherError
from mesh.errors import MeshError

__all__ = [
    "add_nodes",
    "delete_topic",
    "disturb_calls",
    "disturb_link",
    "exhaust_files",
    "exhaust_memory",
    "fill_disk",
    "freeze",
    "freeze_primary",
    "heal",
    "hold",
    "hold_primary",
    "hold_workload",
    "kill",
    "kill_primary",
    "kill_share",
    "lose_data",
    "lose_identities",
    "lose_patience",
    "restore_elsewhere",
    "rotate_data_keys",
    "rotate_root",
    "rotate_signing_keys",
    "skew_clock",
    "slow_disk_of_primary",
    "spoil_identity",
    "starve",
    "steal_identity",
    "surge",
    "wait_ready",
]
ROTATED_WITHIN_S = 60.0
SURGE_MAX = 50
SURGE_S_MAX = 120
IMPATIENCE_MAX = 50


def kill(process: str) -> list[str]:
    """SIGKILL one process. The mesh starts it again by itself."""
    return _broken("kill", [process], None)


def kill_share(workload: str, share: float) -> list[str]:
    """SIGKILL this share of a workload's nodes, rounded up, chosen by the experiment's seed. Returns their names."""
    session = _session()
    nodes = sorted(session.target.of(workload))
    if not nodes or not 0 < share <= 1:
        raise ActivityFailed(f"{share} of {workload} is nothing that could be killed")
    chance = random.Random(session.drill.seed)  # noqa: S311 (no secret)
    return _broken("kill", sorted(chance.sample(nodes, math.ceil(share * len(nodes)))), None)


def freeze(process: str, for_s: float) -> list[str]:
    """SIGSTOP: the process keeps its connections and answers nothing. Healed by SIGCONT."""
    return _broken("freeze", [process], for_s)


def exhaust_files(process: str, for_s: float) -> list[str]:
    """Let a process open nothing more: no connection, no file. Healed by giving it its limit back."""
    return _broken("exhaust-files", [process], for_s)


def exhaust_memory(process: str, for_s: float) -> list[str]:
    """Let a process have no more memory than it has. Healed by giving it its limit back; one that ends starts anew."""
    return _broken("exhaust-memory", [process], for_s)


def starve(process: str, share: float, for_s: float) -> list[str]:
    """Let a process run for this share of the time alone, from 0 to 1."""
    return _broken("starve", [process], for_s, share=share)


def skew_clock(process: str, seconds: float, for_s: float) -> list[str]:
    """Start one of the mesh's own processes anew with its clock so many seconds ahead; negative: behind. Healed by
    starting it with the right one."""
    return _broken("skew-clock", [process], for_s, seconds=seconds)


def fill_disk(process: str, free_bytes: int, for_s: float) -> list[str]:
    """Start a process anew on a disk of its own with no more than so much room. Where root. Healed by giving it back
    all the room there is, with what it kept."""
    return _broken("fill-disk", [process], for_s, free_bytes=free_bytes)


def slow_disk_of_primary(workload: str, latency_ms: float, for_s: float) -> list[str]:
    """Let every commit of the database wait so much longer for its disk, 100 ms at most. Returns the primary's name."""
    return _broken("slow-disk", [_primary(workload)], for_s, latency_ms=latency_ms)


def delete_topic(topic: str) -> str:
    """Ask for a topic to be deleted, as the brokers' own identity, which may do anything. Fails when it is done."""
    session = _session()
    with session.window(f"topic {topic}: deletion asked for"):
        refusal = deletion_refused(session.target, topic)
    if not refusal:
        raise ActivityFailed(f"{topic} was deleted; make it anew with `python -m deploy.local.topics`")
    return refusal


def steal_identity(process: str) -> list[str]:
    """Let somebody keep a copy of a process' certificate and key. It changes nothing, so it needs no undoing."""
    return _broken("steal-identity", [process], None)


def spoil_identity(process: str, how: str, for_s: float) -> list[str]:
    """Give a process a certificate that is `expired`, a `stranger`'s, or `revoked`: the stolen one, of a root that has
    been replaced since. Healed by giving it back the one it had.

    Its zone's identity agent would replace it within a second: hold or freeze that first.
    """
    return _broken("spoil-identity", [process], for_s, how=how)


def hold(process: str, for_s: float, abruptly: bool = False) -> list[str]:
    """Stop one process and keep it down; `abruptly` by SIGKILL. Healed by starting it again."""
    return _broken("hold", [process], for_s, abruptly=abruptly)


def kill_primary(workload: str) -> list[str]:
    """SIGKILL the node of a workload that leads the others: see chaos.drill.leaders. Returns its name."""
    return _broken("kill", [_primary(workload)], None)


def hold_primary(workload: str, for_s: float, abruptly: bool = False) -> list[str]:
    """Stop the node of a workload that leads the others and keep it down. Returns its name."""
    return _broken("hold", [_primary(workload)], for_s, abruptly=abruptly)


def freeze_primary(workload: str, for_s: float) -> list[str]:
    """SIGSTOP the node of a workload that leads the others. Returns its name."""
    return _broken("freeze", [_primary(workload)], for_s)


def hold_workload(workload: str, for_s: float, abruptly: bool = False) -> list[str]:
    """Stop every node of a workload and keep them down. Returns their names."""
    return _broken("hold", sorted(_session().target.of(workload)), for_s, abruptly=abruptly)


def lose_data(workload: str, for_s: float) -> list[str]:
    """Take every node of the database away with all that it has, the primary last. Healed from the backup; the data
    lies aside until then. Returns their names."""
    primary = _primary(workload)
    standbys = [name for name in _session().target.of(workload) if name != primary]
    return _broken("lose-data", [*standbys, primary], for_s)


def restore_elsewhere() -> float:
    """Restore the database into a second place from its backup, start the private rooms there beside the keys that were
    brought along, and compare their books with all that was acknowledged. Returns the seconds since the first fault."""
    try:
        return _session().restore_elsewhere()
    except (LauncherError, MeshError, TimeoutError) as error:
        raise ActivityFailed(str(error) or "the second place took too long") from error


def lose_identities(workloads: list[str]) -> list[str]:
    """Take away the certificates of every node of these workloads. Their zone's agent issues new ones by itself."""
    session = _session()
    names = sorted(name for workload in workloads for name in session.target.of(workload))
    return _broken("lose-identity", names, None)


def disturb_link(
    link: str,
    mode: str,
    for_s: float,
    latency_ms: float = 0.0,
    jitter_ms: float = 0.0,
    bytes_per_s: float | None = None,
    directions: list[str] | None = None,
    loss: float = 0.0,
) -> str:
    """Disturb what crosses between the zones: `core` (edge gateway to core gateway), `kafka` (bridges to broker) or all
    of it, the cable between the `zones` (which knows black-hole alone); or what the rooms say to their `database`.

    `mode` is black-hole (nothing arrives until it is healed), reset (connections are torn), half-open (the far side
    forgets them and the near side is not told), lossy (`loss`, a share of what is sent, tears its connection) or slow
    (latency_ms, jitter_ms, bytes_per_s). `directions`: there (from who connects), back, or both.
    """
    fault = {"mode": mode, "latency_ms": latency_ms, "jitter_ms": jitter_ms, "bytes_per_s": bytes_per_s, "loss": loss}
    session = _session()
    try:
        session.break_link(link, for_s, directions=directions or ["there", "back"], **fault)
    except LauncherError as error:
        raise ActivityFailed(str(error)) from error
    return f"{link}: {mode}"


def disturb_calls(method: str, for_s: float, percent: int = 100, delay_ms: int = 0, abort: str = "") -> str:
    """Let so many percent of the calls of a method wait, or fail with a gRPC status: `orders/InspectOrder`.

    Made by the gateways and clients next to the called service, as their control plane tells them.
    """
    try:
        _session().break_method(method, for_s, percent, delay_ms, abort)
    except LauncherError as error:
        raise ActivityFailed(str(error)) from error
    return method


def rotate_data_keys() -> int:
    """Wrap every member's data key under a new key, as `isthmus keys rotate` does. Returns how many keys there are."""
    session = _session()
    try:
        with session.window("data keys: rotated"):
            return session.loop.run(rotated(session.crowd.channel), ROTATED_WITHIN_S)
    except MeshError as error:
        raise ActivityFailed(f"the keys could not be rotated: {error}") from error


def rotate_root(zone: str) -> str:
    """Replace the root of a zone's certificates, as `isthmus keys rotate-root` does. Takes half a minute."""
    session = _session()
    with session.window(f"root of the {zone} zone: rotated"):
        done = session.loop.run(root_rotated(session.target.home.root, zone), COMMAND_WITHIN_S + 30)
    if not done:
        raise ActivityFailed(f"the root of the {zone} zone was not rotated")
    return zone


def rotate_signing_keys() -> float:
    """Replace the keys that sign access tokens, as `isthmus keys rotate-signing` does. Fails when a token that an old
    one signed is still accepted then. Returns the seconds that it took."""
    session, began = _session(), time.monotonic()
    crowd = session.crowd
    try:
        old = session.loop.run(crowd.token(), 60)
        if not session.loop.run(crowd.accepts(old), 60):
            raise ActivityFailed("the crowd's token is refused already")
        with session.window("signing keys: replaced in a hurry"):
            done = session.loop.run(signing_replaced(session.target.home.root), COMMAND_WITHIN_S + 30)
        if not done:
            raise ActivityFailed("the signing keys were not replaced")
        if session.loop.run(crowd.accepts(old), 60):
            raise ActivityFailed("a token of an old key is accepted still")
    except CallFailed as failure:
        raise ActivityFailed(str(failure)) from failure
    return round(time.monotonic() - began, 1)


def add_nodes(workload: str, nodes: int, for_s: float) -> str:
    """Let spare nodes of a workload run, before there is much to do. They are drained when it is healed. Returns at
    once: see wait_ready."""
    try:
        _session().add_nodes(workload, nodes, for_s)
    except LauncherError as error:
        raise ActivityFailed(str(error)) from error
    return f"{nodes} of {workload}"


def surge(times: float, for_s: float) -> float:
    """Send this many times the experiment's public traffic for so long. It ends by itself; returns at once."""
    session = _session()
    if not 1 < times <= SURGE_MAX or not 0 < for_s <= SURGE_S_MAX:
        raise ActivityFailed(f"a surge is more than 1 and at most {SURGE_MAX} times, for at most {SURGE_S_MAX} s")
    session.loop.run(session.crowd.surge(times, for_s), 10)
    return times


def lose_patience(times: int) -> int:
    """From now on every sensitive call that fails is sent again at once, up to so many times. 0: patience again."""
    session = _session()
    if not 0 <= times <= IMPATIENCE_MAX:
        raise ActivityFailed(f"times must be from 0 to {IMPATIENCE_MAX}")
    session.crowd.traffic.impatience = times
    return times


def heal() -> list[str]:
    """Undo every fault of this drill that is not over. Returns what it was. As a rollback it is safe at any time."""
    if not current.is_open():
        return []
    return _session().heal()


def wait_ready(workload: str, within_s: float = 120.0) -> float:
    """Wait until every node of a workload is ready; returns the seconds that it took."""
    session = _session()
    try:
        return round(session.recovered(session.target.of(workload), within_s), 1)
    except LauncherError as error:
        raise ActivityFailed(str(error)) from error


def _primary(workload: str) -> str:
    try:
        return leader(_session().target, workload)
    except LauncherError as error:
        raise ActivityFailed(str(error)) from error


def _broken(do: str, names: list[str], for_s: float | None, **more: object) -> list[str]:
    if not names:
        raise ActivityFailed("no such process in this mesh")
    try:
        _session().break_processes(do, names, for_s, **more)
    except LauncherError as error:
        raise ActivityFailed(str(error)) from error
    return names


def _session() -> Session:
    try:
        return current.session()
    except current.NoDrill as error:
        raise ActivityFailed(str(error)) from error
