"""report.html: one file with nothing outside, whose verdict can be read from across the room."""

from html import escape
from itertools import groupby
from typing import Any

from chaos.report import chart

STYLE = """
:root { color-scheme: light dark; --ink: #16202b; --paper: #fbfaf7; --soft: #6b7683; --rule: #d8dce0; --good: #14733c;
  --bad: #b3261e; --shade: #f2c14e; --public: #1f5fbf; --sensitive: #7b3fa0; --card: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ecf0; --paper: #12171d; --soft: #9aa6b2; --rule: #2c3640;
  --good: #2fae66; --bad: #ff6b60; --shade: #a8801f; --public: #6ea8ff; --sensitive: #c792ea; --card: #1a2129; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 18px/1.5 system-ui, sans-serif; }
header { padding: 28px 5vw; color: #fff; background: var(--bad); } header.held { background: var(--good); }
@media (prefers-color-scheme: dark) { header { background: #8c1d18; } header.held { background: #0f5a2f; } }
header h1 { margin: 0; font-size: clamp(40px, 7vw, 92px); line-height: 1; letter-spacing: -0.02em; }
header p { margin: 10px 0 0; font-size: 22px; }
main { padding: 24px 5vw 60px; max-width: 1300px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 14px; margin: 24px 0; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 14px 18px; }
.tile b { display: block; font-size: 44px; line-height: 1.1; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); } .tile.bad b { color: var(--bad); } .tile.good b { color: var(--good); }
svg { box-sizing: border-box; width: 100%; height: auto; background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; }
svg text { fill: var(--ink); font: 17px system-ui, sans-serif; } svg .tick { fill: var(--soft); }
svg .panel { fill: var(--soft); } svg .what { font-weight: 600; } svg .none { fill: var(--good); font-size: 30px; }
svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--soft); } svg .fault { fill: var(--shade); opacity: 0.35; }
svg polyline { fill: none; stroke-width: 3.5; stroke-linejoin: round; } svg .public-p99 { stroke: var(--public); }
svg .public-p50 { stroke: var(--public); stroke-dasharray: 3 7; stroke-linecap: round; }
svg .sensitive-p99 { stroke: var(--sensitive); stroke-width: 2.5; }
svg .public-failed { fill: var(--bad); } svg .sensitive-failed { fill: var(--sensitive); }
.key { color: var(--soft); } .key i { display: inline-block; width: 34px; height: 0; border-top: 4px solid;
  vertical-align: middle; margin: 0 8px 0 22px; } .key i.shade { height: 16px; border: 0; background: var(--shade);
  opacity: 0.5; }
table { border-collapse: collapse; width: 100%; margin: 12px 0 28px; }
td, th { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td.no { color: var(--bad); font-weight: 700; } td.yes { color: var(--good); font-weight: 700; }
.scroll { overflow-x: auto; } h2 { margin: 36px 0 8px; }
"""
KEY = (
    ("public p99", "border-color: var(--public)"),
    ("public p50", "border-color: var(--public); border-top-style: dotted"),
    ("sensitive p99, and calls failed", "border-color: var(--sensitive)"),
    ("public calls failed", "border-color: var(--bad)"),
)
COMPARED = (
    ("public calls that failed", "public_failed", ""),
    ("public p50", "public_p50_ms", "ms"),
    ("public p99", "public_p99_ms", "ms"),
    ("public recovered after", "public_recovered_s", "s"),
    ("sensitive calls that failed", "sensitive_failed", ""),
    ("last sensitive failure after the fault", "sensitive_failover_s", "s"),
    ("sensitive recovered after", "sensitive_recovered_s", "s"),
    ("longest sensitive answer", "sensitive_longest_s", "s"),
    ("everything landed after", "landed_after_s", "s"),
    ("click to row, p99", "freshness_p99_ms", "ms"),
)


def render(document: dict[str, Any]) -> str:
    """The whole page. Everything that comes from outside is escaped."""
    name, verdict = escape(document["name"]), escape(document["verdict"])
    held = ' class="held"' if document["ok"] else ""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: {verdict}</title><style>{STYLE}</style>
