"""Every attack on every method, found by walking the descriptors; docs/refusals.md is the table of what came of it.

ISTHMUS_WRITE_DOCS=1 writes the table anew.
"""

import importlib
import os
import re
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from deploy.local.settings import REPOSITORY
from mesh.channel import Channels
from mesh.clock import SystemClock
from mesh.contract import MethodPolicy, load
from mesh.errors import MeshError, Unimplemented
from mesh.server import MeshServer, ServerBuilder
from mesh.settings import ProcessSettings
from mesh.spiffe import SpiffeId
from mesh.tls import Identity
from security.gateway.decision import Asked, Decider
from security.gateway.minting import Mint
from security.identity import wallet
from security.identity.authority import Authority
from security.tokens.dpop import Nonces
from security.tokens.remote import inner_verifier
from security.tokens.revocation import Kind, Revocation, Revocations
from security.tokens.rule import TokenRule
from security.tokens.verifier import TokenVerifier
from tests.integration.gateway.attacks import (
    AUDIENCE,
    DECISIONS,
    GATEWAY_KEY,
    HOLDER,
    INTRUSIONS,
    ISSUER,
    ISSUER_KEY,
    REVOKED,
    STRANGER,
    TRUST_DOMAIN,
    Attack,
    Intrusion,
    inside,
    kid,
    outside,
    proof,
)
from tests.ports import free_port
from tests.stand_in import Forgetful

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONTRACT = load()
PRIVATE = [method for _, method in sorted(CONTRACT.methods.items()) if method.zone == "private"]
SENSITIVE = [method for method in PRIVATE if method.needs_token]
DOCUMENT = REPOSITORY / "docs" / "refusals.md"
NOT_REFUSED = "REACHED"
# Attacks on the authorization server itself, each with the test that makes it.
ELSEWHERE = {
    "PKCE missing, plain or malformed": "test_a_bad_request_of_a_known_app_is_sent_back",
    "code without its verifier, or for another redirect": "test_a_code_without_its_proof_is_refused_and_lost",
    "code replayed": "test_a_replayed_code_ends_what_it_began",
    "redirect to a place that is not registered": "test_nobody_is_sent_to_a_place_that_is_not_registered",
    "mix-up: the answer names its issuer": "test_a_member_signs_in_and_the_app_gets_a_token_for_them",
    "duplicate parameters": "test_a_repeated_parameter_is_refused",
    "refresh token replayed": "test_a_late_replay_ends_the_family",
    "wrong client for a refresh token": "test_another_client_cannot_refresh_and_does_no_harm",
    "scope widened on refresh": "test_a_scope_can_only_get_smaller",
    "scope widened on exchange": "test_an_exchange_never_widens",
    "assertion replayed, forged or of another": "test_a_wrong_assertion_proves_nobody",
    "another's certificate": "test_another_certificate_proves_nobody",
    "a workload's token shown with another certificate": "test_a_workload_s_token_is_good_with_its_certificate_alone",
    "a bound token and a proof, read on their way": "test_a_program_s_bound_token_is_of_no_use_without_its_key",
    "a token without a binding": "test_nobody_gets_a_token_that_a_thief_could_use",
    "logs and the public zone's machines, read": "test_no_token_lies_in_a_log_or_on_a_machine_of_the_public_zone",
    "revoked, at each replica": "test_a_revoked_token_is_refused_wherever_tokens_are_checked",
    "an ID token for an access token": "test_an_id_token_is_no_access_token",
    "another member's data, on every method": "test_no_method_shows_or_changes_what_is_another_members",
    "headers that only gateways write": "test_headers_that_only_gateways_write_are_worth_nothing_from_outside",
    "a public-zone certificate on a private port": "test_a_public_certificate_opens_no_private_port",
}


