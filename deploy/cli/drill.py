"""`isthmus drill`: break the mesh on purpose, safely, and find out whether it holds."""

import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json

app = typer.Typer(help="Break the mesh on purpose, safely, and find out whether it holds.", no_args_is_help=True)

Names = Annotated[list[str] | None, typer.Argument(help="Drills by name, or experiment files.")]
Name = Annotated[str, typer.Argument(help="A drill by name, or an experiment file.")]
Short = Annotated[bool, typer.Option("--short", help="All drills of the short suite.")]


@app.command("list")
def list_drills(as_json: Json = False) -> None:
    """Print every drill."""
    with clear_errors():
        from chaos.drill import library

        drills = library.listed()
    if as_json:
        print_json([asdict(one) for one in drills])
        return
    table = Table("drill", "what it shows", "suite", "runbook", box=None, header_style="bold")
    for one in drills:
        table.add_row(one.name, escape(one.title), "short" if library.SHORT in one.tags else "", one.runbook)
    console().print(table)


@app.command()
def plan(name: Name, as_json: Json = False) -> None:
    """Print what a drill would do. Nothing is touched."""
    with clear_errors():
        from chaos.drill import run as drills

        planned = drills.plan(name)
    drill = planned.drill.model_dump()
    if as_json:
        print_json({**asdict(planned), "drill": drill})
        return
    out = console()
    out.print(f"[bold]{escape(planned.title)}[/]")
    radius, load = planned.drill.blast_radius, planned.drill.load
    out.print(
        f"seed {planned.drill.seed}; at most {radius.processes_max} of {', '.join(radius.workloads) or 'nothing'}"
    )
    out.print(f"links: {', '.join(radius.links) or 'none'}; whole workloads: {', '.join(radius.whole) or 'none'}")
    out.print(f"traffic: {load.public_per_s:g} public requests and {load.purchases_per_s:g} purchases each second")
    for number, step in enumerate(planned.steps, start=1):
        out.print(f"{number:>3}. {escape(step)}")
    out.print("steady state, looked at three times:")
    for look in planned.looks:
        out.print(f"     {escape(look)}")


@app.command()
def run(names: Names = None, short: Short = False, as_json: Json = False) -> None:
    """Run drills, one after the other, on the mesh of this home; when none runs, on one of their own.

    Exit status 0 only if all held; 20 and above when one was refused and nothing was touched.
    """
    with clear_errors():
        from chaos.drill import library
        from chaos.drill import run as drills

        if bool(names) == short:
            raise typer.BadParameter("name the drills, or say --short for the short suite; not both")
        chosen = names or [one.name for one in library.listed() if library.SHORT in one.tags]
        for name in chosen:
            drills.plan(name)
        with drills.mesh(chosen) as own:
            if own and not as_json:
                console().print("started a mesh for the drills")
            documents = _run_all(chosen, as_json, to_the_end=True)
    if as_json:
        print_json(documents)
    if len(documents) < len(chosen) or not all(one.get("ok") for one in documents):
        raise typer.Exit(1)


@app.command("game-day")
def game_day(
    minutes: Annotated[float, typer.Option(min=1, max=24 * 60, help="Begin no drill after this time.")] = 60,
    seed: Annotated[int, typer.Option(help="The same seed gives the same sequence.")] = 7,
    as_json: Json = False,
) -> None:
    """Run drills in a random order for an hour. Exit status 0 only if all held; the first that does not ends it."""
    with clear_errors():
        from chaos.drill import run as drills

        with drills.mesh():
            documents = _run_all(drills.game_day(minutes, seed), as_json, to_the_end=False)
    if as_json:
        print_json(documents)
    if not documents or not all(one.get("ok") for one in documents):
        raise typer.Exit(1)


