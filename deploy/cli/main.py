"""The entry point: gathers the commands. A group's file imports what is heavy only when its command runs."""

import os

import typer

from deploy.cli import (
    audit,
    bridge,
    check,
    config,
    demo,
    drill,
    explain,
    keys,
    login,
    members,
    override,
    policy,
    reconcile,
    restore,
    retention,
    run,
    status,
)
from mesh.environment import GRPC

app = typer.Typer(
    help="Isthmus: a hybrid-cloud gRPC service mesh whose contract is its policy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("status")(status.status)
app.command("check")(check.check)
app.command("explain")(explain.explain)
app.command("demo")(demo.demo)
app.command("login")(login.login)
app.command("reconcile")(reconcile.reconcile)
app.command("restore")(restore.restore)
app.command("retention")(retention.retention)
app.add_typer(audit.app, name="audit")
app.add_typer(bridge.app, name="bridge")
app.add_typer(config.app, name="config")
app.add_typer(drill.app, name="drill")
app.add_typer(keys.app, name="keys")
app.add_typer(members.app, name="members")
app.add_typer(override.app, name="override")
app.add_typer(policy.app, name="policy")


@app.callback()
def prepare() -> None:
    """Before any command: gRPC reads its environment once, when it is loaded."""
    os.environ.update(GRPC)