<header{held}><h1>{name}: {verdict}</h1><p>{escape(document["title"])}</p></header>
<main>
<p>{escape(document["description"])}</p>
<p class="key">Began {escape(document["began"])} by {escape(document["started_by"])}, run {escape(document["run"])},
seed {document["seed"]}, {escape(document["machine"])}.</p>
{_problem(document)}
<div class="tiles">{"".join(_tiles(document["figures"]))}</div>
<div class="scroll">{chart.render(document)}</div>
<p class="key">{_key()}</p>
{_what_to_do(document)}
<h2>What was checked</h2><div class="scroll"><table>{"".join(_checks(document["checks"]))}</table></div>
<h2>Beside the last run</h2><div class="scroll"><table>{"".join(_compared(document))}</table></div>
<h2>Error budget of the month, over all drills</h2><div class="scroll"><table>{"".join(_budget(document))}</table></div>
{_reasons(document["reasons"])}
</main></html>
"""


def _problem(document: dict[str, Any]) -> str:
    said = [document["problem"], *(f"healed before it began: {one}" for one in document["healed_before"])]
    return "".join(f"<p><b>{escape(one)}</b></p>" for one in said if one)


def _tiles(figures: dict[str, Any]) -> list[str]:
    public, sensitive = figures["public_failed"], figures["sensitive_failed"]
    return [
        _tile(f"{public:,}", _of(figures, "public"), "bad" if public else "good"),
        _tile(f"{sensitive:,}", _of(figures, "sensitive")),
        _tile(f"{figures['public_p99_ms']:.0f} ms", f"public p99, normally {figures['public_normal_p99_ms']:.0f} ms"),
        _tile(_seconds(figures["public_recovered_s"]), "until the public was served as before"),
        _tile(_seconds(figures["sensitive_failover_s"]), "from the fault to the last failed sensitive call"),
        _tile(_seconds(figures["sensitive_recovered_s"]), "until sensitive calls went well after healing"),
        _tile(_seconds(figures["landed_after_s"]), "until every event had landed after healing"),
        _tile(f"{figures['freshness_p99_ms'] / 1000:.1f} s", "click to queryable row, p99"),
    ]


def _of(figures: dict[str, Any], zone: str) -> str:
    return f"of {figures[f'{zone}_calls']:,} {zone} calls failed: {figures[f'{zone}_availability']:.3%} available"


def _tile(value: str, what: str, kind: str = "") -> str:
    return f'<div class="tile {kind}"><b>{escape(value)}</b><span>{escape(what)}</span></div>'


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def _key() -> str:
    lines = "".join(f'<i style="{style}"></i>{name}' for name, style in KEY)
    return f'{lines}<i class="shade"></i>something is broken on purpose'


def _what_to_do(document: dict[str, Any]) -> str:
    wrong = [check for check in document["checks"] if not check["ok"]]
    if not wrong:
        return ""
    items = "".join(
        f"<li>{escape(check['name'])} {escape(str(check['of']))}: {escape(str(check['observed']))}, "
        f"and {escape(str(check['expected']))} was expected</li>"
        for check in wrong
    )
    book = escape(document["runbook"])
    return f"<h2>What to do</h2><p>Follow <b>{book}</b>. What did not hold:</p><ul>{items}</ul>"


def _checks(checks: list[dict[str, Any]]) -> list[str]:
    """One row for each name when all of it holds, else one for each that does not."""
    rows = ["<tr><th></th><th>statement</th><th>expected</th><th>observed</th></tr>"]
    for name, group in groupby(checks, key=lambda check: check["name"]):
        members = list(group)
        wrong = [check for check in members if not check["ok"]]
        if not wrong and len(members) > 1:
            rows.append(_row(True, name, f"{len(members)} statements", "all hold"))
        else:
            rows += [
                _row(one["ok"], f"{name} {one['of']}", str(one["expected"]), str(one["observed"]))
                for one in wrong or members
            ]
    return rows


def _row(ok: bool, *cells: str) -> str:
    mark = '<td class="yes">holds</td>' if ok else '<td class="no">no</td>'
    return f"<tr>{mark}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _compared(document: dict[str, Any]) -> list[str]:
    now, last = document["figures"], document["last"]
    rows = [f"<tr><th></th><th>now</th><th>{'last time' if last else 'no earlier run here'}</th></tr>"]
    for name, key, unit in COMPARED:
        before = _value(last.get(key), unit) if last else ""
        rows.append(f"<tr><td>{name}</td><td>{_value(now[key], unit)}</td><td>{before}</td></tr>")
    return rows


def _value(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:,} {unit}".strip()


def _budget(document: dict[str, Any]) -> list[str]:
    rows = ["<tr><th>objective</th><th>public calls</th><th>may fail</th><th>failed</th></tr>"]
    for one in document["budget"]:
        ok = "yes" if one["failed"] <= one["allowed"] else "no"
        rows.append(
            f"<tr><td>{one['objective']:.2%}</td><td>{one['calls']:,}</td><td>{one['allowed']:,.1f}</td>"
            f'<td class="{ok}">{one["failed"]:,}</td></tr>'
        )
    return rows


def _reasons(reasons: dict[str, int]) -> str:
    if not reasons:
        return ""
    ordered = sorted(reasons.items(), key=lambda entry: -entry[1])
    rows = "".join(f"<tr><td>{times:,}</td><td>{escape(reason)}</td></tr>" for reason, times in ordered)
    return f'<h2>How calls failed</h2><div class="scroll"><table>{rows}</table></div>'
