"""Inner tokens: what the gateway makes of an access token for one service, for a minute at most.

An inner token is bound to who presents it: `act` names, presenter first, the workloads that act for the subject
(RFC 8693, section 4.1), and the called service compares it with its mTLS peer. What the outside token was bound to
stands in `cnf` still, and the outside token's id in `origin`, so that its revocation reaches here too.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from mesh.contract import Contract
from mesh.errors import Unauthenticated
from mesh.spiffe import SpiffeId

TYPE: Final = "inner+jwt"
LIFE_S: Final = 60
ACTORS_MAX: Final = 4
ACTOR: Final = re.compile(r"spiffe://[a-z0-9.-]{1,255}/[a-z]{1,16}/[a-z0-9-]{1,63}", re.ASCII)


def issuer(trust_domain: str) -> str:
    """Who makes inner tokens: the gateway, under its own name."""
    return str(SpiffeId("private", "gateway", trust_domain))


def actors(payload: Mapping[str, Any]) -> tuple[str, ...]:
    """The chain of `act`, present actor first. Unauthenticated for any other shape."""
    found: list[str] = []
    act = payload.get("act")
    while act is not None:
        subject = act.get("sub") if isinstance(act, dict) and not act.keys() - {"sub", "act"} else None
        if not isinstance(subject, str) or not ACTOR.fullmatch(subject) or len(found) == ACTORS_MAX:
            raise Unauthenticated("TOKEN_CLAIMS", "the token's chain of actors is malformed")
        found.append(subject)
        act = act.get("act")
    return tuple(found)


def act(chain: tuple[str, ...]) -> dict[str, Any]:
    """The claim for a chain of at least one actor."""
    first, *before = chain
    return {"sub": first} | ({"act": act(tuple(before))} if before else {})


def reach(contract: Contract) -> Mapping[str, frozenset[str]]:
    """For each method of the private zone that asks for scopes: its own, and those of what its service may call then.

    A token for a call is narrowed to these: whatever the service does for the caller needs no more.
    """
    methods = [method for method in contract.methods.values() if method.zone == "private"]
    needed = {each.workload: frozenset[str]() for each in methods}
    called = {each: [method for method in methods if each in method.callers] for each in needed}
    # Each round follows calls one hop further; no chain of calls is longer than the list of workloads.
    for _ in needed:
        needed = {
            workload: frozenset().union(*(method.scopes | needed[method.workload] for method in outward))
            for workload, outward in called.items()
        }
    return {method.path: method.scopes | needed[method.workload] for method in methods}
