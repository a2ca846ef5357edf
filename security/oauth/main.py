"""The authorization server: HTTP for the zone's gateway, gRPC for the zone's services."""

import asyncio

from isthmus.oauth.v1 import oauth_pb2_grpc

from mesh.call import Claims
from mesh.clock import SystemClock
from mesh.database.engine import async_engine, engine
from mesh.database.migrate import Owner, require_current
from mesh.process import Process
from mesh.server import ServerBuilder
from security.audit.postgres import PostgresAuditSink
from security.audit.recorder import CallRecorder
from security.audit.subjects import Subjects
from security.identity.front import GatewayFront
from security.keys.keyring import Keyring
from security.oauth import account_page, authorize_page, device_page
from security.oauth.account_page import AccountPage
from security.oauth.authorize_page import AuthorizePage
from security.oauth.device_page import DevicePage
from security.oauth.domain import KeyRules
from security.oauth.erasure import Erasure
from security.oauth.family_store import FamilyStore
from security.oauth.federation.providers import Providers
from security.oauth.federation.store import FederationStore
from security.oauth.federation_page import FederationPage
from security.oauth.grants import Server
from security.oauth.http import Endpoints
from security.oauth.journal import Journal
from security.oauth.key_proofs import KeyProofs
from security.oauth.key_store import GatewayKeyStore
from security.oauth.limits import Limits
from security.oauth.logins import Logins
from security.oauth.pages import Pages
from security.oauth.passkeys import Passkeys
from security.oauth.passwords import PasswordChecker, SecretChecker
from security.oauth.second_factor import SecondFactors
from security.oauth.seed import scopes_of, seed
from security.oauth.service import AccountsService, KeysService
from security.oauth.session_store import SessionStore
from security.oauth.settings import OAuthSettings
from security.oauth.signin import Accounts
from security.oauth.signing import SigningKeys
from security.oauth.store import Store
from security.oauth.sweeper import Sweeper
from security.oauth.transactions import Transactions
from security.oauth.trust import Trust
from security.oauth.visits import Visits
from security.oauth.waiting_store import WaitingStore
from security.oauth.workers import Workers
from security.tokens.dpop import Nonces
from security.tokens.keys import PublishedKeys
from security.tokens.remote import inner_verifier
from security.tokens.revocation import Revocations
from security.tokens.rule import TokenRule
from security.tokens.verifier import TokenVerifier

READ_TOKEN_S_MAX = 2.0
# As apps for one-time passwords show it.
ISSUER_NAME = "Isthmus"


async def main(settings: OAuthSettings, process: Process) -> None:
    clock = SystemClock()
    providers = Providers(settings.identity_providers, settings.issuer, clock)
    database = engine(settings.database_url, settings.node, pool_size=settings.database_pool_size)
    records = async_engine(settings.database_url, f"{settings.node}-audit", pool_size=1)
    await require_current(records, Owner.beside(__file__))
    sink = PostgresAuditSink(records)
    transactions = Transactions(database)
    keyring = Keyring.open(settings.keyring)
    logins = await Logins.under(keyring)
    store, families, waiting = Store(transactions, logins), FamilyStore(transactions), WaitingStore(transactions)
    sessions = SessionStore(transactions)
    while await asyncio.to_thread(store.hash_logins):
        pass
    passwords = PasswordChecker()
    factors = SecondFactors(transactions, await keyring.index_key("oauth-second-factors"), ISSUER_NAME)
    journal = Journal(settings.workload, settings.node, Subjects.below(settings.home), clock)
    accounts = Accounts(store, families, passwords, factors, journal, clock)
    keys = SigningKeys(store, keyring, KeyRules(), clock)
    await asyncio.to_thread(
        seed,
        store,
        passwords,
        process.contract,
        settings.trust_domain,
        settings.clients,
        settings.shop_callback,
        sandbox=settings.sandbox_client,
        sandbox_callback=settings.sandbox_callback,
        bearer=settings.bearer_clients,
    )
    gateway_keys = GatewayKeyStore(transactions)
    identities = FederationStore(transactions)
    sweeps = (store.sweep, families.sweep, waiting.sweep, sessions.sweep, gateway_keys.sweep, identities.sweep)
    sweeper = Sweeper(sweeps, clock)
    trust = Trust(families, gateway_keys, clock)
    revocations = Revocations(trust.listed, clock)
    verifier = TokenVerifier(keys, settings.issuer, settings.audience, clock, revocations)
    loop = asyncio.get_running_loop()

    def read_token(token: str) -> Claims:
        """For Authlib's endpoints, which run in threads."""
        return asyncio.run_coroutine_threadsafe(verifier.verify(token), loop).result(READ_TOKEN_S_MAX)

    protocol = Server(
        store,
        families,
        waiting,
        SecretChecker(passwords),
        settings.issuer,
        settings.audience,
        keys,
        journal,
        read_token,
    )
    limits = Limits(settings.token_requests_per_s, settings.token_requests_burst, clock)
    pages, workers = Pages(await keyring.index_key("oauth-forms"), clock, settings.issuer), Workers()
    passkeys = Passkeys(transactions, await keyring.index_key("oauth-passkeys"), settings.issuer, families.use_proof)
    visits = Visits(workers, sessions, accounts, passkeys, pages, limits, journal, sink, providers.named, clock)
    federation_key = await keyring.index_key("oauth-federation")
    federation = FederationPage(providers.named, identities, accounts, visits, pages, workers, journal, federation_key)
    account = AccountPage(
        sessions, families, passkeys, identities, accounts, visits, federation, pages, workers, journal
    )
    interactive = {
        authorize_page.PATH: AuthorizePage(
            protocol, sessions, visits, federation, pages, workers, settings.issuer
        ).serve,
        device_page.PATH: DevicePage(protocol, sessions, visits, federation, pages, workers, limits).serve,
        account_page.PATH: account.serve,
        **dict.fromkeys(federation.paths, federation.serve),
    }
    endpoints = Endpoints(
        protocol,
        pages,
        interactive,
        workers,
        keys,
        sink,
        limits,
        KeyProofs(Nonces(await keyring.index_key("oauth-nonces"), clock), families.use_proof, clock),
        settings.issuer,
        scopes_of(process.contract),
    )
    inner_keys = PublishedKeys(trust.jwks, clock)
    accepted = inner_verifier(settings, inner_keys, revocations, settings.workload)
    tokens = TokenRule(accepted, clock)
    audit = CallRecorder(sink, settings, clock)
    server = ServerBuilder(process, tokens=tokens, audit=audit)
    server.add(oauth_pb2_grpc.add_KeysServicer_to_server, KeysService(keys, trust))
    server.add(oauth_pb2_grpc.add_AccountsServicer_to_server, AccountsService(accounts, Erasure(transactions)))
    if settings.http_address is None:
        raise SystemExit("no address to serve on: set ISTHMUS_HTTP_ADDRESS")
    front = GatewayFront(endpoints.app(), settings.http_address, process.identity, process.stopping)
    try:
        await process.serve(server.build(), sink, keys, trust, inner_keys, revocations, sweeper, front)
    finally:
        await providers.close()
        workers.close()
        database.dispose()
        await records.dispose()
