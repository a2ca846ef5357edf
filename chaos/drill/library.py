"""The experiments that come with Isthmus, and what must be true of any experiment before it may run."""

import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from chaoslib.exceptions import ChaosException, InvalidActivity
from chaoslib.experiment import ensure_experiment_is_valid

from chaos.drill import spec
from chaos.drill.errors import BadExperiment
from chaos.drill.spec import Drill

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
RUNBOOKS = "docs/runbooks"
MODULES = ("chaos.actions", "chaos.probes")
# Tags that mean something here: the drills of `make drill` are short.
SHORT = "short"
FORMAT_REMEDY = "See chaos/README.md for the format"


@dataclass(frozen=True)
class Listed:
    name: str
    title: str
    tags: tuple[str, ...]
    runbook: str


@dataclass(frozen=True)
class Targets:
    """What the steps of an experiment name, by the names of their arguments."""

    processes: frozenset[str]
    workloads: frozenset[str]
    links: frozenset[str]
    methods: frozenset[str] = frozenset()


def targets(experiment: dict[str, Any]) -> Targets:
    """Of the method and the rollbacks."""
    named: dict[str, set[str]] = {name: set() for name in ("process", "workload", "workloads", "link", "method")}
    for activity in (*experiment["method"], *(experiment.get("rollbacks") or ())):
        for name, value in (activity["provider"].get("arguments") or {}).items():
            if name in named:
                named[name].update(value if isinstance(value, list) else [value])
    workloads = named["workload"] | named["workloads"]
    return Targets(*map(frozenset, (named["process"], workloads, named["link"], named["method"])))


def listed() -> list[Listed]:
    """All that come with Isthmus, by name."""
    found = []
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        experiment = read(path)
        runbook = f"{RUNBOOKS}/{path.stem}.md"
        found.append(Listed(path.stem, experiment["title"], tuple(experiment.get("tags", ())), runbook))
    return found


def find(name: str) -> Path:
    """An experiment's file by its name, or any file by its path.

    Raises:
        BadExperiment: neither is there.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else EXPERIMENTS / f"{name}.yaml"
    if not path.is_file():
        raise BadExperiment(f"There is no drill {name}", "See `isthmus drill list`")
    return path


def read(path: Path) -> dict[str, Any]:
    """
    Raises:
        BadExperiment: the file holds no mapping.
    """
    try:
        experiment = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadExperiment(f"{path} cannot be read: {error}".splitlines()[0], FORMAT_REMEDY) from error
    if not isinstance(experiment, dict):
        raise BadExperiment(f"{path} holds no experiment", FORMAT_REMEDY)
    experiment.setdefault("configuration", {})
    return experiment


def name_of(experiment: dict[str, Any]) -> str:
    """A name for files: that of the listed experiment with this title, or the title in small letters."""
    title = str(experiment.get("title", "drill"))
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        # The title is the first line of each; reading all of them as YAML would take a second.
        if path.read_text().startswith(f"title: {title}\n"):
            return path.stem
    words = "".join(letter if letter.isalnum() else " " for letter in title.lower())
    return "-".join(words.split())[:60] or "drill"


def check(experiment: dict[str, Any]) -> Drill:
    """Chaos Toolkit's own rules, and ours: only known activities, with arguments and tolerances of their types.

    Raises:
        BadExperiment: a rule is broken; the message names it.
    """
    for activity in _activities(experiment):
        # Before Chaos Toolkit's own look, which imports whatever is named.
        _require_ours(activity)
    try:
        ensure_experiment_is_valid(experiment)
    except ChaosException as error:
        raise BadExperiment(str(error), FORMAT_REMEDY) from error
    drill = spec.of(experiment)
    probes = (experiment.get("steady-state-hypothesis") or {}).get("probes") or []
    if not probes:
        raise BadExperiment("The experiment has no steady-state hypothesis", FORMAT_REMEDY)
    for activity in _activities(experiment):
        _check_activity(activity)
    for probe in probes:
        _check_tolerance(probe)
    named = targets(experiment)
    radius = drill.radius
    wide = (named.workloads - radius.workloads) | (named.links - radius.links) | (named.methods - radius.methods)
    if wide:
        raise BadExperiment(f"Not in the declared blast radius: {', '.join(sorted(wide))}", FORMAT_REMEDY)
    return drill


def as_invalid(work: Callable[[], object]) -> None:
    """Say it in Chaos Toolkit's words."""
    try:
        work()
    except BadExperiment as error:
        raise InvalidActivity(str(error)) from error


def function_of(activity: dict[str, Any]) -> Callable[..., Any]:
    """
    Raises:
        BadExperiment: it is none of ours.
    """
    _require_ours(activity)
    name = str(activity["provider"].get("func"))
    loaded = importlib.import_module(activity["provider"]["module"])
    if name not in loaded.__all__:
        raise BadExperiment(f"{activity.get('name')}: {loaded.__name__} has no {name}", FORMAT_REMEDY)
    function: Callable[..., Any] = getattr(loaded, name)
    return function


def _activities(experiment: dict[str, Any]) -> list[dict[str, Any]]:
    probes = (experiment.get("steady-state-hypothesis") or {}).get("probes") or []
    every = (*probes, *(experiment.get("method") or []), *(experiment.get("rollbacks") or []))
    if not all(isinstance(one, dict) for one in every):
        raise BadExperiment("Every activity must be a mapping", FORMAT_REMEDY)
    return list(every)


def _require_ours(activity: dict[str, Any]) -> None:
    provider = activity.get("provider") or {}
    if provider.get("type") != "python" or provider.get("module") not in MODULES:
        # A process or an HTTP call has no undoing that we know of.
        raise BadExperiment(f"{activity.get('name')}: only {' and '.join(MODULES)} may act here", FORMAT_REMEDY)


def _check_activity(activity: dict[str, Any]) -> None:
    function = function_of(activity)
    arguments = activity["provider"].get("arguments") or {}
    parameters = inspect.signature(function).parameters
    for name, value in arguments.items():
        wanted = parameters[name].annotation
        if not _fits(value, wanted):
            raise BadExperiment(f"{activity['name']}: {name} must be {_called(wanted)}", FORMAT_REMEDY)
    if missing := [name for name, one in parameters.items() if one.default is one.empty and name not in arguments]:
        raise BadExperiment(f"{activity['name']}: {', '.join(missing)} is missing", FORMAT_REMEDY)


def _check_tolerance(probe: dict[str, Any]) -> None:
    wanted, tolerance = inspect.signature(function_of(probe)).return_annotation, probe.get("tolerance")
    if wanted is bool:
        good = isinstance(tolerance, bool)
    else:
        bounds: Any = tolerance.get("range") if isinstance(tolerance, dict) else tolerance
        good = isinstance(bounds, list) and len(bounds) == 2 and all(_fits(one, float) for one in bounds)
        good = good and bounds[0] <= bounds[1]
    if not good:
        said = "true or false" if wanted is bool else "two numbers, [least, most]"
        raise BadExperiment(f"{probe['name']}: the tolerance must be {said}", FORMAT_REMEDY)


def _fits(value: object, wanted: Any) -> bool:
    options: Iterable[Any] = getattr(wanted, "__args__", ()) if "|" in str(wanted) else (wanted,)
    for option in options:
        kind = getattr(option, "__origin__", option)
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return True
        if kind is not float and isinstance(kind, type) and isinstance(value, kind):
            return True
    return False


def _called(wanted: Any) -> str:
    return {float: "a number", str: "a text", bool: "true or false"}.get(wanted, str(wanted))
