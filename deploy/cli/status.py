"""`isthmus status`: what runs, whether it is ready, and every port that listens."""

import asyncio
from dataclasses import asdict
from typing import Any

from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json


def status(as_json: Json = False) -> None:
    """Show every process, whether it is ready now, and where it listens."""
    with clear_errors():
        report = asyncio.run(collect())
    if as_json:
        print_json(report)
        return
    table = Table("process", "zone", "pid", "ready", "listens", box=None, header_style="bold")
    for process in report["processes"]:
        ready = "[green]yes[/]" if process["ready"] else "[red]no[/]"
        listens = ", ".join(f"{one['port']} {one['name']}" for one in process["listens"])
        table.add_row(process["name"], process["zone"], str(process["pid"] or "-"), ready, listens or "-")
    console().print(table)


async def collect() -> dict[str, Any]:
    """home, urls, and every process with whether it is ready now."""
    from deploy.local import processes, topology
    from deploy.local.health import NotReady, probe
    from deploy.local.mesh import urls
    from deploy.local.settings import LauncherSettings
    from deploy.local.topology import Process

    settings = LauncherSettings()
    home = settings.layout
    table = topology.read(home.topology)

    async def report(process: Process) -> dict[str, Any]:
        running = processes.read_pid(home, process.name)
        ready = running is not None
        if ready:
            try:
                await probe(home, process)()
            except NotReady:
                ready = False
        listens = [asdict(listen) for listen in process.listens]
        described = {"name": process.name, "zone": process.zone, "node": process.node}
        return {**described, "pid": running.pid if running else None, "ready": ready, "listens": listens}

    # The operator is an identity, not a process, and so is a Kafka that a user brought.
    rows = [one for one in table.processes if one.runs]
    reports = await asyncio.gather(*(report(process) for process in rows))
    return {"home": str(home.root), "urls": urls(home, table), "processes": reports}
