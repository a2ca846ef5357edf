"""Which processes of a zone need an identity, from the process table the launcher writes."""

import json
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from mesh.errors import FailedPrecondition
from mesh.files import read_file

PROCESSES_MAX = 10_000
# A process name becomes a directory name, so it may not climb out of its directory.
NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
NAME_LENGTH_MAX = 63


@dataclass(frozen=True, order=True)
class Holder:
    """A process that is given an identity."""

    process: str
    workload: str
    # IPv4, where it listens.
    addresses: tuple[str, ...] = ()


# Whoever runs the installation has an identity in each zone: services know the operator of their own zone only.
OPERATORS = {"public": Holder("operator-public", "operator"), "private": Holder("operator", "operator")}


def holders(home: Path, zone: str) -> frozenset[Holder]:
    """Every process of `zone` in ISTHMUS_HOME/topology.json, and the zone's operator.

    No file yet means no process yet. A malformed table is an error: no leaf is issued from a guess.
    """
    operator = frozenset({OPERATORS[zone]})
    try:
        table = json.loads(read_file(home / "topology.json"))
        rows = [row for row in table["processes"] if row["zone"] == zone]
        found = frozenset(Holder(row["name"], row["workload"], _addresses(row)) for row in rows)
    except FileNotFoundError:
        return operator
    except (ValueError, KeyError, TypeError, FailedPrecondition) as error:
        raise FailedPrecondition("TOPOLOGY_MALFORMED", f"topology.json cannot be read: {error!r}") from error
    if len(found) > PROCESSES_MAX:
        raise FailedPrecondition("TOPOLOGY_TOO_LARGE", f"more than {PROCESSES_MAX} processes in {zone}")
    for holder in found:
        for name in (holder.process, holder.workload):
            if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH_MAX or not NAME_LETTERS.issuperset(name):
                raise FailedPrecondition("TOPOLOGY_MALFORMED", f"not a process or workload name: {name!r}")
    return found | operator


def _addresses(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(sorted({str(IPv4Address(listen["address"])) for listen in row.get("listens", ())}))
