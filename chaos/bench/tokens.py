"""What a token costs: the mesh's token endpoint, as its gateway asks it, against Authlib's server as it comes.

Both verify an ES256 assertion of the same client and sign an ES256 access token, over TLS, one worker each. Ours
verifies besides a proof of the key that the token is bound to, stores which assertions and proofs were used, puts every
token on record in PostgreSQL and limits how often a source may ask: therefore each request comes from another address.
Assertions and proofs are made before the clock runs.
"""

import contextlib
import itertools
import json
import os
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import aiohttp
from joserfc.jwk import ECKey

from chaos.bench.report import Result
from chaos.bench.rounds import at_once, compared
from chaos.bench.tools import BenchError, free_ports, running
from deploy.local.mesh import LocalMesh
from mesh.client.assertion import AssertionKey
from mesh.client.proof import Proof, ProofKey

CLIENT: Final = "storefront"
SCOPE: Final = "catalog.read"
PATH: Final = "/oauth/token"
ROUNDS: Final = 5
TOKENS: Final = 400
WARM: Final = 100
# No figure is asked for: so far it may fall behind before somebody should look.
RATIO_MIN: Final = 0.08
TIMEOUT_S: Final = 10.0
_addresses: Final = itertools.count(1)


async def measure(mesh: LocalMesh, bench: Path) -> Result:
    """Interleaved rounds of both. Raises BenchError when a token is refused."""
    key = mesh.home.run("oauth") / "clients" / f"{CLIENT}.pem"
    row = next(row for row in mesh.rows if row.name == "oauth-1")
    ours = f"https://{row.process.listen('http')}{PATH}"
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    with _bare(mesh, bench, key) as bare:
        connector = aiohttp.TCPConnector(ssl=_as_gateway(mesh))
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            maker = _Maker(session, AssertionKey(CLIENT, key), mesh.urls["edge_gateway"])
            await maker.learn_nonce(ours)
            for url in (ours, bare):
                await maker.seconds(url, WARM)
            rounds = [(await maker.seconds(ours, TOKENS), await maker.seconds(bare, TOKENS)) for _ in range(ROUNDS)]
    return compared("tokens by client credentials", "tokens/s", "Authlib's bare server", TOKENS, rounds, RATIO_MIN)


class _Maker:
    """Asks for tokens, several at once."""

    def __init__(self, session: aiohttp.ClientSession, key: AssertionKey, issuer: str) -> None:
        self._session = session
        self._key = key
        self._issuer = issuer
        self._proofs = ProofKey()

    async def learn_nonce(self, url: str) -> None:
        """The one that proofs need for the next minutes."""
        form, headers, proof = self._request()
        async with self._session.post(url, data=form, headers=headers) as answer:
            if not self._proofs.told(answer.headers, proof):
                raise BenchError(f"{url} told no nonce: {answer.status} {await answer.text()}")

    async def seconds(self, url: str, count: int) -> float:
        """How long so many tokens take."""
        requests = [self._request() for _ in range(count)]

        async def ask(form: dict[str, str], headers: dict[str, str]) -> None:
            async with self._session.post(url, data=form, headers=headers) as answer:
                if answer.status != 200:
                    raise BenchError(f"{url} gave no token: {answer.status} {await answer.text()}")
                await answer.read()

        started = time.perf_counter()
        await at_once([lambda form=form, headers=headers: ask(form, headers) for form, headers, _ in requests])  # type: ignore[misc]
        return time.perf_counter() - started

    def _request(self) -> tuple[dict[str, str], dict[str, str], Proof]:
        """Form and headers of one, good once. The bare server does not look at the proof."""
        form = {"grant_type": "client_credentials", "scope": SCOPE} | self._key.form(self._issuer)
        proof = self._proofs.proof("POST", f"{self._issuer}{PATH}")
        return form, {"x-forwarded-for": f"2001:db8::{next(_addresses):x}, 127.0.0.1", **proof.headers}, proof


def _as_gateway(mesh: LocalMesh) -> ssl.SSLContext:
    identity = mesh.home.identity("core-gateway")
    context = ssl.create_default_context(cafile=str(identity / "bundle.pem"))
    context.load_cert_chain(identity / "svid.pem", identity / "key.pem")
    return context


@contextlib.contextmanager
def _bare(mesh: LocalMesh, bench: Path, key: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    live, jwks = mesh.home.identity("oauth-1"), bench / "storefront.jwks"
    public = ECKey.import_key(key.read_bytes())
    jwks.write_text(json.dumps({"keys": [public.as_dict(private=False) | {"kid": public.thumbprint()}]}))
    command = [
        *(sys.executable, "-m", "granian", "--interface", "asgi", "--workers", "1", "--no-log", "--no-ws"),
        *("--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop", "--factory"),
        *("--ssl-certificate", str(live / "svid.pem"), "--ssl-keyfile", str(live / "key.pem")),
        "chaos.bench.token_server:app",
    ]
    environment = {"ISTHMUS_BENCH_ISSUER": mesh.urls["edge_gateway"], "ISTHMUS_BENCH_JWKS": str(jwks)}
    with running(command, port, bench / "token_server.log", os.environ | environment):
        yield f"https://127.0.0.1:{port}{PATH}"
