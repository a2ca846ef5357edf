"""What the processes of the mesh write while a drill runs: kept beside the report of one that did not hold."""

from pathlib import Path
from typing import Final

# Of one process: the last so many bytes of what it wrote.
BYTES_MAX: Final = 4 << 20


class Logbook:
    """Remembers how long each log was when the drill began. A mesh whose logs lie elsewhere has none here."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._began = {log.name: log.stat().st_size for log in self._found()}

    def keep(self, to: Path) -> int:
        """Copy what was written since into a directory; how many processes wrote something. Raises OSError."""
        kept = 0
        for log in self._found():
            began, size = self._began.get(log.name, 0), log.stat().st_size
            # One that is shorter was emptied in between, since it had grown too large.
            since = max(began if began <= size else 0, size - BYTES_MAX)
            if since == size:
                continue
            to.mkdir(mode=0o700, parents=True, exist_ok=True)
            with log.open("rb") as lines:
                lines.seek(since)
                (to / log.name).write_bytes(lines.read(BYTES_MAX))
            kept += 1
        return kept

    def _found(self) -> list[Path]:
        return sorted(self._logs.glob("*.log"))
