"""Clients that follow from the contract alone."""

from pathlib import Path
from typing import Any

from mesh.contract import load
from security.oauth.domain import Client
from security.oauth.passwords import PasswordChecker
from security.oauth.seed import seed, workloads_of

CONTRACT = load()


def test_a_workload_that_comes_by_itself_gets_the_scopes_of_the_methods_that_name_it_and_no_others() -> None:
    found = workloads_of(CONTRACT)
    assert found["operator"] == {"accounts.write"}
    served = {service.workload for service in CONTRACT.services.values()}
    # Services have a way of their own, and what gateways bring belongs to somebody else.
    assert not found.keys() & (served | {"core-gateway", "edge-gateway"})
    for workload, scopes in found.items():
        naming = [method for method in CONTRACT.methods.values() if workload in method.callers]
        assert scopes == {scope for method in naming for scope in method.scopes}


class Clients(dict[str, Client]):
    """The part of a store that is seeded."""

    def client(self, client_id: str) -> Client | None:
        return self.get(client_id)

    def put_client(self, client: Client) -> None:
        self[client.client_id] = client

    def remove_client(self, client_id: str) -> None:
        self.pop(client_id, None)


def seeded(directory: Path, **more: Any) -> Clients:
    clients: Any = Clients()
    seed(clients, PasswordChecker(), CONTRACT, "isthmus.internal", directory, "https://shop.example/callback", **more)
    assert isinstance(clients, Clients)
    return clients


def test_a_client_with_tokens_that_are_bound_to_nothing_is_the_sandbox_or_was_named(tmp_path: Path) -> None:
    everyone = seeded(tmp_path, sandbox=True)
    # The operator's certificate binds its tokens whether or not it wants that.
    unbound = {name for name, client in everyone.items() if not client.bound and client.spiffe_id is None}
    assert unbound == {"sandbox"}
    assert {"storefront", "shop-web", "isthmus-cli"} < everyone.keys()
    named = seeded(tmp_path, bearer=frozenset({"shop-web"}))
    assert {name for name, client in named.items() if not client.bound and client.spiffe_id is None} == {"shop-web"}
    # Nobody has a secret but the sandbox.
    assert {name for name, client in everyone.items() if client.secret_hash} == {"sandbox"}
