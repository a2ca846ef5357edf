"""The contract is the policy: it is complete, lintable, and everything compiled from it is current."""

import filecmp
import subprocess
import sys
from pathlib import Path

from deploy.protos import GENERATED, ROOT, generate
from mesh.contract import load
from mesh.contract.lint import lint
from mesh.contract.table import markdown


def test_every_rpc_has_a_policy_and_every_field_a_class() -> None:
    assert [str(finding) for finding in lint()] == []
    contract = load()
    assert all(method.callers for method in contract.methods.values())
    assert len(contract.methods) == sum(len(service.methods) for service in contract.services.values())


def test_generated_code_is_what_the_protos_generate(tmp_path: Path) -> None:
    generate(tmp_path)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(GENERATED) for path in GENERATED.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert made == kept, "run `make protos`"
    _, different, errors = filecmp.cmpfiles(tmp_path, GENERATED, [str(path) for path in made], shallow=False)
    assert (different, errors) == ([], []), "run `make protos`"


def test_the_policy_table_in_the_documentation_is_current() -> None:
    assert (ROOT / "docs" / "policy.md").read_text() == markdown(load()), "run `isthmus policy table > docs/policy.md`"


def test_protos_pass_the_standard_lint() -> None:
    buf = Path(sys.executable).parent / "buf"
    linted = subprocess.run(
        [buf, "lint", GENERATED / "contract.binpb"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr
