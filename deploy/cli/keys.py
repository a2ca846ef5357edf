"""`isthmus keys`: of personal data (where a rotation stands, the next one, erasure), of certificates, of tokens."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json

if TYPE_CHECKING:
    from isthmus.members.v1 import members_pb2
    from isthmus.members.v1.members_pb2_grpc import DataKeysAsyncStub

    from security.keys.seal import Seal

BATCH = 500
PROOF_POLL_S = 0.5
PROOF_WAIT_S = 30.0
ROOT_WAIT_S = 120.0
SIGNING_WAIT_S = 60.0

Room = Annotated[str, typer.Option(help="Whose keyring: members or oauth.")]

app = typer.Typer(help="The keys of personal data, of certificates and of tokens.", no_args_is_help=True)


@app.command()
def status(as_json: Json = False) -> None:
    """Show each key-encryption key and how many data keys it wraps. A rotation is finished when none remain."""
    with clear_errors():
        found = asyncio.run(_status())
    _show(found, as_json)


@app.command()
def rotate(
    go_on: Annotated[bool, typer.Option("--resume", help="Add no new key: finish what was begun.")] = False,
    retire: Annotated[
        bool, typer.Option("--retire", help="Then destroy the older keys: no older backup opens.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Wrap every data key under a new key-encryption key. Nothing stops; interrupted, it goes on with --resume."""
    with clear_errors():
        found = asyncio.run(_rotate(go_on, retire, as_json))
    _show(found, as_json)
    if found["remaining"]:
        raise typer.Exit(1)


@app.command("rotate-root")
def rotate_root(
    zone: Annotated[str, typer.Argument(help="public or private.")],
) -> None:
    """Replace the root of a zone's certificates in three steps, while everything runs; returns when all are taken."""
    import time

    from deploy.local.errors import LauncherError, UnknownName
    from deploy.local.settings import LauncherSettings
    from mesh.spiffe import ZONES
    from security.identity import rotation

    with clear_errors():
        if zone not in ZONES:
            raise UnknownName(f"there is no zone {zone}", f"It is one of {', '.join(ZONES)}")
        directory = LauncherSettings().layout.root / "ca" / zone
        if not (directory / "root.pem").exists():
            raise LauncherError(f"{directory} has no root yet", "Start the mesh first")
        rotation.request(directory)
        ends = time.monotonic() + ROOT_WAIT_S
        while rotation.under_way(directory):
            if time.monotonic() > ends:
                raise LauncherError(
                    "The root is not rotated yet", f"See the log of identity-{zone}; the agent goes on by itself"
                )
            time.sleep(PROOF_POLL_S)
    typer.echo(f"{zone}: every leaf is under another root")


@app.command("rotate-signing")
def rotate_signing(as_json: Json = False) -> None:
    """Replace the keys that sign access tokens, in a hurry; returns when nothing that the old ones signed is accepted.

    Programs ask for new tokens by themselves, and members' apps with their refresh tokens.
    """
    with clear_errors():
        replaced = asyncio.run(_rotate_signing())
    if as_json:
        print_json(replaced)
    else:
        console().print(f"{escape(replaced['key_id'])} signs alone; whatever others signed is refused")


