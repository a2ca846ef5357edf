"""The tokens of `isthmus login`, as programs at the member's terminal use them."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mesh.client.login import Kept, SavedLogin
from mesh.client.proof import ProofKey
from mesh.errors import Unauthenticated


class Issuer:
    """Takes each refresh token once, with a proof of the key that the tokens are bound to."""

    def __init__(self) -> None:
        self.refreshes = 0
        self.keys: set[str] = set()
        self.url = ""

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.keys.add(jwt.get_unverified_header(request.headers["dpop"])["jwk"]["x"])
        if form["refresh_token"] != f"r{self.refreshes}":
            return web.json_response({"error": "invalid_grant"}, status=400)
        self.refreshes += 1
        given = {"access_token": f"t{self.refreshes}", "refresh_token": f"r{self.refreshes}", "scope": "orders.read"}
        return web.json_response(given | {"expires_in": 600})


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer, app = Issuer(), web.Application()
    app.router.add_post("/oauth/token", issuer.token)
    async with TestServer(app) as server:
        issuer.url = f"http://{server.host}:{server.port}"
        yield issuer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "login.json"
    Kept("t0", "r0", "orders.read", time.time() + 600, ProofKey().private).write(file)
    return file


def end(file: Path) -> None:
    """The access token is over."""
    kept = SavedLogin(file)._kept
    Kept(kept.access_token, kept.refresh_token, kept.scope, 0.0, kept.key).write(file)


async def test_a_token_is_used_while_it_lasts_and_renewed_with_the_key_it_is_bound_to(
    issuer: Issuer, file: Path
) -> None:
    async with aiohttp.ClientSession() as session:
        assert await SavedLogin(file).text(session, issuer.url) == "t0"
        end(file)
        assert await SavedLogin(file).text(session, issuer.url) == "t1"
        # Whoever comes next finds it in the file.
        assert await SavedLogin(file).text(session, issuer.url) == "t1"
    assert issuer.refreshes == len(issuer.keys) == 1
    assert file.stat().st_mode & 0o077 == 0


async def test_of_programs_that_share_the_file_one_renews_it(issuer: Issuer, file: Path) -> None:
    end(file)
    programs = [SavedLogin(file) for _ in range(5)]
    async with aiohttp.ClientSession() as session:
        found = await asyncio.gather(*(program.text(session, issuer.url) for program in programs for _ in range(3)))
    assert set(found) == {"t1"}
    assert issuer.refreshes == 1


async def test_a_token_that_was_refused_is_replaced(issuer: Issuer, file: Path) -> None:
    program = SavedLogin(file)
    async with aiohttp.ClientSession() as session:
        program.forget(await program.text(session, issuer.url))
        assert await program.text(session, issuer.url) == "t1"


async def test_a_sign_in_that_is_over_or_missing_says_what_to_do(issuer: Issuer, file: Path) -> None:
    end(file)
    issuer.refreshes = 5
    async with aiohttp.ClientSession() as session:
        with pytest.raises(Unauthenticated, match="LOGIN_OVER") as refused:
            await SavedLogin(file).text(session, issuer.url)
    assert "isthmus login" in refused.value.remedy
    for content in (b"", b"{}", b"[1]"):
        file.write_bytes(content)
        with pytest.raises(Unauthenticated, match="LOGIN_MISSING"):
            SavedLogin(file)
    file.unlink()
    with pytest.raises(Unauthenticated, match="LOGIN_MISSING"):
        SavedLogin(file)
