"""Marked values go through every call and into every kind of refusal, and are afterwards in no file of the mesh.

Its traces are among these files, a copy of the database, as a backup is, and a read replica that streams meanwhile.
"""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from google.protobuf import symbol_database

from chaos.load.client import Answer, PublicClient
from chaos.load.member import authorize
from chaos.load.outcomes import CallFailed
from deploy.local import copies, postgres
from deploy.local.mesh import LocalMesh
from deploy.local.topology import read
from mesh.channel import Channels
from mesh.contract import load
from mesh.contract.model import DataClass, MethodPolicy
from mesh.errors import PermissionDenied
from mesh.spiffe import SpiffeId
from mesh.tls import Identity
from tests.e2e import replica
from tests.e2e.command import isthmus
from tests.e2e.conftest import TRACES
from tests.e2e.public import JSON, bearer, problem, public_client
from tests.e2e.signin import create_account, enrol, sign_in
from tests.integration.room import plain

pytestmark = pytest.mark.asyncio(loop_scope="session")
# No other test may write these.
PHONE, NAME, ADDRESS = "+8613955501237", "Zephyrine Quackenbush", "9 Umbrellabird Terrace, Suzhou"
OTHER_PHONE = "+8613955501238"
LOGIN, DEVICE, OPENID = "zephyrine.q@canary.example", "canary-device-5f0c7714", "oCanary6_1Zephyrine"
WRONG_PASSWORD = "parakeet canary goldfinch"
MARKS = {"phone": PHONE, "name": NAME, "address": ADDRESS, "login": LOGIN, "password": WRONG_PASSWORD, "value": DEVICE}
# Kept as it is, because it says nothing of anybody: where it is found, the search looks in the right places.
SKU = "canary-sku-c41a"
CALLS = load().methods.values()
ROUTED = [method for method in CALLS if method.zone == "private" and method.http and method.scopes]
INNER = [method for method in CALLS if method.zone == "private" and not method.http]
# Spans of a good call, of one room's call to another, and of one that was only ever refused.
TRACED = tuple(
    f"isthmus.{name}".encode()
    for name in (
        "members.v1.Members.RevealMember",
        "members.v1.Members.CheckMember",
        "payments.v1.Payments.VoidPayment",
    )
)
TRACED_WITHIN_S = 60.0
LINE = {"sku": SKU, "quantity": 1, "amount": {"minor": 1, "currency": "USD"}}
# What lets a body go as far as to the id in it that is none.
FITTING = {
    "idempotency_key": "canary-misnamed",
    "lines": [LINE],
    "amount": LINE["amount"],
    "kind": "IDENTIFIER_KIND_DEVICE",
    "granted": True,
}
# Where a path wants something in particular.
IN_PATHS = {"purpose": "PURPOSE_MARKETING", "locale": "en"}


class Visitor:
    """Sends requests, and looks at each answer that is a refusal."""

    def __init__(self, mesh: LocalMesh, client: PublicClient) -> None:
        self._mesh = mesh
        self.client = client
        self.tokens: set[str] = set()

    async def headers(self, scope: str) -> dict[str, str]:
        headers = await bearer(self._mesh, self.client, scope)
        self.keep(headers["authorization"])
        return headers

    def keep(self, token: str) -> None:
        self.tokens.add(token.rpartition(".")[2])

    async def send(self, verb: str, path: str, body: Any, headers: dict[str, str], status: int | None = None) -> Answer:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.client.send(verb, path, None if verb in ("GET", "DELETE") else sent, headers)
        if status is not None:
            assert answer.status == status, (path, answer.status, answer.body)
        if answer.status >= 400:
            assert not found_in(answer.body), (path, answer.body)
        return answer


