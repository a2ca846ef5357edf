"""A new configuration of a gateway passes Envoy's own validation before any gateway is told."""

import asyncio
import contextlib
import copy
import json
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from mesh.control.compile import assignment, configuration
from mesh.control.health import State
from mesh.control.resources.view import View
from mesh.control.snapshot import CLUSTER, LISTENER, ROUTES
from mesh.logs import logger

_WITHIN_S: Final = 30.0
_REASON_CHARACTERS_MAX: Final = 2000
_SECRET: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 (a type's name)


class ValidatorMissing(FileNotFoundError):
    """There is no Envoy to ask."""


class EnvoyValidator:
    """Runs `envoy --mode validate`. `directory` is its own; `identity` stands for the gateway's certificate.

    Where the program cannot be run for once or does not end in time, the configuration is offered all the same, and the
    log says so: a busy machine must not leave gateways without one, they judge it themselves, and what they refuse is
    taken back.
    """

    def __init__(self, directory: Path, identity: Path, program: Path | None = None) -> None:
        """Raises ValidatorMissing: an installation that could never ask is broken, and is not to start."""
        self._directory = directory
        self._identity = identity
        # By its path: two wheels write envoy/__init__.py.
        self._program = program or Path(sysconfig.get_path("platlib")) / "envoy" / "_bin" / "envoy"
        if not self._program.is_file():
            raise ValidatorMissing(f"no program at {self._program}; install Envoy beside the control plane")
        self._log = logger("control")

    async def refusal(self, view: View, group: str) -> str:
        """Envoy's reason not to take what is compiled for the group; "" when it has none."""
        self._write_secrets(group)
        bootstrap = self._directory / f"{group}.json"
        bootstrap.write_text(json.dumps(static(replace(view, run=self._directory), group)))
        try:
            process = await asyncio.create_subprocess_exec(
                *(str(self._program), "--mode", "validate", "-c", str(bootstrap)),
                *("--disable-hot-restart", "-l", "error"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            self._log.warning("configuration not validated", group=group, reason=str(error))
            return ""
        try:
            async with asyncio.timeout(_WITHIN_S):
                _, errors = await process.communicate()
        except TimeoutError:
            self._log.warning("configuration not validated", group=group, reason=f"not within {_WITHIN_S:.0f} s")
            return ""
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if process.returncode == 0:
            return ""
        return errors.decode(errors="replace").strip()[-_REASON_CHARACTERS_MAX:] or f"exit status {process.returncode}"

    def _write_secrets(self, group: str) -> None:
        directory = self._directory / group
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

        def file(name: str) -> dict[str, str]:
            return {"filename": str(self._identity.absolute() / name)}

        own = {"tls_certificate": {"certificate_chain": file("svid.pem"), "private_key": file("key.pem")}}
        roots = {"validation_context": {"trusted_ca": file("bundle.pem")}}
        for name, content in (("identity", own), ("bundle", roots)):
            secret = {"resources": [{"@type": _SECRET, "name": name, **content}]}
            (directory / f"sds-{name}.yaml").write_text(json.dumps(secret))


def static(view: View, group: str) -> dict[str, Any]:
    """A bootstrap that holds what ADS would bring: routes in their listeners, endpoints in their clusters."""
    compiled = copy.deepcopy(configuration(view, group))
    clusters = []
    for name, cluster in compiled[CLUSTER].items():
        rest = {key: value for key, value in cluster.items() if key != "eds_cluster_config"}
        load_assignment = MessageToDict(assignment(view, name, lambda _: State.HEALTHY))
        clusters.append({**rest, "type": "STATIC", "load_assignment": load_assignment})
    listeners = list(compiled[LISTENER].values())
    for listener in listeners:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        name = manager.pop("rds")["route_config_name"]
        manager["route_config"] = {**compiled[ROUTES][name], "validate_clusters": True}
    return {
        "node": {"id": "validation", "cluster": "validation"},
        "static_resources": {"clusters": clusters, "listeners": listeners},
    }
