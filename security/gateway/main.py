"""The decision point: asked by the core gateway about every sensitive call, and by services that call on."""

from envoy.service.auth.v3 import external_auth_pb2_grpc
from isthmus.gateway.v1 import gateway_pb2_grpc
from isthmus.oauth.v1 import oauth_pb2, oauth_pb2_grpc

from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from mesh.database.migrate import Owner, require_current
from mesh.process import Process
from mesh.server import ServerBuilder
from mesh.spiffe import SpiffeId
from security.audit.postgres import PostgresAuditSink
from security.audit.recorder import CallRecorder
from security.gateway.decision import Decider, Exchanger
from security.gateway.minting import Mint
from security.gateway.service import AuthorizationService, ExchangeService
from security.gateway.settings import GatewaySettings
from security.gateway.shield import Shield
from security.gateway.store import ProofStore
from security.tokens.dpop import Nonces
from security.tokens.remote import inner_verifier, trusting
from security.tokens.verifier import TokenVerifier

CORE_GATEWAY = "core-gateway"
EDGE_GATEWAY = "edge-gateway"


async def main(settings: GatewaySettings, process: Process) -> None:
    clock, contract = SystemClock(), process.contract
    keys, revocations = trusting(process.channels)
    issuer = oauth_pb2_grpc.KeysStub(process.channels.open("oauth"))

    async def publish(jwk: str) -> None:
        await issuer.PublishGatewayKey(oauth_pb2.PublishGatewayKeyRequest(jwk=jwk))

    mint = Mint(settings.trust_domain, publish, clock)
    sink = PostgresAuditSink(async_engine(settings.database_url, f"{settings.node}-audit", pool_size=1))
    engine = async_engine(settings.database_url, settings.node, pool_size=settings.database_pool_size)
    await require_current(engine, Owner.beside(__file__))
    proofs = ProofStore(engine)
    decider = Decider(
        contract,
        TokenVerifier(keys.access, settings.issuer, settings.audience, clock, revocations),
        mint,
        proofs,
        Nonces(await proofs.nonce_key(), clock),
        SpiffeId("private", CORE_GATEWAY, settings.trust_domain),
        SpiffeId("public", EDGE_GATEWAY, settings.trust_domain),
        settings.issuer,
        clock,
    )
    callers = {caller for method in contract.methods.values() for caller in method.callers}
    exchanger = Exchanger(
        contract, {each: inner_verifier(settings, keys.inner, revocations, each) for each in callers}, mint
    )
    server = ServerBuilder(process, audit=CallRecorder(sink, settings, clock))
    server.add(gateway_pb2_grpc.add_ExchangeServicer_to_server, ExchangeService(exchanger))
    server.add_infrastructure(
        external_auth_pb2_grpc.add_AuthorizationServicer_to_server,
        AuthorizationService(decider, Shield(contract, settings.input_shield), sink, settings, clock),
        frozenset({CORE_GATEWAY}),
    )
    await process.serve(server.build(), sink, keys, revocations, mint, proofs)
    await engine.dispose()
