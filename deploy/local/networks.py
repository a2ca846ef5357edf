"""A network namespace for each zone, with one cable between the two that can be cut (ip-netns(8), veth(4)). For root.

Each zone has one address, on its own loopback. The other zone reaches it over the cable, this machine over one more of
its own: whoever cuts the zones apart still sees both. What is cut off is sent to a station that is not there, so it is
lost without a word, as where a switch fails; a route that is taken away would be told at once.
"""

import os
import shutil
import subprocess
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address

from deploy.local.errors import LauncherError
from mesh.spiffe import ZONES

# RFC 2544 keeps these for tests of networks, and has two for every port base; the machine's own are local to a link.
FIRST = IPv4Address("198.18.0.0")
FIRST_OUTSIDE = IPv4Address("169.254.0.0")
CABLE, OUTSIDE = "zones", "outside"
NOBODY = "02:00:00:00:00:01"
DEADLINE_S = 20.0
REMEDY = "It takes root, and the packages iproute2 and util-linux"


def possible() -> bool:
    return os.geteuid() == 0 and all(map(shutil.which, ("ip", "nsenter")))


def namespace(port_base: int, zone: str) -> str:
    return f"isthmus-{port_base}-{zone}"


def address(port_base: int, zone: str) -> str:
    """Of a zone: no two meshes of one machine have the same."""
    return str(FIRST + 2 * port_base + ZONES.index(zone))


def entrance(namespace: str) -> tuple[str, ...]:
    """What runs a command in a namespace, in the place of itself: same pid."""
    return ("nsenter", f"--net=/run/netns/{namespace}", "--")


class Networks:
    """Of one mesh. Everything blocks for DEADLINE_S at most."""

    def __init__(self, port_base: int) -> None:
        self._base = port_base
        self._outside = str(FIRST_OUTSIDE + port_base)

    def up(self) -> None:
        """Make both, in the place of what a killed launcher has left of them.

        Raises:
            LauncherError: they cannot be made; nothing of them is left.
        """
        if not possible():
            raise LauncherError("The zones cannot have networks of their own (ISTHMUS_ZONE_NETWORKS)", REMEDY)
        self.down()
        try:
            _ip(*self._wiring())
        except (OSError, subprocess.SubprocessError) as error:
            self.down()
            raise LauncherError(f"The zones' networks cannot be made: {_said(error)}", REMEDY) from error

    def down(self) -> None:
        """Safe at any time. Nothing may run in them."""
        for zone in ZONES:
            for command in (f"link del {self._device(zone)}", f"netns del {namespace(self._base, zone)}"):
                subprocess.run(("ip", *command.split()), capture_output=True, timeout=DEADLINE_S)

    def cut(self, silenced: Collection[str]) -> None:
        """Let nothing more of what these zones send arrive in the other one.

        Raises:
            LauncherError: it could not be cut, and is not.
        """
        try:
            for zone in silenced:
                self._neighbour("replace", zone, "lladdr", NOBODY, "nud", "permanent")
        except (OSError, subprocess.SubprocessError) as error:
            self.mend()
            raise LauncherError(f"The zones cannot be cut apart: {_said(error)}", REMEDY) from error

    def mend(self) -> None:
        """Safe at any time. Whoever sends next asks anew who has the other's address."""
        for zone in ZONES:
            try:
                self._neighbour("del", zone)
            except subprocess.CalledProcessError:
                # It was not cut, or the network is gone.
                continue

    def _neighbour(self, do: str, zone: str, *more: str) -> None:
        (other,) = set(ZONES) - {zone}
        inside = namespace(self._base, zone)
        _run("ip", "-n", inside, "neigh", do, address(self._base, other), "dev", CABLE, *more)

    def _device(self, zone: str) -> str:
        """This machine's end of the way to a zone. The kernel takes 15 characters."""
        return f"i{self._base}-{zone}"

    def _wiring(self) -> Iterable[str]:
        public, private = (namespace(self._base, zone) for zone in ZONES)
        yield from (f"netns add {name}" for name in (public, private))
        yield f"link add {CABLE} netns {public} type veth peer name {CABLE} netns {private}"
        for zone, name in zip(ZONES, (public, private), strict=True):
            here, device = address(self._base, zone), self._device(zone)
            (there,) = (address(self._base, other) for other in ZONES if other != zone)
            yield f"link add {device} type veth peer name {OUTSIDE} netns {name}"
            yield f"addr add {self._outside}/32 dev {device}"
            yield f"link set {device} up"
            yield f"route add {here}/32 dev {device} src {self._outside}"
            inside = f"-n {name}"
            yield f"{inside} addr add {here}/32 dev lo"
            yield from (f"{inside} link set {one} up" for one in ("lo", CABLE, OUTSIDE))
            yield f"{inside} route add {there}/32 dev {CABLE} src {here}"
            yield f"{inside} route add {self._outside}/32 dev {OUTSIDE} src {here}"


def _ip(*commands: str) -> None:
    for command in commands:
        _run("ip", *command.split())


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)


def _said(error: Exception) -> str:
    said = error.stderr.decode(errors="replace").strip() if isinstance(error, subprocess.CalledProcessError) else ""
    return said or str(error)
