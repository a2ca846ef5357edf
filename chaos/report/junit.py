"""JUnit's XML of a run: one test case for each check."""

from typing import Any
from xml.etree import ElementTree


def render(document: dict[str, Any]) -> str:
    checks, figures = document["checks"], document["figures"]
    wrong = sum(not check["ok"] for check in checks)
    errors = int(bool(document["problem"]) or document["interrupted"])
    suite = ElementTree.Element(
        "testsuite",
        name=f"drill.{document['name']}",
        tests=str(len(checks) + errors),
        failures=str(wrong),
        errors=str(errors),
        time=str(figures["duration_s"]),
        timestamp=document["began"],
    )
    for check in checks:
        name = f"{check['name']} {check['of']}".strip()
        case = ElementTree.SubElement(suite, "testcase", classname=f"drill.{document['name']}", name=name)
        if not check["ok"]:
            message = f"expected {check['expected']}, observed {check['observed']}"
            ElementTree.SubElement(case, "failure", message=message)
    if errors:
        case = ElementTree.SubElement(suite, "testcase", classname=f"drill.{document['name']}", name="run to its end")
        ElementTree.SubElement(case, "error", message=document["problem"] or "interrupted")
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
