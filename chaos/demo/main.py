"""`isthmus demo`: start the mesh, play the files through it, break it on purpose, verify, say what came of it."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import stamina.instrumentation
import uvloop
from rich.console import Console

from chaos.demo.faults import edge_nodes
from chaos.demo.memory import MemoryWatch
from chaos.demo.replay import Replay
from chaos.demo.screen import Screen
from chaos.demo.summary import Summary, summarize, write
from chaos.demo.tables import show
from chaos.load.input_error import BadInput
from chaos.load.outcomes import CallFailed
from chaos.load.rows import Rows, read_rows
from deploy.local.errors import LauncherError
from deploy.local.mesh import LocalMesh
from deploy.local.settings import LauncherSettings
from deploy.local.supervisor import Child, State
from mesh.errors import MeshError

EXIT_CHECK_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_NOT_PLAYED = 3
EXIT_INTERRUPTED = 130


def demo(impressions: Sequence[Path] | None, transactions: Path | None, limit: int | None, json: bool) -> int:
    """Returns the exit status: 0 only when every check held. Without files, plays the data sets that set-up brings.

    With `json` the summary is printed on standard output and all else on standard error.
    """
    console = Console(stderr=json)
    settings = LauncherSettings()
    try:
        rows = read_rows(impressions, transactions, settings.cache, limit)
    except BadInput as error:
        _fail(str(error))
        return EXIT_BAD_INPUT
    stamina.instrumentation.set_on_retry_hooks([])
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            summary = runner.run(_demo(rows, console))
    except LauncherError as error:
        _fail(str(error))
        return error.exit_code
    except (CallFailed, MeshError) as error:
        _fail(f"The demonstration could not be played: {error}")
        return EXIT_NOT_PLAYED
    except KeyboardInterrupt:
        _fail("Interrupted; everything has been stopped.")
        return EXIT_INTERRUPTED
    if json:
        print(summary.to_json(), end="")
    return 0 if summary.ok else EXIT_CHECK_FAILED


async def _demo(rows: Rows, console: Console) -> Summary:
    began = time.monotonic()
    with Screen(console) as screen:
        mesh = LocalMesh(on_change=lambda child: _tell(screen, child))
        with screen.phase(f"Starting {len(mesh.rows)} processes"):
            await mesh.start()
        try:
            memory = MemoryWatch(lambda: {n: c.pid for n, c in mesh.processes.items() if c.pid is not None})
            watching = asyncio.create_task(memory.run())
            replay = Replay(mesh, rows, screen)
            await replay.play()
            with screen.phase("Reading the books until everything has landed"):
                verdict = await replay.verify()
            watching.cancel()
            nodes = len(edge_nodes(mesh))
        finally:
            screen.say("Stopping")
            await mesh.stop()
    summary = summarize(replay, verdict, nodes, time.monotonic() - began, memory.max_mib)
    file = mesh.home.root / "demo" / "summary.json"
    write(file, summary)
    show(console, replay.expected, verdict.books, summary, replay.outcomes.reasons())
    console.print(f"The figures are in {file}", markup=False, highlight=False)
    return summary


def _fail(text: str) -> None:
    Console(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)


def _tell(screen: Screen, child: Child) -> None:
    if child.state is State.FAILED:
        screen.say(f"{child.row.name}: {child.state} ({child.reason})", "red")
