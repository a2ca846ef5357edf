"""`isthmus policy`: what the contract allows, and what in it must not be built."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json

if TYPE_CHECKING:
    from mesh.contract import Contract
    from mesh.contract.explain import Principal

_MEMBER: Final = "member"
_CLIENT: Final = "client:"
app = typer.Typer(help="What the contract allows.", no_args_is_help=True)


@app.command()
def lint(as_json: Json = False) -> None:
    """List every policy that breaks a rule, with its place and remedy. Exit status 1 if there is one."""
    from mesh.contract.lint import lint as find

    findings = find()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(finding)
        print(f"{len(findings)} findings")
    if findings:
        raise typer.Exit(1)


@app.command()
def table(as_json: Json = False) -> None:
    """Print who may call what, with which token, for how long: the published policy table."""
    from mesh import contract
    from mesh.contract import table as policy_table

    loaded = contract.load()
    if as_json:
        print_json(policy_table.rows(loaded))
    else:
        print(policy_table.markdown(loaded), end="")


@app.command()
def openapi(
    url: Annotated[str, typer.Option(help="Where the outside finds the mesh.")] = "https://localhost",
) -> None:
    """Print the OpenAPI document of all HTTP bindings, as the edge gateway serves it at /openapi.json."""
    from mesh import contract
    from mesh.contract import openapi as policy_openapi

    print_json(policy_openapi.document(contract.load(), url))


@app.command()
def explain(
    method: Annotated[str, typer.Argument(help="A method, or the end of its name: Orders.PlaceOrder.")],
    principal: Annotated[
        str, typer.Option("--as", help="A workload, a SPIFFE id, member, or client:NAME: what each rule says to it.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Say which rules decide about a method, where each is written and where it is enforced.

    Exit status 1 when a rule refuses the principal.
    """
    from deploy.local.errors import UnknownName
    from mesh import contract
    from mesh.contract.explain import find, rules

    loaded = contract.load()
    with clear_errors():
        found = find(loaded, method)
        if len(found) != 1:
            raise UnknownName(f"{len(found)} methods are named {method}", "See them all: isthmus policy table")
        try:
            named = _principal(loaded, principal) if principal else None
        except ValueError as error:
            raise UnknownName(str(error), "Name one of them, or a SPIFFE id") from error
    explained = rules(found[0], named)
    if as_json:
        policy = {"method": found[0].full_name, "zone": found[0].zone, "workload": found[0].workload}
        print_json({**policy, "rules": [asdict(rule) for rule in explained]})
    else:
        shown = Table("rule", "value", "verdict", "written", "enforced", box=None, header_style="bold")
        for rule in explained:
            shown.add_row(rule.rule, rule.value, rule.verdict, rule.written, "\n".join(rule.enforced))
        console().print(f"[bold]{found[0].full_name}[/], zone {found[0].zone}, served by {found[0].workload}")
        console().print(shown)
    if any(rule.verdict.startswith("refuses:") for rule in explained):
        raise typer.Exit(1)


def _principal(loaded: "Contract", name: str) -> "Principal":
    """Whom `--as` names. Raises ValueError for a name that nobody has."""
    from mesh.contract.explain import Subject
    from mesh.control.path import OUTSIDE, origin
    from security.oauth.seed import member_scopes, scopes_of_clients

    if name == _MEMBER:
        return Subject(member_scopes(loaded), human=True)
    if name.startswith(_CLIENT):
        clients = scopes_of_clients(loaded)
        client = name.removeprefix(_CLIENT)
        if client not in clients:
            raise ValueError(f"no client is called {client}; there are {', '.join(sorted(clients))}")
        return Subject(clients[client], human=False)
    peer = None if name == OUTSIDE else origin(loaded, name)
    if peer is None:
        raise ValueError(f"whoever comes from {OUTSIDE} is a {_MEMBER}, or a {_CLIENT}NAME")
    return peer
