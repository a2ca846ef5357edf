"""Members' pages in Chromium: sign-in with and without script, a passkey, step-up, consent, in both languages.

ISTHMUS_WRITE_DOCS=1 takes the pictures in docs/pages anew.
"""

import asyncio
import base64
import hashlib
import json
import os
import secrets
import shutil
import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from deploy.local import postgres
from deploy.local.mesh import LocalMesh
from deploy.local.settings import REPOSITORY
from security.tokens.admission import STEP_UP_CONTEXT
from tests.e2e.conftest import PROVIDERS_AT
from tests.e2e.public import problem, public_client, register
from tests.e2e.signin import PASSWORD, ask_for_token, create_account
from tests.integration.oauth.browser import PASSWORD as PASSWORD_THERE
from tests.integration.oauth.outside_providers import SOMEBODY, OutsideProviders, second_instance

async_api = pytest.importorskip("playwright.async_api")
CHROMIUM = os.environ.get("ISTHMUS_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(CHROMIUM is None, reason="NOT TESTED: no Chromium here (apt-get install chromium)"),
]
SHOP = "https://shop.isthmus.example/callback"
LOGIN = "hedy@example.org"
# Whose certificate the identity providers borrow.
PROVIDER = "oauth-1"
WAIT_MS = 20_000
# A browser that was never started here reads several hundred megabytes first.
LAUNCH_MS = 240_000
PICTURES = REPOSITORY / "docs" / "pages"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def browser(mesh: LocalMesh) -> AsyncIterator[Any]:
    """Chromium, which takes the mesh's certificate for a good one: with a doubtful one it offers no passkeys.

    The shop's name leads to the edge gateway, which knows no such page: whoever is sent back arrives somewhere.
    """
    where = urlsplit(mesh.urls["edge_gateway"])
    assert where.hostname
    assert where.port
    gateway = ssl.get_server_certificate((where.hostname, where.port)).encode()
    known = ",".join(known_by(each) for each in (gateway, (mesh.home.identity(PROVIDER) / "svid.pem").read_bytes()))
    async with async_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                f"--ignore-certificate-errors-spki-list={known}",
                f"--host-resolver-rules=MAP {urlsplit(SHOP).hostname}:443 {where.hostname}:{where.port}",
                "--no-sandbox",
                "--disable-gpu",
            ],
            timeout=LAUNCH_MS,
        )
        yield browser
        await browser.close()


def known_by(certificate: bytes) -> str:
    """How Chromium is told to trust its key."""
    key = x509.load_pem_x509_certificate(certificate).public_key()
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(encoded).digest()).decode()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def providers(mesh: LocalMesh, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OutsideProviders]:
    relying, port = mesh.urls["edge_gateway"], mesh.settings.port_base + PROVIDERS_AT
    home, url = tmp_path_factory.mktemp("sandbox"), postgres.url(mesh.home, "sandbox")
    instance = second_instance(home, url, port, relying)
    # It waits for a process to start, and the mesh lives in this loop.
    far = OutsideProviders.before(await asyncio.to_thread(instance.__enter__), relying)
    runner = await far.serve(mesh.home.identity(PROVIDER))
    yield far
    await runner.cleanup()
    await asyncio.to_thread(instance.__exit__, None, None, None)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def member(mesh: LocalMesh) -> str:
    async with public_client(mesh) as client:
        member_id = await register(mesh, client, "browser-member-1", 31)
        await create_account(mesh, client, member_id, LOGIN)
    return member_id


async def opened(browser: Any, **settings: Any) -> Any:
    """A page of a browser of its own."""
    context = await browser.new_context(viewport={"width": 420, "height": 640}, **settings)
    context.set_default_timeout(WAIT_MS)
    return await context.new_page()


class Shop:
    """The shop's app: it sends the browser, and redeems what the browser brings back."""

    def __init__(self, mesh: LocalMesh, scope: str, **more: str) -> None:
        self._mesh = mesh
        self.verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": "shop-web",
            "redirect_uri": SHOP,
            "scope": scope,
            "state": "s",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        self.url = f"{mesh.urls['edge_gateway']}/oauth/authorize?{urlencode(asked | more)}"

    async def token(self, page: Any) -> str:
        """The token for which the browser, sent back to the shop, brings the code."""
        await page.wait_for_url(f"{SHOP}?**")
        form = {
            "grant_type": "authorization_code",
            "client_id": "shop-web",
            "code": parse_qs(urlsplit(page.url).query)["code"][0],
            "redirect_uri": SHOP,
            "code_verifier": self.verifier,
        }
        async with public_client(self._mesh) as client:
            answer = await ask_for_token(client, form)
        assert answer.status == 200, answer.body
        return str(json.loads(answer.body)["access_token"])


async def sign_in(page: Any, login: str = LOGIN, password: str = PASSWORD) -> None:
    await page.fill("#login", login)
    await page.fill("#password", password)
    await page.click("button[value=sign-in]")


