"""Clients that follow from the contract alone."""

from mesh.contract import load
from security.oauth.seed import workloads_of

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
