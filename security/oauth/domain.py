"""The rules of the authorization server: clients, redirect targets, scopes, sign-in, codes and signing keys."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from urllib.parse import urlsplit

TOKEN_LIFE = timedelta(minutes=10)
CODE_LIFE = timedelta(seconds=60)
# A refresh token that is not used for so long is of no use any more, and no family of them lives longer than that.
REFRESH_LIFE = timedelta(days=7)
FAMILY_LIFE = timedelta(days=30)
# Whose answer got lost may ask again so long, and gets the same answer.
REFRESH_GRACE = timedelta(seconds=10)
PUSHED_LIFE = timedelta(seconds=90)
DEVICE_CODE_LIFE = timedelta(minutes=10)
DEVICE_POLL_S = 5
SESSION_LIFE = timedelta(hours=12)
SESSION_FRESH = timedelta(minutes=10)
SESSIONS_MAX = 20
# What a sign-in was made with (RFC 8176).
BY_PASSWORD = "pwd"  # noqa: S105 (the name of a method)
BY_BOTH_FACTORS = "pwd otp mfa"
BY_PASSKEY = "pop user mfa"
# By an outside identity provider: RFC 8176 has no name for it, and this one is what others use.
BY_PROVIDER = "fed"
BY_PROVIDER_AND_SECOND = "fed otp mfa"
# How long somebody may stay away at a provider.
DEPARTURE_LIFE = timedelta(minutes=10)

# RFC 8252, section 7.3: a native app listens on whatever port it got, but only on its own machine.
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "[::1]"})

CLIENT_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# RFC 6749, appendix A: the visible characters of ASCII and the space.
PARAMETER = re.compile(r"[\x20-\x7e]{0,2048}")
# RFC 7636, section 4.2: an S256 challenge is 32 bytes in base64url.
CHALLENGE_S256 = re.compile(r"[A-Za-z0-9_-]{43}")

# As members makes ids (RFC 9562, section 5.4).
MEMBER_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
LOGIN_LENGTH_MAX = 128
PASSWORD_LENGTH_MIN = 10
PASSWORD_LENGTH_MAX = 256

# After the fifth wrong password in a row each further one costs twice as long a wait, up to five minutes.
FREE_FAILURES = 5
LOCK_MAX = timedelta(minutes=5)


class Authentication(Enum):
    """How a client proves itself at the token endpoint."""

    # A public client (RFC 6749, section 2.1) has PKCE alone.
    NONE = "none"
    CLIENT_SECRET = "client_secret"  # noqa: S105 (the name of a method)
    # RFC 7523, section 2.2.
    PRIVATE_KEY_JWT = "private_key_jwt"
    # RFC 8705, section 2.1: by the name in its certificate.
    TLS = "tls_client_auth"


@dataclass(frozen=True)
class Client:
    """A registered program."""

    client_id: str
    name: str
    secret_hash: str | None
    grants: frozenset[str]
    scopes: frozenset[str]
    redirect_uris: tuple[str, ...]
    authentication: Authentication = Authentication.NONE
    # Its public keys, a JWK set as JSON, where it proves itself with one.
    jwks: str | None = None
    # Its name in the mesh, where it proves itself by its certificate.
    spiffe_id: str | None = None
    # Whether its tokens are always bound to a key or a certificate (RFC 9449, section 5.2): whoever sees one on its way
    # can do nothing with it.
    bound: bool = False

    def may_redirect_to(self, uri: str) -> bool:
        return any(redirect_matches(registered, uri) for registered in self.redirect_uris)

    def granted(self, requested: str | None) -> frozenset[str] | None:
        """The scopes it gets for `requested`: all of its own when that names none, None when that names too much."""
        scopes = frozenset((requested or "").split())
        if not scopes:
            return self.scopes
        return scopes if scopes <= self.scopes else None


@dataclass(frozen=True)
class Account:
    """How a member signs in."""

    member_id: str
    # What its login is found by; the login itself is not kept.
    login_index: bytes
    password_hash: str
    failures: int
    locked_until: datetime | None


@dataclass(frozen=True)
class Code:
    """An authorization code: good once, for a minute, for the client and the redirect target it was made for."""

    client_id: str
    member_id: str
    redirect_uri: str
    scope: str
    challenge: str
    signed_in_at: datetime
    expires_at: datetime
    # The family that the tokens given for it will belong to.
    family_id: str
    # The authentication context of the sign-in (RFC 9068, section 2.2.1): "" for a password alone.
    context: str = ""
    methods: str = BY_PASSWORD
    # What the client will know its own request by (OpenID Connect Core, section 3.1.2.1); "" where it sent none.
    nonce: str = ""


@dataclass(frozen=True)
class Family:
    """Everything that one consent of one member to one client brought about: its tokens live and end together."""

    family_id: str
    client_id: str
    member_id: str
    scope: str
    signed_in_at: datetime
    expires_at: datetime
    # RFC 7638 thumbprint of the key that its refresh tokens are bound to (RFC 9449, section 5).
    key_thumbprint: str | None = None
    context: str = ""
    methods: str = BY_PASSWORD


@dataclass(frozen=True)
class Session:
    """A member who is signed in, in one browser."""

    # What it is called on pages and in records; its cookie holds something else.
    session_id: str
    member_id: str
    # As it was typed in this browser; "" of a member who came by a passkey or a provider, and in lists.
    login: str
    signed_in_at: datetime
    expires_at: datetime
    context: str
    methods: str
    # The browser, in a few words.
    agent: str = ""

    @property
    def called(self) -> str:
        """What pages call its member."""
        return self.login or self.member_id

    def fresh(self, now: datetime) -> bool:
        """Whether its member signed in a moment ago: only then it may change how they sign in."""
        return now - self.signed_in_at <= SESSION_FRESH

    def suffices(self, now: datetime, *, context: str, age_s_max: int | None) -> bool:
        """Whether the sign-in is what an app asks for (RFC 9470, section 4): "" is content with any context."""
        if context and self.context != context:
            return False
        return age_s_max is None or now - self.signed_in_at <= timedelta(seconds=age_s_max)


@dataclass(frozen=True)
class Consent:
    """What a member has allowed one client, until it is withdrawn."""

    client_id: str
    name: str
    scopes: frozenset[str]
    given_at: datetime


@dataclass(frozen=True)
class Departure:
    """A browser that was sent to an identity provider: for what, and what became of it."""

    # Where it goes on afterwards: a path of this server.
    back: str
    started_s: int
    client_id: str = ""
    # How old a sign-in there may be; None for any age.
    age_s_max: int | None = None
    # A one-time password is needed besides.
    second: bool = False
    # The session to whose member the person there is to be connected; "" to sign in.
    connects: str = ""
    # Whom the provider has proven, while their one-time password is waited for.
    member_id: str = ""
    signed_in_s: int = 0


def taken_for_signed_in_at(told: datetime | None, now: datetime) -> datetime:
    """When somebody signed in at a provider. One that does not say may have asked them nothing today: never fresh."""
    return told if told is not None else now - SESSION_FRESH - timedelta(seconds=1)


class RefreshUse(Enum):
    """What became of a refresh token that was shown."""

    # It was good, and is used up now.
    ROTATED = 1
    # It was used moments ago and its successor is not: the holder asks again because the answer got lost.
    REPEATED = 2
    # It was used before: somebody else has it too, so the whole family ends.
    REUSED = 3
    UNKNOWN = 4


def refresh_use(
    *,
    now: datetime,
    expires_at: datetime,
    family_ends: datetime,
    ended: bool,
    used_at: datetime | None,
    passed_on: bool,
) -> RefreshUse:
    """What to make of a refresh token. passed_on: its successor was used, too."""
    if ended or min(expires_at, family_ends) <= now:
        return RefreshUse.UNKNOWN
    if used_at is None:
        return RefreshUse.ROTATED
    if now - used_at <= REFRESH_GRACE and not passed_on:
        return RefreshUse.REPEATED
    return RefreshUse.REUSED


@dataclass(frozen=True)
class KeyDates:
    """From when a signing key signs, and until when it is published."""

    kid: str
    not_before: datetime
    retire_at: datetime


@dataclass(frozen=True)
class KeyRules:
    """How long a key signs, and how long before that verifiers can already find it."""

    signs_for: timedelta = timedelta(days=30)
    published_ahead: timedelta = timedelta(days=1)
    # In a hurry: as long as the gateways and the services take to read the list again, and a fetch that fails.
    hurried_ahead: timedelta = timedelta(seconds=12)

    def dates(self, not_before: datetime) -> tuple[datetime, datetime]:
        """not_before and retire_at of a new key. It stays published while a token of its last moment can live."""
        return not_before, not_before + self.signs_for + self.published_ahead + TOKEN_LIFE

    def next_start(self, keys: Sequence[KeyDates], now: datetime) -> datetime | None:
        """When a key that is made now begins to sign, or None if none is needed yet.

        The very first key signs at once, and so does one that is made after everything else has ended; every other
        is published a while before it signs, so that every verifier knows it by then.
        """
        usable = [key for key in keys if now < key.retire_at]
        signing = signing_key(usable, now)
        if signing is None:
            return now
        if any(key.not_before > now for key in usable):
            return None
        ends = signing.not_before + self.signs_for
        return max(ends, now + self.published_ahead) if now >= ends - self.published_ahead else None


def successor(keys: Sequence[KeyDates], now: datetime) -> KeyDates | None:
    """The key that will sign in the place of all others, where such a replacement is under way."""
    for key in keys:
        others = [other for other in keys if other.kid != key.kid]
        if now < key.not_before and all(other.retire_at <= key.not_before for other in others):
            return key
    return None


def signing_key(keys: Sequence[KeyDates], now: datetime) -> KeyDates | None:
    """The youngest key that may sign now."""
    started = [key for key in keys if key.not_before <= now < key.retire_at]
    return max(started, key=lambda key: (key.not_before, key.kid), default=None)


def redirect_matches(registered: str, uri: str) -> bool:
    """Whether `uri` is the registered target: the same string (RFC 9700, section 4.1.3), but for a loopback's port."""
    if uri == registered:
        return True
    known = urlsplit(registered)
    host = known.netloc
    if known.scheme != "http" or host not in LOOPBACK_HOSTS:
        return False
    prefix, suffix = f"http://{host}:", registered.removeprefix(f"http://{host}")
    if not uri.startswith(prefix) or not uri.endswith(suffix) or len(uri) < len(prefix) + len(suffix):
        return False
    port = uri[len(prefix) : len(uri) - len(suffix)]
    return re.fullmatch(r"[1-9][0-9]{0,4}", port) is not None and int(port) <= 65535