@app.command()
def schedule(
    calendar: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The calendar, a YAML file.")],
    coming: Annotated[int, typer.Option(min=0, max=1000, help="Only print so many coming drills, and end.")] = 0,
    as_json: Json = False,
) -> None:
    """Stay, and run drills at the times of a calendar on the mesh of this home. Ctrl-C ends it."""
    from datetime import UTC, datetime
    from itertools import islice

    with clear_errors():
        from chaos.drill import calendar as calendars
        from chaos.drill import run as drills

        due = calendars.read(calendar).due(datetime.now(UTC))
        if coming:
            times = [{"at": at.isoformat(), "drill": name} for at, name in islice(due, coming)]
            if as_json:
                print_json(times)
                return
            for one in times:
                console().print(f"{one['at']}  {escape(one['drill'])}")
            return
        for done in drills.scheduled(due):
            if as_json:
                print_json(done.document)
            else:
                _say(done.name, done.document)


@app.command()
def abort(as_json: Json = False) -> None:
    """Stop the drill that runs here and heal the mesh, also after a runner that was killed."""
    with clear_errors():
        from chaos.drill import run as drills

        healed = drills.abort()
    if as_json:
        print_json({"healed": healed})
    else:
        console().print(f"healed: {', '.join(healed) or 'nothing was left'}")


@app.command()
def report(
    number: Annotated[int, typer.Option("--limit", "-n", min=1, help="No more runs than this, the newest.")] = 10,
    as_json: Json = False,
) -> None:
    """Print the newest runs and where their pages are."""
    with clear_errors():
        from chaos.drill.custody import directory
        from chaos.report import history
        from deploy.local.settings import LauncherSettings

        found = history.read(directory(LauncherSettings().layout) / "runs")[-number:]
    if as_json:
        print_json(found)
        return
    table = Table("began", "drill", "verdict", "public failed", "p99", "page", box=None, header_style="bold")
    for one in found:
        figures = one["figures"]
        failed = f"{figures['public_failed']} of {figures['public_calls']}"
        page = str(Path(one["folder"]) / "report.html")
        table.add_row(one["began"], one["name"], _coloured(one), failed, f"{figures['public_p99_ms']:.0f} ms", page)
    console().print(table)


def _run_all(names: Iterable[str], as_json: bool, *, to_the_end: bool) -> list[dict[str, Any]]:
    """Reports of the drills, one after the other; an interrupt ends it, and the first that does not hold unless all
    are wanted to the end."""
    from chaos.drill import run as drills

    documents, began = [], time.monotonic()
    for name in names:
        if not as_json:
            console().print(f"{escape(name)} ...")
        done = drills.run(name)
        documents.append(done.document)
        if not as_json:
            _say(done.name, done.document)
        if done.document.get("interrupted", True) or not (done.ok or to_the_end):
            break
    held = sum(bool(one.get("ok")) for one in documents)
    if not as_json:
        console().print(f"{held} of {len(documents)} held, in {(time.monotonic() - began) / 60:.1f} min")
    return documents


def _say(name: str, document: dict[str, Any]) -> None:
    out = console()
    if not document:
        out.print(f"[red]{escape(name)}: ended before there was anything to report[/]")
        return
    if "figures" not in document:
        out.print(f"{escape(name)}: [red]{document['verdict']}[/]. {escape(document['problem'])}")
        return
    figures = document["figures"]
    public = f"{figures['public_failed']} of {figures['public_calls']} public"
    sensitive = f"{figures['sensitive_failed']} of {figures['sensitive_calls']} sensitive"
    times = f"p99 {figures['public_p99_ms']:.0f} ms, all landed after {figures['landed_after_s']} s"
    out.print(f"{escape(name)}: {_coloured(document)}. Failed: {public}, {sensitive}; {times}")
    for check in document["checks"]:
        if not check["ok"]:
            said = f"{check['name']} {check['of']}: {check['observed']}, expected {check['expected']}"
            out.print(f"  [red]not held:[/] {escape(said)}")
    if document["problem"]:
        out.print(f"  [red]{escape(document['problem'])}[/]")
    out.print(f"  {escape(document.get('page', ''))}")
    if "logs" in document:
        out.print(f"  {escape(document['logs'])}: what each process wrote meanwhile")


def _coloured(document: dict[str, Any]) -> str:
    colour = "green" if document["ok"] else "red"
    return f"[{colour}]{document['verdict']}[/]"