async def test_marked_values_are_in_no_file_and_no_refusal(mesh: LocalMesh, tmp_path: Path) -> None:
    async with public_client(mesh) as client, replica.streaming(mesh.home):
        visitor = Visitor(mesh, client)
        for method in ROUTED:
            await refused_in_every_way(visitor, method)
        for method in INNER:
            await refused_to_a_neighbour(mesh, method)
        member_id = await lived(visitor, mesh)
        await replica.caught_up(mesh.home)
        # The replica has the member, and the key without which it has nothing of them.
        assert await held(mesh, member_id) == (1, True)
        proof = tmp_path / "proof.jsonl"
        for command in (
            ("keys", "shred", member_id, "--yes", "--proof", str(proof)),
            ("audit", "export", "--output", str(mesh.home.root / "run" / "canary-export.jsonl")),
        ):
            code, _, errors = await isthmus(*command, home=mesh.home.root, port_base=mesh.settings.port_base)
            assert code == 0, errors
        await replica.caught_up(mesh.home)
        assert await held(mesh, member_id) == (0, False)
        [(leaves,)] = await replica.rows(
            mesh.home,
            "SELECT count(*) FROM audit.record WHERE data_subject = %s AND method LIKE '%%EraseMember'",
            replica.NODE,
            member_id,
        )
        assert leaves >= 1
    async with await postgres.connect(mesh.home) as connection:
        await connection.execute("CHECKPOINT")
    backup = mesh.home.root / "backup"
    postgres.make_directories(backup)
    await asyncio.to_thread(copies.take, plain(postgres.url(mesh.home)), backup)
    await traced(mesh.home.root / TRACES)
    needles = {needle for mark in (*MARKS.values(), OTHER_PHONE, OPENID) for needle in forms(mark)}
    needles |= {token.encode() for token in visitor.tokens}
    places, searched, copy = set[str](), set[bytes](), mesh.home.data(replica.NODE)
    for path in mesh.home.root.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            # PostgreSQL and Kafka remove files as they work.
            continue
        if SKU.encode() in content or member_id.encode() in content:
            place = path.relative_to(mesh.home.root)
            places |= {place.parts[0], "replica" if path.is_relative_to(copy) else ""}
        # The copy has most files of the database again, and each of its databases those of the template.
        digest = hashlib.sha256(content).digest()
        if digest in searched:
            continue
        searched.add(digest)
        hits = [needle for needle in needles if needle in content]
        assert not hits, f"{path} holds {hits}"
    # What may be seen is there: in the tables and their log, and in what was said about the calls.
    assert {"data", "run", "backup", "replica"} <= places


async def held(mesh: LocalMesh, member_id: str) -> tuple[int, bool]:
    """How many data keys the replica has of the member, and whether it has any of their values, sealed as they are."""
    [found] = await replica.rows(
        mesh.home,
        "SELECT (SELECT count(*) FROM members.data_key WHERE subject = member_id),"
        " num_nonnulls(phone_index, phone, name, address) > 0 FROM members.member WHERE member_id = %s",
        replica.NODE,
        member_id,
    )
    return found[0], found[1]


async def traced(path: Path) -> None:
    """Wait until what the rooms did is among the traces: they are sent some seconds later."""
    async with asyncio.timeout(TRACED_WITHIN_S):
        while not all(name in path.read_bytes() for name in TRACED):  # noqa: ASYNC110 - a file rings no bell
            await asyncio.sleep(0.2)


async def refused_in_every_way(visitor: Visitor, method: MethodPolicy) -> None:
    rule = method.http[0]
    path = re.sub(r"\{([^}]+)\}", lambda field: IN_PATHS.get(field[1].rpartition(".")[2], "canary-1"), rule.template)
    personal = {
        field.name: MARKS[field.name]
        for field in load().fields(method.request).values()
        if field.data_class >= DataClass.PERSONAL
    }
    right = await visitor.headers(" ".join(sorted(method.scopes)))
    wrong = await visitor.headers("catalog.read" if "catalog.read" not in method.scopes else "orders.read")
    misplaced = {"remark": f"{NAME}, {PHONE}, {ADDRESS}"}
    for headers, body in (
        (JSON, personal | misplaced),
        (JSON | {"authorization": f"Bearer {PHONE}"}, personal),
        (wrong, personal),
        (right, personal),
        (right, personal | misplaced),
        (right, {name: [mark] for name, mark in personal.items()} or misplaced),
        (right, {name: mark * 400 for name, mark in personal.items()} or misplaced),
        (right, f'{{"name": "{NAME}", "phone": "{PHONE}'.encode()),
    ):
        await visitor.send(rule.verb, path, body, headers)
    # A value where an id belongs, in the path and in the body.
    fields = load().fields(method.request)
    ids = [name for name in fields if name.endswith("_id") and f"{{{name}}}" not in rule.template]
    fitting = personal | {name: FITTING[name] for name in fields.keys() & FITTING.keys()}
    for mark in (PHONE.removeprefix("+86"), LOGIN):
        misnamed = re.sub(r"\{[^}]+\}", quote(mark, safe=""), rule.template)
        # The shop's own names of its goods are barcodes as often as not, which are digits, too: those it may have.
        if misnamed != rule.template and "{sku}" not in rule.template:
            await visitor.send(rule.verb, misnamed, fitting, right)
        for name in ids:
            answer = await visitor.send(rule.verb, path, fitting | {name: mark}, right)
            assert answer.status >= 400, (path, name, answer.body)


