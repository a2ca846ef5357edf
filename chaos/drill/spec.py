"""What an experiment says beside Chaos Toolkit's own words: the arguments of the control `chaos.control`."""

from typing import Any

import pydantic
from pydantic import BaseModel, Field

from chaos.drill.blast import PROCESSES_MAX, BlastRadius
from chaos.drill.errors import BadExperiment

CONTROL = "chaos.control"


class _Strict(BaseModel):
    model_config = {"extra": "forbid", "frozen": True, "strict": True}


class Radius(_Strict):
    workloads: list[str] = []
    processes_max: int = Field(default=0, ge=0, le=PROCESSES_MAX)
    whole: list[str] = []
    links: list[str] = []
    methods: list[str] = []


class Load(_Strict):
    """Requests a second, and how long it runs before the first look and for the last one."""

    public_per_s: float = Field(default=100.0, gt=0, le=5000)
    purchases_per_s: float = Field(default=3.0, gt=0, le=500)
    before_s: float = Field(default=8.0, ge=3, le=600)
    after_s: float = Field(default=6.0, ge=1, le=600)


class Expect(_Strict):
    """What must have held over the whole run, faults included. None: said in the report, not judged."""

    public_failed_max: int | None = 0
    sensitive_failed_max: int | None = None
    # From the fault's beginning until no public call fails and p99 is within twice its normal.
    public_recovered_within_s: float | None = None
    # From the fault's beginning until the last sensitive call that fails: how long it takes to go around the fault.
    sensitive_failover_within_s: float | None = None
    # The same where data was lost: the recovery time. What was acknowledged must be there then: the recovery point.
    recovery_time_within_s: float | None = None
    # From the fault's beginning until the private zone could be read in a second place: see restore_elsewhere.
    second_place_within_s: float | None = None
    # From the fault's end until sensitive calls go well again.
    sensitive_recovered_within_s: float | None = None
    # The longest that any sensitive call took to be answered or refused.
    sensitive_answered_within_s: float | None = None
    # So quickly 90 of 100 sensitive calls that fail are told so: the few that were under way when it began take longer.
    sensitive_refused_within_s: float | None = None
    # Of refusals with 503, all must say when to come again.
    retry_after: bool = False
    # After the last fault has ended: every acknowledged event is in the warehouse.
    landed_within_s: float = Field(default=30.0, gt=0, le=600)


class Drill(_Strict):
    """`needs`: at least so many nodes of these workloads, or the mesh is not one that this drill is for. `root`: its
    faults take a launcher that runs as root. `spares`: so many nodes of a workload that can be added."""

    seed: int = 7
    needs: dict[str, int] = {}
    spares: dict[str, int] = {}
    root: bool = False
    blast_radius: Radius
    load: Load = Load()
    expect: Expect = Expect()

    @property
    def radius(self) -> BlastRadius:
        radius = self.blast_radius
        return BlastRadius(
            frozenset(radius.workloads),
            radius.processes_max,
            frozenset(radius.whole),
            frozenset(radius.links),
            frozenset(radius.methods),
        )


def of(experiment: dict[str, Any]) -> Drill:
    """
    Raises:
        BadExperiment: the control is missing, or one of its arguments is unknown, missing or of the wrong type.
    """
    for control in experiment.get("controls") or []:
        if control.get("provider", {}).get("module") == CONTROL:
            return parse(control["provider"].get("arguments") or {})
    remedy = "Every experiment has it: see chaos/README.md"
    raise BadExperiment(f"The experiment lacks the control {CONTROL}", remedy)


def parse(arguments: dict[str, Any]) -> Drill:
    try:
        return Drill(**arguments)
    except pydantic.ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"]))
        raise BadExperiment(f"{where}: {wrong['msg']}", f"See the arguments of {CONTROL} in chaos/README.md") from error