def remembers(redirect_uri: str) -> bool:
    """Whether a consent may be remembered for whoever is at this target: on a loopback address anybody may be.

    RFC 8252, section 8.6.
    """
    return urlsplit(redirect_uri).scheme == "https"


def browser_name(user_agent: str) -> str:
    """A browser in a few words, for its user to know it by: "Chrome, Linux"; "" for one that is not known."""
    names = {"Edg/": "Edge", "OPR/": "Opera", "Firefox/": "Firefox", "Chrome/": "Chrome", "Safari/": "Safari"}
    systems = ("Android", "iPhone", "iPad", "Windows", "Macintosh", "Linux")
    name = next((name for mark, name in names.items() if mark in user_agent), "")
    system = next((system for system in systems if system in user_agent), "")
    return ", ".join(part for part in (name, system) if part)


def fold_login(login: str) -> str:
    """The one spelling under which a login is stored and found. Raises ValueError for what cannot be one."""
    folded = unicodedata.normalize("NFKC", login).strip().casefold()
    if not 3 <= len(folded) <= LOGIN_LENGTH_MAX or not folded.isprintable():
        raise ValueError("a login has 3 to 128 printable characters")
    return folded


def fold_user_code(text: str) -> str:
    """The one spelling of a code that a person typed: WDJB-MJHT, however they wrote it; "" for what is none."""
    letters = re.sub(r"[\s-]", "", text).upper()
    return f"{letters[:4]}-{letters[4:]}" if re.fullmatch(r"[BCDFGHJKLMNPQRSTVWXZ]{8}", letters) else ""


def member_id_rule(member_id: str) -> str:
    """Why no account can be for this id, or an empty string.

    It is kept in clear, and so would be a phone number or a name in its place.
    """
    if MEMBER_ID.fullmatch(member_id) is None:
        return "a member's id is the UUID that registering the member gave; register the member first"
    return ""


def password_rule(password: str) -> str:
    """Why a password cannot be taken, or an empty string (NIST SP 800-63B: length, no composition rules)."""
    if not PASSWORD_LENGTH_MIN <= len(password) <= PASSWORD_LENGTH_MAX:
        return f"a password has {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX} characters"
    if "\x00" in password:
        return "a password holds no NUL"
    if len(set(password)) < 4:
        return "a password has at least four different characters"
    return ""


def lock_after(failures: int) -> timedelta:
    """How long an account is closed after so many wrong passwords in a row."""
    if failures < FREE_FAILURES:
        return timedelta(0)
    return min(timedelta(seconds=2 ** min(failures - FREE_FAILURES, 10)), LOCK_MAX)
