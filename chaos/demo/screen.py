"""What whoever watches sees: phases, progress, faults, and at the end the tables."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from chaos.load.pace import Stream

LINES_EVERY_S = 10.0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="cyan")


class Screen:
    """A live display on a terminal; plain lines elsewhere. Context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._started = time.monotonic()
        self._streams: list[tuple[str, Stream]] = []
        self._next_lines = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str, style: str = "") -> None:
        self.console.print(f"[dim]{time.monotonic() - self._started:6.1f} s[/]  ", end="")
        self.console.print(text, style=style, highlight=False, markup=False)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Say that something begins, and how long it took when it went well."""
        self.say(f"{name} ...", "bold")
        started = time.monotonic()
        yield
        self.say(f"{name}: done in {time.monotonic() - started:.1f} s", "green")

    def watch(self, **streams: Stream) -> None:
        """Show these streams from now on, at each `refresh`."""
        for name, stream in streams.items():
            self._streams.append((name, stream))
            self._progress.add_task(name, total=stream.rows)

    def refresh(self) -> None:
        for (_, stream), task in zip(self._streams, self._progress.task_ids, strict=True):
            self._progress.update(task, completed=stream.done)
        if not self.console.is_terminal and time.monotonic() >= self._next_lines:
            self._next_lines = time.monotonic() + LINES_EVERY_S
            self.say(", ".join(f"{name} {stream.done:,} of {stream.rows:,}" for name, stream in self._streams))
