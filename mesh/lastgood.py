"""The configuration that a data plane worked with last, on its own disk.

One file, a ClientStatusResponse (envoy.service.status.v3): in this form gRPC tells what it has applied, and what Envoy
tells fits into it.
"""

import contextlib
import hashlib
import os
import stat
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from mesh.errors import Unavailable
from mesh.files import PRIVATE_MODE, write_file

FILE: Final = "last-good.binpb"
# Whoever was away for longer starts with what its control plane says, or not at all.
AGE_S_MAX: Final = 24 * 3600.0
# Versions end so where they came from this file: what was read here is not written again as if it were new.
MARK: Final = ".last-good"
_BYTES_MAX: Final = 64 << 20


class LastGood:
    """Times are seconds since the epoch. Not for several writers."""

    def __init__(self, path: Path, *, by_name: bool, now: Callable[[], float] = time.time) -> None:
        """by_name: the data plane asks for what it needs, as gRPC does, and what it has not needed yet stays until
        it is old. Of one that asks for everything, what it does not have any more goes."""
        self.path = path
        self._by_name = by_name
        self._now = now

    def keep(self, answer: bytes) -> None:
        """Write what a data plane says that it works with."""
        from envoy.service.status.v3 import csds_pb2

        found = {}
        if self._by_name:
            with contextlib.suppress(Unavailable):
                found = {(each.type_url, each.name): each for each in self._read()}
        for config in csds_pb2.ClientStatusResponse.FromString(answer).config:
            for each in config.generic_xds_configs:
                if not each.HasField("xds_config") or each.version_info.endswith(MARK):
                    continue
                kept = csds_pb2.ClientConfig.GenericXdsConfig(
                    type_url=each.type_url, name=each.name, version_info=each.version_info, xds_config=each.xds_config
                )
                kept.last_updated.FromNanoseconds(int(self._now() * 1e9))
                found[each.type_url, each.name] = kept
        if found:
            whole = csds_pb2.ClientConfig(generic_xds_configs=[found[key] for key in sorted(found)])
            write_file(self.path, csds_pb2.ClientStatusResponse(config=[whole]).SerializeToString(), PRIVATE_MODE)

    def snapshot(self) -> Any:
        """What to start with, a mesh.control.snapshot.Snapshot. Raises Unavailable where nothing fit is there."""
        from mesh.control.snapshot import ORDER, Resource, Snapshot

        resources: defaultdict[str, dict[str, Resource]] = defaultdict(dict)
        told: defaultdict[str, set[str]] = defaultdict(set)
        for each in self._read():
            told[each.type_url].add(each.version_info)
            digest = hashlib.sha256(each.xds_config.value).hexdigest()[:16]
            resources[each.type_url][each.name] = Resource(each.name, digest, each.xds_config)
        if not resources:
            raise Unavailable("LAST_GOOD_STALE", f"{self.path} holds nothing younger than {AGE_S_MAX / 3600:.0f} h")
        snapshot = Snapshot.of({kind: MappingProxyType(resources[kind]) for kind in ORDER})
        # A data plane that is told the same again by its control plane keeps the version under which it came.
        known = {kind: versions.pop() for kind, versions in told.items() if len(versions) == 1}
        versions = {kind: (known.get(kind) or own) + MARK for kind, own in snapshot.versions.items()}
        return Snapshot(snapshot.resources, versions)

    def _read(self) -> list[Any]:
        """The entries that are young enough. Raises Unavailable where somebody else could have written them."""
        from envoy.service.status.v3 import csds_pb2
        from google.protobuf.message import DecodeError

        try:
            with os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                about = os.fstat(file.fileno())
                if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
                    raise Unavailable(
                        "LAST_GOOD_UNTRUSTED",
                        f"{self.path} is not this user's alone",
                        remedy="delete it: it comes anew",
                    )
                if about.st_size > _BYTES_MAX:
                    raise Unavailable("LAST_GOOD_UNTRUSTED", f"{self.path} is larger than {_BYTES_MAX} bytes")
                answer = csds_pb2.ClientStatusResponse.FromString(file.read(_BYTES_MAX))
        except (OSError, DecodeError) as error:
            raise Unavailable("LAST_GOOD_MISSING", f"{self.path}: {error}") from error
        # What claims to be of the future has no age that could be trusted.
        now = self._now()
        return [
            each
            for config in answer.config
            for each in config.generic_xds_configs
            if 0 <= now - each.last_updated.ToNanoseconds() / 1e9 <= AGE_S_MAX
        ]
