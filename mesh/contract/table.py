"""The policy table: what the contract says of every method, event and sensitive field, for people."""

from collections.abc import Iterator

from mesh.contract.model import Contract, DataClass, MethodPolicy


def markdown(contract: Contract) -> str:
    """The whole table as Markdown, the same for the same contract."""
    return "\n".join(_lines(contract)) + "\n"


def rows(contract: Contract) -> list[dict[str, object]]:
    """One plain dictionary a method, for programs."""
    return [_row(method) for _, method in sorted(contract.methods.items())]


def _row(method: MethodPolicy) -> dict[str, object]:
    return {
        "method": method.full_name,
        "zone": method.zone,
        "workload": method.workload,
        "callers": sorted(method.callers),
        "scopes": sorted(method.scopes),
        "human": method.human,
        "step_up": method.step_up,
        "idempotent": method.idempotent,
        "deadline_ms": method.deadline_ms,
        "attempts": method.retry_attempts,
        "retry_budget_percent": method.retry_budget_percent,
        "audit": method.audit.name,
        "rate_class": method.rate_class.name,
        "answer": method.answer_class.name,
        "subject_field": method.subject_field,
        "location_field": method.location_field,
        "rate_key": method.rate_key,
        "http": [f"{rule.verb} {rule.template}" for rule in method.http],
    }


def _lines(contract: Contract) -> Iterator[str]:
    yield "# Policy table"
    yield ""
    yield "Generated from the `.proto` files by `isthmus policy table`. Change the contract, not this page."
    yield ""
    for name, service in sorted(contract.services.items()):
        yield f"## {name}"
        yield ""
        yield "; ".join(f"zone {zone}, served by `{workload}`" for zone, workload in service.places).capitalize() + "."
        yield ""
        yield "| method | callers | token | deadline | attempts | audit | rate class | answer | HTTP |"
        yield "|---|---|---|---|---|---|---|---|---|"
        for method in service.methods:
            yield "| " + " | ".join(_cells(method)) + " |"
        yield ""
    yield "## Rate classes"
    yield ""
    yield "Calls each second, and at most at once: of one member and of one system at each server; for each method at"
    yield "each gateway, of all together, and at those of the public of one address and of one value of its rate key;"
    yield "of one class of bots at each edge node."
    yield ""
    yield "| class | member | system | gateway | address | key | bots |"
    yield "|---|---|---|---|---|---|---|"
    for rate_class, rates in sorted(contract.rates.items(), key=lambda item: item[0].value):
        stated = (rates.member, rates.system, rates.gateway, rates.address, rates.key, rates.bots)
        limits = (f"{each.per_second}/s, {each.burst}" if each else "none" for each in stated)
        yield "| " + " | ".join((rate_class.name.lower(), *limits)) + " |"
    yield ""
    yield "## Data classes"
    yield ""
    yield "How long values are kept since they were last of use. What holds several classes is kept as the highest of"
    yield "them. The books (orders, payments, postings) are not removed. Audit records of calls go by the class of the"
    yield "answers, since the call."
    yield ""
    yield "| class | kept | audit records |"
    yield "|---|---|---|"
    for data_class, days in sorted(contract.kept_days.items()):
        yield f"| {data_class.name} | {_kept(days)} | {_kept(contract.recorded_days[data_class])} |"
    yield ""
    yield f"What stays in the region of its store: {', '.join(sorted(contract.resident))}."
    yield ""
    yield "## Events"
    yield ""
    yield "| event | topic | crosses | durability | kept | key | partitions |"
    yield "|---|---|---|---|---|---|---|"
    for name, event in sorted(contract.events.items()):
        partitions = f"{event.partitions}, compacted" if event.compacted else str(event.partitions or "")
        kept, crosses = _kept(event.retention_days), event.direction.name.lower()
        cells = (name, event.topic, crosses, event.durability.name.lower(), kept, event.key_field)
        yield "| " + " | ".join((*cells, partitions)) + " |"
    yield ""
    yield "## Fields above INTERNAL"
    yield ""
    yield "| field | class | shown as |"
    yield "|---|---|---|"
    for message, fields in sorted(contract.messages.items()):
        for field in fields.values():
            if field.data_class > DataClass.INTERNAL:
                yield f"| {message}.{field.name} | {field.data_class.name} | {field.mask.name.lower()} |"


def _kept(days: int) -> str:
    return f"{days} days" if days else "for ever"


def _cells(method: MethodPolicy) -> tuple[str, ...]:
    token = ", ".join(f"`{scope}`" for scope in sorted(method.scopes)) or "none"
    if method.human:
        token += ", of a member"
    if method.step_up:
        token += ", second factor"
    return (
        method.full_name.rsplit(".", 1)[1],
        ", ".join(sorted(method.callers)),
        token,
        f"{method.deadline_ms} ms",
        str(method.retry_attempts),
        method.audit.name.lower(),
        method.rate_class.name.lower(),
        method.answer_class.name,
        ", ".join(f"`{rule.verb} {rule.template}`" for rule in method.http) or "none",
    )
