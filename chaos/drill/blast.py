"""How far a drill may reach. Checked before each fault, against everything that the drill has hit so far."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chaos.drill.errors import TooWide

# Whatever an experiment declares.
PROCESSES_MAX = 12
# Of a workload with replicas, unless it is declared as a whole.
SHARE_MAX = 0.5
REMEDY = "Name fewer targets, or declare a wider blast_radius in the experiment"


@dataclass(frozen=True)
class BlastRadius:
    """`whole` names workloads all of whose nodes may be hit together."""

    workloads: frozenset[str]
    processes_max: int
    whole: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    methods: frozenset[str] = frozenset()


def check(radius: BlastRadius, nodes: Mapping[str, str], hit: Iterable[str], more: Iterable[str]) -> None:
    """May `more` be hit as well? `nodes` gives each process of the mesh its workload.

    Raises:
        TooWide: a process that is not of this mesh or not declared, too many, or all of a workload.
    """
    more, after = set(more), set(hit) | set(more)
    if strangers := sorted(more - nodes.keys()):
        raise TooWide(f"{', '.join(strangers)}: no process of this mesh", "See `isthmus status`")
    if undeclared := sorted({nodes[name] for name in more} - radius.workloads):
        raise TooWide(f"{', '.join(undeclared)}: not in the declared blast radius", REMEDY)
    if len(after) > min(radius.processes_max, PROCESSES_MAX):
        most = min(radius.processes_max, PROCESSES_MAX)
        raise TooWide(f"{len(after)} processes, and {most} are the most", REMEDY)
    for workload in sorted({nodes[name] for name in more} - radius.whole):
        all_of_it = {name for name, its in nodes.items() if its == workload}
        if len(after & all_of_it) > len(all_of_it) * SHARE_MAX:
            raise TooWide(f"{workload}: more than half of its {len(all_of_it)} nodes", REMEDY)


def check_link(radius: BlastRadius, link: str) -> None:
    """
    Raises:
        TooWide: the link is not declared.
    """
    if link not in radius.links:
        raise TooWide(f"the link {link}: not in the declared blast radius", REMEDY)


def check_method(radius: BlastRadius, method: str) -> None:
    """
    Raises:
        TooWide: the method is not declared.
    """
    if method not in radius.methods:
        raise TooWide(f"{method}: not in the declared blast radius", REMEDY)
