"""`isthmus run`: the mesh in the foreground."""

import asyncio
import contextlib
import signal
import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from deploy.cli.output import clear_errors, console


def run() -> None:
    """Start the mesh and stay. Ctrl-C or SIGTERM drains and stops it."""
    with clear_errors():
        asyncio.run(_run(console()))


async def _run(out: Console) -> None:
    from deploy.local.mesh import LocalMesh
    from deploy.local.supervisor import State

    started = time.monotonic()
    mesh = LocalMesh()
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    def progress() -> Table:
        table = Table.grid(padding=(0, 2))
        colours = {State.READY: "green", State.DONE: "green", State.FAILED: "red", State.STARTING: "yellow"}
        for name, child in mesh.processes.items():
            if child.row.command:
                colour = colours.get(child.state, "dim")
                table.add_row(child.row.process.zone, name, f"[{colour}]{child.state}[/]", child.reason[:80])
        return table

    starting = asyncio.create_task(mesh.start())
    wait = asyncio.create_task(stopping.wait())
    if out.is_terminal:
        with Live(get_renderable=progress, console=out, refresh_per_second=5, transient=True):
            await asyncio.wait((starting, wait), return_when=asyncio.FIRST_COMPLETED)
    else:
        out.print(f"starting in {mesh.home.root}")
        await asyncio.wait((starting, wait), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return
    await starting
    try:
        if mesh.swept:
            out.print(f"stopped what an earlier launcher had left: {', '.join(mesh.swept)}")
        out.print(f"[green]ready[/] after {time.monotonic() - started:.1f} s")
        out.print(_addresses(mesh.urls))
        out.print("Ctrl-C stops it. In another terminal: isthmus status, isthmus check.")
        await wait
    finally:
        out.print("stopping")
        await mesh.stop()


def _addresses(urls: dict[str, str]) -> Table:
    table = Table("what", "where", box=None, header_style="bold")
    for what, where in urls.items():
        table.add_row(what.replace("_", " "), where)
    return table