@app.command()
def shred(
    member_id: Annotated[str, typer.Argument(help="Whose data key is destroyed. There is no way back.")],
    proof: Annotated[Path, typer.Option(help="Where the proof goes, for the member to keep.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Erase a member, and write the proof of it that `isthmus audit verify --export` checks."""
    if not yes:
        typer.confirm(f"Destroy the data key of {member_id}?", abort=True)
    with clear_errors():
        erased = asyncio.run(_shred(member_id, proof))
    if as_json:
        print_json(erased)
    else:
        console().print(f"{escape(member_id)} is erased; leaf {erased['leaf_index']} says so, in {escape(str(proof))}")


@app.command()
def backup(
    copy: Annotated[Path, typer.Argument(help="Where the copy goes. It may lie beside the database's backups.")],
    recovery_key: Annotated[
        Path, typer.Option(help="The key it is wrapped under, made if missing: keep it elsewhere.")
    ],
    room: Room = "members",
    as_json: Json = False,
) -> None:
    """Copy a keyring, wrapped under a recovery key (RFC 5649). After each rotation take another, destroy the older."""
    from security.keys import key_file, recovery

    with clear_errors(), _told():
        keyring, seal = _keyring(room)
        versions = recovery.back_up(keyring, seal, key_file.open_or_create(recovery_key), copy)
    _copied(f"{room} {copy.name}", versions, f"are in {copy}, wrapped under {recovery_key}", as_json)


@app.command()
def restore(
    copy: Annotated[Path, typer.Argument(help="A copy that `isthmus keys backup` made.")],
    recovery_key: Annotated[Path, typer.Option(help="The key that it was wrapped under.")],
    room: Room = "members",
    as_json: Json = False,
) -> None:
    """Make a lost keyring again of its copy. A keyring that is there is left as it is."""
    from security.keys import key_file, recovery

    with clear_errors(), _told():
        keyring, seal = _keyring(room)
        versions = recovery.restore(copy, key_file.read(recovery_key), keyring, seal)
    _copied(f"{room} from {copy.name}", versions, f"are back in {keyring}", as_json)


def _keyring(room: str) -> tuple[Path, "Seal"]:
    from deploy.local.errors import LauncherError, UnknownName
    from deploy.local.settings import LauncherSettings
    from security.keys.seal import KeyFileSeal, PassphraseSeal

    below = {"members": "data/keys/members", "oauth": "run/oauth"}
    if room not in below:
        raise UnknownName(f"{room} has no keyring", f"It is one of {', '.join(below)}")
    if room == "members" and os.environ.get("ISTHMUS_KMS", "keyring") != "keyring":
        raise LauncherError("The keys of members are not in a keyring", "Back up the system that holds them")
    keyring = LauncherSettings().layout.root / below[room] / "keyring.json"
    passphrase = os.environ.get("ISTHMUS_KEYRING_PASSPHRASE") if room == "members" else None
    if room == "members" and (elsewhere := os.environ.get("ISTHMUS_KEYRING")):
        keyring = Path(elsewhere)
    return keyring, PassphraseSeal(Path(passphrase)) if passphrase else KeyFileSeal.beside(keyring)


@contextmanager
def _told() -> Iterator[None]:
    from deploy.local.errors import LauncherError
    from mesh.errors import MeshError

    try:
        yield
    except MeshError as error:
        raise LauncherError(error.message, error.remedy) from error
    except OSError as error:
        raise LauncherError(
            f"{error.filename}: {error.strerror}", "Name files that are there and may be written"
        ) from error


def _copied(about: str, versions: list[int], where: str, as_json: bool) -> None:
    """On record and said: a copy opens what it opens until its keys are retired, and longer."""
    from isthmus.audit.v1 import audit_pb2

    from deploy.cli import audit_log

    trace_id = audit_log.record_if_there(audit_pb2.ACTIVITY_KEYS_COPIED, about)
    if as_json:
        print_json({"versions": versions, "recorded": trace_id})
    else:
        console().print(f"Versions {', '.join(map(str, versions))} {escape(where)}")


@asynccontextmanager
async def _connected() -> AsyncIterator["DataKeysAsyncStub"]:
    from isthmus.members.v1.members_pb2_grpc import DataKeysStub

    from deploy.cli.operator import channels

    async with channels("members") as (channel, *_):
        yield DataKeysStub(channel)


async def _status() -> dict[str, Any]:
    from isthmus.members.v1 import members_pb2 as pb

    async with _connected() as keys:
        return _plain(await keys.GetKeyStatus(pb.GetKeyStatusRequest()))


async def _rotate(go_on: bool, retire: bool, quiet: bool) -> dict[str, Any]:
    from isthmus.members.v1 import members_pb2 as pb

    async with _connected() as keys:
        before = await keys.GetKeyStatus(pb.GetKeyStatusRequest())
        if not go_on:
            await keys.AddKek(pb.AddKekRequest(newest_version=before.keks[-1].version))
        total = (await keys.GetKeyStatus(pb.GetKeyStatusRequest())).remaining
        with Progress(console=console(), disable=quiet) as progress:
            task = progress.add_task("wrapping", total=total)
            # Each round makes it less, or somebody else does: at most as many rounds as there are keys.
            for _ in range(total + 1):
                answer = await keys.RewrapDataKeys(pb.RewrapDataKeysRequest(limit=BATCH))
                progress.update(task, completed=total - answer.remaining)
                if not answer.remaining:
                    break
        retired = list((await keys.RetireKeks(pb.RetireKeksRequest())).retired) if retire else []
        return _plain(await keys.GetKeyStatus(pb.GetKeyStatusRequest())) | {"retired": retired}


async def _rotate_signing() -> dict[str, Any]:
    import time

    from isthmus.oauth.v1 import oauth_pb2 as pb
    from isthmus.oauth.v1.oauth_pb2_grpc import KeysStub

    from deploy.cli.operator import channels
    from deploy.local.errors import LauncherError
    from security.tokens.keys import REFRESH_S

    async with channels("oauth") as replicas:
        stubs = [KeysStub(channel) for channel in replicas]
        answer = await stubs[0].ReplaceSigningKeys(pb.ReplaceSigningKeysRequest())
        ends = time.monotonic() + SIGNING_WAIT_S
        # Each replica lists it alone once it signs; whoever checks tokens has read the list again a little later.
        for stub in stubs:
            while not _only((await stub.ListKeys(pb.ListKeysRequest())).jwks, answer.key_id):
                if time.monotonic() > ends:
                    raise LauncherError("The old signing keys are listed still", "See the logs of oauth-*")
                await asyncio.sleep(PROOF_POLL_S)
        await asyncio.sleep(REFRESH_S + PROOF_POLL_S)
    return {"key_id": answer.key_id, "signs_from_us": answer.signs_from_us}


def _only(jwks: Iterable[str], key_id: str) -> bool:
    return [json.loads(jwk)["kid"] for jwk in jwks] == [key_id]


async def _shred(member_id: str, proof: Path) -> dict[str, Any]:
    from isthmus.audit.v1 import audit_pb2
    from isthmus.members.v1 import members_pb2 as pb

    from deploy.cli import audit_log
    from deploy.local.errors import LauncherError

    async with _connected() as keys:
        erased = await keys.EraseMember(pb.EraseMemberRequest(member_id=member_id))
    method = "/isthmus.members.v1.DataKeys/EraseMember"
    async with audit_log.connected() as log:
        async with asyncio.timeout(PROOF_WAIT_S):
            while True:
                request = audit_pb2.ListRecordsRequest(method=method, data_subject=member_id)
                # The first that went well: a repetition erases nothing.
                done = [each for each in await audit_log.records(log, request, BATCH) if each.result == "OK"]
                if done and done[0].HasField("leaf_index"):
                    break
                await asyncio.sleep(PROOF_POLL_S)
        at_us, leaf = done[0].time_us, done[0].leaf_index
        lines = [event async for event in audit_log.events(log, at_us, at_us + 1)]
    try:
        proof.write_text("".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines))
    except OSError as error:
        remedy = "The member is erased. Run it again with another file"
        raise LauncherError(f"{proof} cannot be written: {error.strerror}", remedy) from error
    return {"member_id": member_id, "erased_time_us": erased.erased_time_us, "leaf_index": leaf, "proof": str(proof)}


def _plain(status: "members_pb2.GetKeyStatusResponse") -> dict[str, Any]:
    keks = [{"id": kek.id, "version": kek.version, "held": kek.held, "data_keys": kek.data_keys} for kek in status.keks]
    return {"keks": keks, "remaining": status.remaining, "erased": status.erased, "finished": not status.remaining}


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    table = Table("key", "version", "data keys", "", box=None)
    for kek in found["keks"]:
        state = "newest" if kek is found["keks"][-1] else "" if kek["held"] else "[red]not held[/]"
        table.add_row(escape(kek["id"]), str(kek["version"]), str(kek["data_keys"]), state)
    remaining = f"{found['remaining']} data keys remain under older keys"
    rest = remaining if found["remaining"] else "every data key is under the newest"
    out = console()
    out.print(table)
    out.print(f"{rest}; {found['erased']} members erased")
