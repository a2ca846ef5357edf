"""`isthmus login`: an access token for the person at this terminal, by a code that they type into any browser."""

import http.client
import json
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode, urlsplit

import typer

from deploy.cli.output import Json, clear_errors, console, print_json
from deploy.local.errors import LauncherError

if TYPE_CHECKING:
    from mesh.client.proof import ProofKey

CLIENT_ID = "isthmus-cli"
GRANT = "urn:ietf:params:oauth:grant-type:device_code"
REQUEST_S_MAX = 10.0
# The server says how long a code lives; nobody waits longer than this, whatever it says.
WAIT_S_MAX = 900.0
SLOW_DOWN_S = 5.0


class LoginFailed(LauncherError):
    """The authorization server refused, or nobody decided in time."""

    exit_code = 20


def login(
    scope: Annotated[str, typer.Option(help="What to ask for, separated by spaces; default: all it may have.")] = "",
    gateway: Annotated[str, typer.Option(help="Where the mesh is; default: the one of ISTHMUS_PORT_BASE.")] = "",
    root: Annotated[Path | None, typer.Option(help="The certificate of its authority, PEM.")] = None,
    as_json: Json = False,
) -> None:
    """Sign in with a code and keep the tokens in ISTHMUS_HOME, readable by its owner alone (RFC 8628)."""
    with clear_errors():
        from deploy.local import topology
        from deploy.local.mesh import urls
        from deploy.local.settings import LauncherSettings
        from mesh.client.login import Kept
        from mesh.client.proof import ProofKey

        home = LauncherSettings().layout
        gateway = gateway or urls(home, topology.read(home.topology))["edge_gateway"]
        server = _Server(gateway, root or home.root / "ca" / "public" / "root.pem")
        begun = server.post("/oauth/device_authorization", {"scope": scope} if scope else {})
        if as_json:
            print_json({"verification_uri": begun["verification_uri_complete"], "user_code": begun["user_code"]})
        else:
            console().print(f"Open {begun['verification_uri_complete']}\nand look for the code {begun['user_code']}")
        key = ProofKey()
        given, asked_at = _wait(server, begun, key)
        path = home.root / "run" / "operator" / "login.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        Kept.given(given, key, asked_at).write(path)
        if as_json:
            print_json({"file": str(path), "scope": given["scope"], "expires_in": given["expires_in"]})
        else:
            console().print(f"signed in for {given['scope']}; the token is in {path}")


def _wait(server: "_Server", begun: dict[str, Any], key: "ProofKey") -> tuple[dict[str, Any], float]:
    """Ask until somebody has decided, no faster than told; the tokens, bound to `key`, and when they were asked for."""
    pause_s = float(begun["interval"])
    ends = time.monotonic() + min(float(begun["expires_in"]), WAIT_S_MAX)
    while time.monotonic() < ends:
        time.sleep(pause_s)
        asked_at = time.time()
        answer = server.ask("/oauth/token", {"grant_type": GRANT, "device_code": begun["device_code"]}, key)
        match answer.get("error"):
            case None:
                return answer, asked_at
            case "authorization_pending":
                continue
            case "slow_down":
                pause_s += SLOW_DOWN_S
            case "access_denied":
                raise LoginFailed("The sign-in was denied", "Begin again with `isthmus login`")
            case _:
                break
    raise LoginFailed("Nobody decided in time", "Begin again with `isthmus login`")


class _Server:
    """The authorization server, behind the edge gateway."""

    def __init__(self, gateway: str, root: Path) -> None:
        parts = urlsplit(gateway)
        if parts.scheme != "https" or not parts.hostname:
            raise LoginFailed(f"{gateway} is no https address", "Give one with --gateway")
        if not root.exists():
            raise LoginFailed(f"{root} does not exist", "Start the mesh with `make run`, or give --root")
        self._host, self._port = parts.hostname, parts.port or 443
        self._url = gateway.rstrip("/")
        self._tls = ssl.create_default_context(cafile=str(root))
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_3

    def post(self, path: str, form: dict[str, str]) -> dict[str, Any]:
        """The answer. Raises LoginFailed when it is an error."""
        answer = self.ask(path, form)
        if "error" in answer:
            raise LoginFailed(f"The authorization server refused: {answer['error']}", "Ask for another scope")
        return answer

    def ask(self, path: str, form: dict[str, str], key: "ProofKey | None" = None) -> dict[str, Any]:
        """The answer, errors of OAuth included; with a proof of `key`, where there is one, and the nonce of now.

        Raises LoginFailed when there is none.
        """
        proof = key.proof("POST", self._url + path) if key else None
        answer, headers = self._ask(path, form, dict(proof.headers) if proof else {})
        if key and proof and answer.get("error") == "use_dpop_nonce" and key.told(headers, proof):
            answer, _ = self._ask(path, form, dict(key.proof("POST", self._url + path).headers))
        return answer

    def _ask(self, path: str, form: dict[str, str], headers: dict[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
        connection = http.client.HTTPSConnection(self._host, self._port, context=self._tls, timeout=REQUEST_S_MAX)
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            connection.request("POST", path, urlencode({"client_id": CLIENT_ID} | form), headers)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read(1 << 20))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise LoginFailed(
                f"{self._host}:{self._port} does not answer ({type(error).__name__})", "See `isthmus status`"
            ) from error
        finally:
            connection.close()
        return answer, {name.lower(): value for name, value in response.getheaders()}