class Known:
    """The public key of one signer."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._known = {kid(key): key.public_key()}

    def held(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        return self._known.get(kid)

    async def key(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        return self.held(kid)


class Used:
    """Proofs in memory."""

    def __init__(self) -> None:
        self._used: set[bytes] = set()

    async def first_use(self, digest: bytes, until: int) -> bool:
        first = digest not in self._used
        self._used.add(digest)
        return first


async def revocations() -> Revocations:
    async def fetch() -> list[Revocation]:
        return [Revocation(Kind.TOKEN, REVOKED, int(time.time()))]

    made = Revocations(fetch, SystemClock())
    await made.refresh()
    return made


def reachable(service: str) -> tuple[Any, Any]:
    """The adder of a service, and a servicer that tells that it was reached."""
    descriptor = descriptor_pool.Default().FindServiceByName(service)
    module = importlib.import_module(descriptor.file.name.removesuffix(".proto").replace("/", ".") + "_pb2_grpc")

    async def reached(self: Any, request: Any, context: Any) -> Any:
        raise Unimplemented(NOT_REFUSED, "nothing refused this call")

    name = f"{descriptor.name}Servicer"
    methods = {method.name: reached for method in descriptor.methods}
    return getattr(module, f"add_{name}_to_server"), type(name, (getattr(module, name),), methods)()


class Zone:
    """A server for each workload of the private zone, and certificates for whoever wants to call."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._authority = Authority.open_or_create(home / "ca" / "private", TRUST_DOMAIN, "private")
        self._channels: dict[str, Channels] = {}
        self.addresses: dict[str, str] = {}
        self.contract = CONTRACT

    def identity(self, workload: str) -> Path:
        directory = self._home / "run" / workload / "identity"
        if not directory.exists():
            root = (self._home / "ca" / "private" / "root.pem").read_bytes()
            wallet.write(directory, wallet.Wallet(self._authority.issue(workload, timedelta(hours=1)), root))
        return directory / "live"

    async def serve(self, workload: str) -> MeshServer:
        self.addresses[workload] = f"127.0.0.1:{free_port()}"
        settings = ProcessSettings(
            home=self._home,
            zone="private",
            workload=workload,
            node=workload,
            identity_dir=self.identity(workload),
            grpc_address=self.addresses[workload],
        )
        process: Any = type(
            "P", (), {"settings": settings, "identity": Identity(settings.identity_dir), "contract": CONTRACT}
        )
        verifier = inner_verifier(settings, Known(GATEWAY_KEY), await revocations(), workload)
        builder = ServerBuilder(process, tokens=TokenRule(verifier, SystemClock()), audit=Forgetful())
        for service in CONTRACT.of_workload(workload):
            builder.add(*reachable(service.name))
        server = builder.build()
        await server.start()
        return server

    def channel(self, workload: str, by: str) -> grpc.aio.Channel:
        channels = self._channels.setdefault(by, Channels(Identity(self.identity(by)), CONTRACT))
        return channels.direct(self.addresses[workload], SpiffeId("private", workload))

    async def close(self) -> None:
        for channels in self._channels.values():
            await channels.close(0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zone(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Zone]:
    zone = Zone(tmp_path_factory.mktemp("zone"))
    servers = [await zone.serve(workload) for workload in sorted({method.workload for method in PRIVATE})]
    yield zone
    await zone.close()
    for server in servers:
        await server.stop(0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def decider() -> Decider:
    async def publish(jwk: str) -> None:
        """Nobody asks for it here."""

    clock = SystemClock()
    mint = Mint(TRUST_DOMAIN, publish, clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("security.gateway.minting.LEARN_S", 0)
        await mint._renew()
    verifier = TokenVerifier(Known(ISSUER_KEY), ISSUER, AUDIENCE, clock, await revocations())
    core, edge = SpiffeId("private", "core-gateway"), SpiffeId("public", "edge-gateway")
    return Decider(CONTRACT, verifier, mint, Used(), Nonces(b"n", clock), core, edge, ISSUER, clock)


def now_s() -> int:
    return int(time.time())


async def decide(decider: Decider, method: MethodPolicy, attack: Attack) -> str:
    """The rule that refused, or NOT_REFUSED."""
    token = attack.token(method, now_s())
    nonce = Nonces(b"n", SystemClock()).current()
    shown = proof(attack.proven_by, token, now_s(), nonce) if attack.proven_by else ""
    authorization = f"{attack.scheme} {token}" if token else ""
    asked = Asked(method.path, authorization, attack.peer, proof=shown, verb="POST", outside="/x")
    try:
        if attack.replayed:
            await decider.decide(asked)
        await decider.decide(asked)
    except MeshError as error:
        return error.reason
    return NOT_REFUSED


async def call(zone: Zone, method: MethodPolicy, by: str, token: str) -> str:
    """The rule by which the service itself refused, or NOT_REFUSED."""
    stub = zone.channel(method.workload, by).unary_unary(method.path, bytes, bytes)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    try:
        await stub(b"", metadata=metadata)
    except MeshError as error:
        return error.reason
    return NOT_REFUSED


def caller(method: MethodPolicy) -> str:
    return "core-gateway" if "core-gateway" in method.callers else min(method.callers)


@pytest.mark.parametrize("method", SENSITIVE, ids=lambda method: method.full_name)
async def test_what_every_attack_lacks_is_all_that_a_good_call_has(
    zone: Zone, decider: Decider, method: MethodPolicy
) -> None:
    good = Attack("good", outside, frozenset())
    bound = Attack(
        "bound",
        lambda m, t: outside(m, t, cnf={"jkt": kid(HOLDER)}),
        frozenset(),
        scheme="DPoP",
        proven_by=HOLDER,
    )
    assert await decide(decider, method, good) == NOT_REFUSED
    assert await decide(decider, method, bound) == NOT_REFUSED
    by = caller(method)
    token = inside(method, now_s(), f"spiffe://{TRUST_DOMAIN}/private/{by}")
    # The empty request may break the rules of its fields, which are looked at after everything else.
    assert await call(zone, method, by, token) in (NOT_REFUSED, "FIELDS_INVALID")


async def test_every_attack_on_every_method_is_refused_by_its_rule(zone: Zone, decider: Decider) -> None:
    found: dict[tuple[str, str], str] = {}
    for method in SENSITIVE:
        for attack in DECISIONS:
            if attack.applies(method):
                reason = await decide(decider, method, attack)
                assert reason in attack.rules, (method.full_name, attack.name, reason)
                found[method.full_name, attack.name] = reason
    for method in PRIVATE:
        for intrusion in INTRUSIONS:
            if intrusion.everywhere or (method.needs_token and (method.step_up or not intrusion.step_up)):
                by = intrusion.workload or caller(method)
                token = intrusion.token(method, now_s(), f"spiffe://{TRUST_DOMAIN}/private/{by}")
                reason = await call(zone, method, by, token)
                assert reason in intrusion.rules, (method.full_name, intrusion.name, reason)
                found[method.full_name, intrusion.name] = reason
    text = document(found)
    if os.environ.get("ISTHMUS_WRITE_DOCS"):
        DOCUMENT.write_text(text)
    assert DOCUMENT.read_text() == text, "docs/refusals.md is not what was found: ISTHMUS_WRITE_DOCS=1 writes it anew"


async def test_health_and_reflection_are_open_to_operators_alone(zone: Zone, decider: Decider) -> None:
    for path in ("/grpc.health.v1.Health/Watch", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"):
        with pytest.raises(MeshError, match="METHOD_UNKNOWN"):
            await decider.decide(Asked(path, "Bearer x"))
    for workload in zone.addresses:
        channel: Any = zone.channel(workload, STRANGER)
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        for answer in (check, watch.read(), reflect.read()):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await answer
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_attacks_that_are_made_elsewhere_are_made() -> None:
    tests = "\n".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    for name in ELSEWHERE.values():
        assert re.search(rf"^(async )?def {name}\(", tests, re.MULTILINE), name


def document(found: dict[tuple[str, str], str]) -> str:
    """The page: what is tried, and on which method."""
    columns: list[Attack | Intrusion] = [*DECISIONS, *INTRUSIONS]
    lines = [
        "# What is refused",
        "",
        "Generated by `tests/integration/gateway/test_refusals.py`, which tries it all: change the attacks, not this.",
        "",
        "| | attack | where | rule that refuses |",
        "|---|---|---|---|",
    ]
    for number, column in enumerate(columns, 1):
        where = "decision point" if isinstance(column, Attack) else "the service itself"
        rules = ", ".join(f"`{rule}`" for rule in sorted({found[key] for key in found if key[1] == column.name}))
        lines.append(f"| {number} | {column.name} | {where} | {rules or 'no method asks for it yet'} |")
    lines += [
        "",
        "## Method by attack",
        "",
        "R: refused by that rule. A dot: the method does not ask for what the attack lacks.",
        "",
        f"| method | {' | '.join(str(number) for number in range(1, len(columns) + 1))} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for method in PRIVATE:
        cells = ("R" if (method.full_name, column.name) in found else "·" for column in columns)
        lines.append(f"| `{method.full_name.removeprefix('isthmus.')}` | {' | '.join(cells)} |")
    lines += ["", "## And elsewhere", "", "| attack | test |", "|---|---|"]
    lines += [f"| {attack} | `{name}` |" for attack, name in ELSEWHERE.items()]
    return "\n".join(lines) + "\n"
