"""`isthmus audit verify` in a home, as it is typed there: how it ended, and what it printed."""

from pathlib import Path

from typer.testing import CliRunner, Result

from deploy.cli.main import app


def audit_verify(home: Path, *words: str, database_url: str | None = None) -> Result:
    """`home` need not have anything in it: whoever verifies an export offline has the file and the public key alone."""
    settings = {"ISTHMUS_HOME": str(home), "ISTHMUS_DATABASE_URL": database_url}
    return CliRunner().invoke(app, ["audit", "verify", *words], env=settings)