async def refused_to_a_neighbour(mesh: LocalMesh, method: MethodPolicy) -> None:
    """Somebody with a certificate of the zone who may not call it."""
    table = read(mesh.home.topology)
    serving = [
        process for process in table.processes if process.workload == method.served_in("private") and process.pid
    ]
    neighbour = "catalog-1" if "catalog" not in method.callers else "warehouse"
    channels = Channels(Identity(mesh.home.identity(neighbour)), load())
    try:
        channel = channels.direct(
            str(serving[0].listen("grpc")), SpiffeId("private", method.workload, table.trust_domain)
        )
        request = symbol_database.Default().GetSymbol(method.request)()
        for field in load().fields(method.request).values():
            if field.data_class >= DataClass.PERSONAL:
                setattr(request, field.name, f"{NAME} {PHONE}")
        call: Any = channel.unary_unary(method.path, lambda sent: sent.SerializeToString(), bytes)
        with pytest.raises(PermissionDenied) as refused:
            await call(request, timeout=10)
        assert not found_in(str(refused.value).encode())
    finally:
        await channels.close()


async def lived(visitor: Visitor, mesh: LocalMesh) -> str:
    """A member's whole life, with what goes wrong in it. Returns the id."""
    client = visitor.client
    writing = await visitor.headers("members.write")
    person = {"idempotency_key": "canary-key-1", "phone": PHONE, "name": NAME, "address": ADDRESS}
    registered = json.loads((await visitor.send("POST", "/v1/members", person, writing, 200)).body)
    member_id = str(registered["member_id"])
    await visitor.send("POST", "/v1/members", person, writing, 200)
    await visitor.send("POST", "/v1/members", person | {"name": f"{NAME} II"}, writing, 409)
    await visitor.send("POST", "/v1/members", person | {"idempotency_key": "canary-key-2"}, writing, 409)
    await visitor.send(
        "POST", "/v1/members", person | {"idempotency_key": "canary-key-3", "phone": PHONE[:-1]}, writing, 400
    )

    own = f"/v1/members/{member_id}"
    for kind, value in (("DEVICE", DEVICE), ("OPENID", OPENID), ("PHONE", OTHER_PHONE)):
        linked = {"kind": f"IDENTIFIER_KIND_{kind}", "value": value}
        await visitor.send("POST", f"{own}/identifiers", linked, writing, 200)
        await visitor.send("POST", "/v1/members:resolve", linked, await visitor.headers("members.read"), 200)

    await create_account(mesh, client, member_id, LOGIN)
    accounts = await visitor.headers("accounts.write")
    taken = {"member_id": member_id, "login": LOGIN, "password": WRONG_PASSWORD}
    await visitor.send("POST", "/v1/accounts", taken, accounts, 409)
    with pytest.raises(CallFailed):
        await authorize(client, LOGIN, WRONG_PASSWORD, "members.read")
    second = await enrol(mesh, client, member_id)
    token = await sign_in(client, LOGIN, "members.read members.reveal orders.write", second=second)
    visitor.keep(token)
    member = JSON | {"authorization": f"DPoP {token}"}
    await visitor.send("GET", own, None, member, 200)
    shown = await visitor.send("POST", f"{own}:reveal", {"purpose": "PURPOSE_ACCOUNT"}, member, 200)
    assert NAME.encode() in shown.body
    exported = await visitor.send("GET", f"{own}:export", None, member, 200)
    assert ADDRESS.encode() in exported.body
    await visitor.send("PUT", f"{own}/consents/PURPOSE_MARKETING", {"granted": True}, member, 403)
    order = {"idempotency_key": "canary-order-1", "member_id": member_id, "lines": [LINE]}
    placed = json.loads((await visitor.send("POST", "/v1/orders", order, member, 200)).body)
    hold = {"idempotency_key": "canary-hold-1", "order_id": placed["order"]["order_id"], "amount": LINE["amount"]}
    await visitor.send("POST", "/v1/payments", hold, await visitor.headers("payments.write orders.read"), 200)
    problem(await visitor.send("GET", "/v1/members/somebody-else", None, member), 403)
    return member_id


def forms(mark: str) -> Iterator[bytes]:
    """How a value may lie somewhere: as it is, in other alphabets, or as a hash that anybody can compute."""
    for text in {mark, mark.removeprefix("+86")}:
        plain = text.encode()
        yield from (plain, plain.hex().encode(), quote_plus(text).encode(), base64.b64encode(plain).rstrip(b"="))
        for digest in (hashlib.sha256(plain).digest(), hashlib.sha1(plain).digest(), hashlib.md5(plain).digest()):
            yield from (digest, digest.hex().encode(), base64.b64encode(digest).rstrip(b"="))


def found_in(content: bytes) -> list[str]:
    return [mark for mark in (*MARKS.values(), OTHER_PHONE, OPENID) if mark.encode() in content]
