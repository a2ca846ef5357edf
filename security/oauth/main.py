"""The authorization server: HTTP for the zone's gateway, gRPC for the zone's services."""

import asyncio

from isthmus.oauth.v1 import oauth_pb2_grpc

from mesh.clock import SystemClock
from mesh.database.engine import async_engine, engine
from mesh.database.migrate import Owner, require_current
from mesh.process import Process
from mesh.server import ServerBuilder
from security.audit.interceptor import AuditInterceptor
from security.audit.postgres import PostgresAuditSink
from security.identity.front import GatewayFront
from security.keys.keyring import Keyring
from security.oauth.domain import KeyRules
from security.oauth.grants import Server
from security.oauth.http import Endpoints
from security.oauth.pages import Pages
from security.oauth.passwords import PasswordChecker, SecretChecker
from security.oauth.seed import scopes_of, seed
from security.oauth.service import AccountsService, KeysService
from security.oauth.settings import OAuthSettings
from security.oauth.signin import Accounts
from security.oauth.signing import SigningKeys
from security.oauth.store import Store
from security.tokens.interceptor import TokenInterceptor
from security.tokens.verifier import TokenVerifier


async def main(settings: OAuthSettings, process: Process) -> None:
    clock = SystemClock()
    database = engine(settings.database_url, settings.node, pool_size=settings.database_pool_size)
    records = async_engine(settings.database_url, f"{settings.node}-audit", pool_size=1)
    await require_current(records, Owner.beside(__file__))
    sink = PostgresAuditSink(records)
    store = Store(database)
    keyring = Keyring.open(settings.keyring)
    passwords = PasswordChecker()
    accounts = Accounts(store, passwords, clock)
    keys = SigningKeys(store, keyring, KeyRules(), clock)
    await asyncio.to_thread(seed, store, passwords, process.contract, settings.client_secrets, settings.shop_callback)
    endpoints = Endpoints(
        Server(store, SecretChecker(passwords), settings.issuer, settings.audience, keys),
        accounts,
        Pages(keyring.index_key("oauth-forms"), clock),
        keys,
        settings.issuer,
        scopes_of(process.contract),
    )
    verifier = TokenVerifier(keys, settings.issuer, settings.audience, clock)
    tokens = TokenInterceptor(verifier, process.contract)
    audit = AuditInterceptor(process.contract, sink, settings, clock)
    server = ServerBuilder(process, interceptors=(tokens,), audit=audit)
    server.add(oauth_pb2_grpc.add_KeysServicer_to_server, KeysService(keys))
    server.add(oauth_pb2_grpc.add_AccountsServicer_to_server, AccountsService(accounts))
    if settings.http_address is None:
        raise SystemExit("no address to serve on: set ISTHMUS_HTTP_ADDRESS")
    front = GatewayFront(endpoints.app(), settings.http_address, process.identity, process.stopping)
    try:
        await process.serve(server.build(), sink, keys, front)
    finally:
        endpoints.close()
        database.dispose()
        await records.dispose()