async def sign_in_there(page: Any, far: OutsideProviders, kind: str) -> None:
    """At the provider that the page was sent to. At WeChat's stand-in somebody is signed in already."""
    if kind == "openid":
        await page.wait_for_url(f"{far.base}/**")
        await sign_in(page, SOMEBODY, PASSWORD_THERE)


async def picture(page: Any, name: str) -> None:
    if os.environ.get("ISTHMUS_WRITE_DOCS"):
        PICTURES.mkdir(exist_ok=True)
        await page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


async def test_a_member_signs_in_and_decides_without_script(mesh: LocalMesh, browser: Any, member: str) -> None:
    page = await opened(browser, java_script_enabled=False)
    shop = Shop(mesh, "members.read")
    await page.goto(shop.url)
    assert not await page.is_visible("#passkey")
    await page.fill("#login", LOGIN)
    await page.fill("#password", "something else")
    await page.click("button[value=sign-in]")
    assert await page.is_visible(".problem")
    await sign_in(page)
    await page.click("button[value=allow]")
    assert await shop.token(page)
    # From now on the shop may come back for as much without asking, and no more than that.
    again = Shop(mesh, "members.read")
    await page.goto(again.url)
    assert await again.token(page)
    await page.goto(Shop(mesh, "members.read orders.read").url)
    assert await page.is_visible("button[value=allow]")
    await page.context.close()


@pytest.mark.parametrize("kind", ["openid", "wechat"])
async def test_a_member_connects_a_provider_and_signs_in_by_it_without_script(
    mesh: LocalMesh, browser: Any, member: str, providers: OutsideProviders, kind: str
) -> None:
    account = f"{mesh.urls['edge_gateway']}/oauth/account"
    page = await opened(browser, java_script_enabled=False)
    await page.goto(account)
    await sign_in(page)
    await page.click(f"form:has(input[value={kind}]) button[value=connect]")
    await sign_in_there(page, providers, kind)
    if kind == "openid":
        # Allowed once, which is remembered there.
        await page.click("button[value=allow]")
    await page.wait_for_selector(f"form:has(input[value={kind}]) button[value=disconnect]")
    await page.context.close()
    page = await opened(browser, java_script_enabled=False, locale="zh-CN")
    shop = Shop(mesh, "members.read", prompt="consent")
    await page.goto(shop.url)
    await picture(page, "providers.zh")
    await page.click(f"button[value={kind}]")
    await sign_in_there(page, providers, kind)
    await page.wait_for_url(f"{mesh.urls['edge_gateway']}/**")
    await page.click("button[value=allow]")
    token = await shop.token(page)
    assert json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["amr"] == ["fed"]
    await page.context.close()


async def test_a_passkey_steps_up_to_what_a_password_does_not_open(mesh: LocalMesh, browser: Any, member: str) -> None:
    page = await opened(browser, locale="en-GB")
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("WebAuthn.enable")
    authenticator = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    await devtools.send("WebAuthn.addVirtualAuthenticator", {"options": authenticator})
    shop = Shop(mesh, "members.reveal")
    await page.goto(shop.url)
    await picture(page, "sign-in")
    await sign_in(page)
    await page.wait_for_selector("button[value=allow]")
    await picture(page, "consent")
    await page.click("button[value=allow]")
    by_password = await shop.token(page)
    path = f"/v1/members/{member}:export"
    async with public_client(mesh) as client:
        refused = await client.send("GET", path, headers={"authorization": f"DPoP {by_password}"})
        assert problem(refused, 401)["reason"] == "STEP_UP_REQUIRED"
        asked = refused.headers["www-authenticate"]
        assert 'error="insufficient_user_authentication"' in asked
        assert STEP_UP_CONTEXT in asked
        await page.goto(f"{mesh.urls['edge_gateway']}/oauth/account")
        await page.click("#passkey button")
        await page.wait_for_selector("button[value=remove]")
        await picture(page, "account")
        # As the challenge says: the session of before is not enough, and the passkey alone is.
        shop = Shop(mesh, "members.reveal", acr_values=STEP_UP_CONTEXT)
        await page.goto(shop.url)
        await page.wait_for_selector("#passkey button")
        await picture(page, "step-up")
        await page.click("#passkey button")
        stepped_up = await shop.token(page)
        answer = await client.send("GET", path, headers={"authorization": f"DPoP {stepped_up}"})
        assert answer.status == 200, answer.body
    await page.goto(f"{mesh.urls['edge_gateway']}/oauth/account")
    await page.click("button[value=end-all]")
    await page.wait_for_selector("#password")
    await page.context.close()


async def test_the_pages_speak_chinese_to_who_prefers_it(mesh: LocalMesh, browser: Any, member: str) -> None:
    page = await opened(browser, locale="zh-CN")
    await page.goto(Shop(mesh, "orders.read orders.write").url)
    assert await page.title() == "登录"
    await picture(page, "sign-in.zh")
    await sign_in(page)
    await page.wait_for_selector("button[value=allow]")
    assert await page.title() == "允许访问？"
    await picture(page, "consent.zh")
    await page.context.close()
