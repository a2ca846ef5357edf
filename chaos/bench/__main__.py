"""Run the benchmarks and print them.

    python -m chaos.bench [NAME...]

Exit status 0 when every ratio reached its target.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from chaos.bench import bridge, core, edge, gateway, mesh, report
from chaos.bench.tools import BenchError
from deploy.local.errors import LauncherError

BENCHES: dict[str, Callable[[Path], Sequence[report.Result]]] = {
    "edge": edge.run,
    "core": core.run,
    "bridge": bridge.run,
    "gateway": gateway.run,
    "mesh": mesh.run,
}


def main(names: Sequence[str]) -> int:
    console = Console()
    home = Path(os.environ.get("ISTHMUS_HOME", "var")).resolve()
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        console.print(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(BENCHES)}")
        return 2
    held = True
    for name in names or tuple(BENCHES):
        on = report.machine()
        try:
            with console.status(f"measuring {name}"):
                results = BENCHES[name](home)
        except (BenchError, LauncherError) as error:
            console.print(f"[red]{name}: {error}[/]")
            return 1
        path = home / "bench" / f"{name}.json"
        report.write(path, on, results)
        console.print(report.table(f"{name} ({path})", results))
        held = held and all(result.held for result in results)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
