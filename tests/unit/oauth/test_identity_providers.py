"""Both kinds of provider against a far side that answers whatever the test says, and the file that names them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from mesh.clock import SystemClock
from mesh.errors import FailedPrecondition
from security.oauth.federation.cached import ASKED_S_MIN, AWAY_S, KEPT_S
from security.oauth.federation.openid import OpenIdProvider
from security.oauth.federation.port import AwayError, NotProvenError, Secrets, Wanted
from security.oauth.federation.settings import OpenIdSettings, WechatSettings, proof_of, read
from security.oauth.federation.wechat import WechatProvider

ISSUER = "https://id.example/realms/shop"
BACK = "https://localhost/oauth/callback/keycloak"
SECRETS = Secrets("s" * 43, "n" * 43, "v" * 43)
METADATA = {
    "issuer": ISSUER,
    "authorization_endpoint": "https://id.example/auth",
    "token_endpoint": "https://id.example/token",
    "jwks_uri": "https://id.example/jwks",
    "response_types_supported": ["code"],
    "subject_types_supported": ["public"],
    "id_token_signing_alg_values_supported": ["RS256", "ES256"],
    "code_challenge_methods_supported": ["S256"],
}


class Hands(SystemClock):
    """A clock whose monotonic hand the test moves."""

    at = 1000.0

    def monotonic(self) -> float:
        return self.at


class FarSide:
    """A `Fetch`: one OpenID provider. answers: what stands at which path instead."""

    def __init__(self, clock: Hands) -> None:
        self.clock = clock
        self.key = ECKey.generate_key("P-256", {"kid": "1"})
        self.answers: dict[str, tuple[int, dict[str, Any]] | Exception] = {}
        self.asked: list[str] = []
        self.forms: list[dict[str, list[str]]] = []
        self.claims: dict[str, Any] = {}

    async def __call__(
        self, url: str, form: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        path = urlsplit(url).path.rpartition("/")[2]
        self.asked.append(path)
        if form is not None:
            self.forms.append(parse_qs(form))
        answer = self.answers.get(path)
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            return answer
        if path == "openid-configuration":
            return 200, METADATA
        if path == "jwks":
            return 200, {"keys": [self.key.as_dict(private=False)]}
        now = self.clock.now_us() // 1_000_000
        claims = {"iss": ISSUER, "sub": "u", "aud": "isthmus", "iat": now, "exp": now + 60, "nonce": SECRETS.nonce}
        token = jwt.encode({"alg": "ES256", "kid": self.key.kid}, claims | self.claims, self.key)
        return 200, {"id_token": token}


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def far(clock: Hands) -> FarSide:
    return FarSide(clock)


@pytest.fixture
def provider(far: FarSide, clock: Hands) -> OpenIdProvider:
    settings = OpenIdSettings(
        kind="openid", title="Keycloak", issuer=ISSUER, client_id="isthmus", secret_file=Path("x")
    )
    return OpenIdProvider(settings, "a-secret", BACK, far, clock)


def wanted(clock: Hands, age_s_max: int | None = None) -> Wanted:
    return Wanted(clock.now_us() // 1_000_000, age_s_max)


async def test_a_browser_is_sent_with_state_nonce_and_challenge(provider: OpenIdProvider, clock: Hands) -> None:
    address = urlsplit(await provider.address(SECRETS, wanted(clock, 0)))
    asked = {name: value for name, [value] in parse_qs(address.query).items()}
    assert address.netloc == "id.example"
    assert (asked["state"], asked["nonce"], asked["redirect_uri"]) == (SECRETS.state, SECRETS.nonce, BACK)
    assert asked["code_challenge_method"] == "S256"
    assert SECRETS.verifier not in address.query
    assert (asked["prompt"], asked["max_age"]) == ("login", "0")


async def test_a_code_is_redeemed_with_its_verifier(provider: OpenIdProvider, far: FarSide, clock: Hands) -> None:
    person = await provider.person({"code": "c", "iss": ISSUER}, SECRETS, wanted(clock))
    assert (person.authority, person.subject) == (ISSUER, "u")
    assert far.forms == [
        {"grant_type": ["authorization_code"], "redirect_uri": [BACK], "code": ["c"], "code_verifier": ["v" * 43]}
    ]


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ({"code": "c", "iss": "https://evil.example"}, "ANSWER_ISSUER"),
        ({"error": "access_denied"}, "DENIED_THERE"),
        ({}, "DENIED_THERE"),
    ],
    ids=["another provider's answer", "denied", "nothing"],
)
async def test_no_code_is_redeemed_of_an_answer_that_is_not_good(
    provider: OpenIdProvider, far: FarSide, clock: Hands, answer: dict[str, str], rule: str
) -> None:
    with pytest.raises(NotProvenError, match=rule):
        await provider.person(answer, SECRETS, wanted(clock))
    assert "token" not in far.asked


async def test_who_always_says_who_they_are_must_say_so(provider: OpenIdProvider, far: FarSide, clock: Hands) -> None:
    far.answers["openid-configuration"] = 200, METADATA | {"authorization_response_iss_parameter_supported": True}
    with pytest.raises(NotProvenError, match="ANSWER_ISSUER"):
        await provider.person({"code": "c"}, SECRETS, wanted(clock))


@pytest.mark.parametrize(
    ("answer", "rule"),
    [((400, {"error": "invalid_grant"}), "CODE_REFUSED"), ((200, {"access_token": "t"}), "ID_TOKEN_MISSING")],
)
async def test_a_token_endpoint_that_says_no_proves_nobody(
    provider: OpenIdProvider, far: FarSide, clock: Hands, answer: tuple[int, dict[str, Any]], rule: str
) -> None:
    far.answers["token"] = answer
    with pytest.raises(NotProvenError, match=rule):
        await provider.person({"code": "c"}, SECRETS, wanted(clock))


async def test_a_client_with_a_key_proves_itself_to_that_provider_alone(
    far: FarSide, clock: Hands, tmp_path: Path
) -> None:
    key = ECKey.generate_key("P-256")
    (tmp_path / "key.pem").write_bytes(key.as_pem(private=True))
    settings = OpenIdSettings(kind="openid", title="K", issuer=ISSUER, client_id="isthmus", key_file=Path("key.pem"))
    keyed = OpenIdProvider(settings, proof_of("k", settings, tmp_path / "file"), BACK, far, clock)
    methods = {"token_endpoint_auth_methods_supported": ["client_secret_basic", "private_key_jwt"]}
    for lacking in ({}, {"token_endpoint_auth_signing_alg_values_supported": ["RS256"]}):
        far.answers["openid-configuration"] = 200, METADATA | methods | lacking
        with pytest.raises(AwayError, match="metadata"):
            await keyed.address(SECRETS, wanted(clock))
        clock.at += AWAY_S
    taken = {"token_endpoint_auth_signing_alg_values_supported": ["RS256", "ES256"]}
    far.answers["openid-configuration"] = 200, METADATA | methods | taken
    assert (await keyed.person({"code": "c"}, SECRETS, wanted(clock))).subject == "u"
    [form] = far.forms
    assert "client_secret" not in form
    said = jwt.decode(form["client_assertion"][0], key, algorithms=["ES256"]).claims
    assert (said["iss"], said["sub"], said["aud"]) == ("isthmus", "isthmus", ISSUER)


def test_a_key_file_holds_a_private_key_of_the_right_kind(tmp_path: Path) -> None:
    settings = OpenIdSettings(kind="openid", title="K", issuer=ISSUER, client_id="isthmus", key_file=Path("key.pem"))
    wrong = (b"", b"a-secret", ECKey.generate_key("P-384").as_pem(private=True))
    for content in (*wrong, ECKey.generate_key("P-256").as_pem(private=False)):
        (tmp_path / "key.pem").write_bytes(content)
        with pytest.raises(FailedPrecondition, match="holds no private P-256 key"):
            proof_of("k", settings, tmp_path / "file")


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://id.example/token"},
        {"jwks_uri": None},
        {"authorization_endpoint": "https://user:password@id.example/auth"},
        {"code_challenge_methods_supported": ["plain"]},
        {"token_endpoint_auth_methods_supported": ["private_key_jwt"]},
        {"id_token_signing_alg_values_supported": ["HS256", "none"]},
        {"id_token_signing_alg_values_supported": None},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_metadata_that_is_not_good_is_no_metadata(
    provider: OpenIdProvider, far: FarSide, clock: Hands, change: dict[str, Any]
) -> None:
    found = {name: value for name, value in (METADATA | change).items() if value is not None}
    far.answers["openid-configuration"] = 200, found
    with pytest.raises(AwayError, match="metadata"):
        await provider.address(SECRETS, wanted(clock))


async def test_a_provider_of_one_good_algorithm_is_good_though_it_is_not_rs256(
    provider: OpenIdProvider, far: FarSide, clock: Hands
) -> None:
    far.answers["openid-configuration"] = 200, METADATA | {"id_token_signing_alg_values_supported": ["ES256"]}
    assert await provider.address(SECRETS, wanted(clock))


async def test_who_is_away_is_not_asked_again_at_once(provider: OpenIdProvider, far: FarSide, clock: Hands) -> None:
    far.answers["openid-configuration"] = AwayError("refused")
    for _ in range(5):
        with pytest.raises(AwayError):
            await provider.address(SECRETS, wanted(clock))
    assert len(far.asked) == 1
    del far.answers["openid-configuration"]
    clock.at += AWAY_S
    assert await provider.address(SECRETS, wanted(clock))


async def test_new_keys_are_asked_for_but_not_as_often_as_somebody_likes(
    provider: OpenIdProvider, far: FarSide, clock: Hands
) -> None:
    answer = {"code": "c"}
    await provider.person(answer, SECRETS, wanted(clock))
    far.key = ECKey.generate_key("P-256", {"kid": "2"})
    clock.at += ASKED_S_MIN
    assert (await provider.person(answer, SECRETS, wanted(clock))).subject == "u"
    assert far.asked.count("jwks") == 2
    published, far.key = far.key, ECKey.generate_key("P-256", {"kid": "3"})
    far.answers["jwks"] = 200, {"keys": [published.as_dict(private=False)]}
    for _ in range(5):
        with pytest.raises(NotProvenError, match="ID_TOKEN_KEY"):
            await provider.person(answer, SECRETS, wanted(clock))
    assert far.asked.count("jwks") == 2


async def test_keys_are_not_used_past_their_time(provider: OpenIdProvider, far: FarSide, clock: Hands) -> None:
    await provider.person({"code": "c"}, SECRETS, wanted(clock))
    clock.at += KEPT_S
    far.answers["jwks"] = AwayError("refused")
    with pytest.raises(AwayError):
        await provider.person({"code": "c"}, SECRETS, wanted(clock))


class Wechat(FarSide):
    """WeChat's two calls."""

    given: Mapping[str, Any] = {"access_token": "t", "openid": "openid-1", "scope": "snsapi_login"}
    told: Mapping[str, Any] = {"openid": "openid-1", "unionid": "union-1"}

    async def __call__(
        self, url: str, form: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        self.asked.append(urlsplit(url).path)
        return 200, dict(self.told if url.partition("?")[0].endswith("userinfo") else self.given)


def wechat(clock: Hands, far: Wechat, subject: str = "unionid") -> WechatProvider:
    settings = WechatSettings.model_validate(
        {"kind": "wechat", "title": "WeChat", "appid": "wx00000001", "secret_file": "x", "subject": subject}
    )
    return WechatProvider(settings, "a-secret", BACK, far, clock)


async def test_wechat_is_asked_in_its_own_words(clock: Hands) -> None:
    address = await wechat(clock, Wechat(clock)).address(SECRETS, wanted(clock))
    assert address.startswith(
        "https://open.weixin.qq.com/connect/qrconnect?appid=wx00000001&redirect_uri=https%3A%2F%2F"
    )
    assert address.endswith(f"&response_type=code&scope=snsapi_login&state={SECRETS.state}#wechat_redirect")


@pytest.mark.parametrize(
    ("subject", "given", "told", "found"),
    [
        ("unionid", {}, {}, ("wechat:unionid", "union-1", 2)),
        ("unionid", {"unionid": "union-2"}, {}, ("wechat:unionid", "union-2", 1)),
        ("openid", {}, {}, ("wechat:openid:wx00000001", "openid-1", 1)),
    ],
    ids=["told on asking", "told at once", "by openid"],
)
async def test_wechat_names_somebody(
    clock: Hands, subject: str, given: dict[str, Any], told: dict[str, Any], found: tuple[str, str, int]
) -> None:
    far = Wechat(clock)
    far.given, far.told = dict(far.given) | given, dict(far.told) | told
    person = await wechat(clock, far, subject).person({"code": "c"}, SECRETS, wanted(clock))
    assert (person.authority, person.subject, len(far.asked)) == found


@pytest.mark.parametrize(
    ("given", "told", "error", "match"),
    [
        ({"errcode": 40029, "errmsg": "invalid code"}, {}, NotProvenError, "CODE_REFUSED: errcode 40029"),
        ({"errcode": -1}, {}, AwayError, "errcode -1"),
        ({"scope": "snsapi_base"}, {}, NotProvenError, "SCOPE_OTHER"),
        ({"openid": 7}, {}, NotProvenError, "OPENID_MISSING"),
        ({}, {"unionid": ""}, NotProvenError, "UNIONID_MISSING"),
        ({}, {"openid": "openid-2"}, NotProvenError, "OPENID_OTHER"),
        ({}, {"errcode": 40003}, NotProvenError, "CODE_REFUSED"),
    ],
)
async def test_every_other_answer_of_wechats_proves_nobody(
    clock: Hands, given: dict[str, Any], told: dict[str, Any], error: type[Exception], match: str
) -> None:
    far = Wechat(clock)
    far.given, far.told = dict(far.given) | given, dict(far.told) | told
    with pytest.raises(error, match=match):
        await wechat(clock, far).person({"code": "c"}, SECRETS, wanted(clock))


async def test_who_says_no_at_wechat_comes_back_without_a_code(clock: Hands) -> None:
    far = Wechat(clock)
    with pytest.raises(NotProvenError, match="DENIED_THERE"):
        await wechat(clock, far).person({"state": "s"}, SECRETS, wanted(clock))
    assert far.asked == []


GOOD = """
[keycloak]
kind = "openid"
title = "Keycloak"
issuer = "https://id.example/realms/shop"
client_id = "isthmus"
secret_file = "keycloak.secret"

[wechat]
kind = "wechat"
title = "WeChat"
title_zh = "微信"
appid = "wx00000001"
secret_file = "keycloak.secret"
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    (tmp_path / "keycloak.secret").write_text("0123456789\n")

    def written(text: str) -> Path:
        file = tmp_path / "providers.toml"
        file.write_text(text)
        return file

    return written


def test_providers_are_read_in_the_order_of_their_file(write: Callable[[str], Path]) -> None:
    file = write(GOOD)
    found = read(file)
    assert list(found) == ["keycloak", "wechat"]
    assert found["keycloak"].titles == {"en": "Keycloak", "zh": "Keycloak"}
    assert found["wechat"].titles["zh"] == "微信"
    assert isinstance(found["keycloak"], OpenIdSettings)
    assert proof_of("keycloak", found["keycloak"], file) == "0123456789"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "openid"', 'kind = "saml"', "kind"),
        ("https://id.example", "http://id.example", "issuer: .*https"),
        ("/realms/shop", "/realms/shop?a=1", "no query"),
        ('client_id = "isthmus"', "", "client_id: Field required"),
        ('secret_file = "keycloak.secret"', "", "by a secret_file or by a key_file"),
        ('secret_file = "keycloak.secret"', 'secret_file = "a"\nkey_file = "b"', "not by both"),
        ('title_zh = "微信"', 'titel_zh = "微信"', "titel_zh: Extra inputs"),
        ("[wechat]", "[We_Chat]", "is no name"),
        ('appid = "wx00000001"', 'appid = "../x"', "appid"),
        ("[keycloak]", "[keycloak", "cannot be read"),
        ('title = "Keycloak"', 'title = "Keycloak"\ntls_min = "1.1"', "tls_min"),
    ],
)
def test_a_file_that_is_ill_formed_is_refused(write: Callable[[str], Path], old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(FailedPrecondition, match=said) as refused:
        read(write(GOOD.replace(old, new, 1)))
    assert refused.value.reason == "IDENTITY_PROVIDERS_INVALID"


def test_a_file_does_without_a_secret_neither_in_it_nor_beside_it(write: Callable[[str], Path]) -> None:
    file = write(GOOD.replace('"keycloak.secret"', '"missing"', 1))
    provider = read(file)["keycloak"]
    assert isinstance(provider, OpenIdSettings)
    with pytest.raises(FailedPrecondition, match="secret_file"):
        proof_of("keycloak", provider, file)
    (file.parent / "missing").write_text("short")
    with pytest.raises(FailedPrecondition, match="8 to 512"):
        proof_of("keycloak", provider, file)
    told = GOOD.replace('client_id = "isthmus"', 'client_id = "isthmus"\nclient_secret = "hunter2hunter2"')
    with pytest.raises(FailedPrecondition, match="Extra inputs") as refused:
        read(write(told))
    assert "hunter2" not in json.dumps(str(refused.value))


def test_a_file_is_no_longer_and_names_no_more_than_a_page_can_show(write: Callable[[str], Path]) -> None:
    tables = "".join(GOOD.partition("[wechat]")[0].replace("[keycloak]", f"[k{number}]") for number in range(9))
    with pytest.raises(FailedPrecondition, match="more than 8"):
        read(write(tables))
    with pytest.raises(FailedPrecondition, match="bytes"):
        read(write("#" * 70_000))
