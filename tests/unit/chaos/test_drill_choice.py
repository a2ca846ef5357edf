"""Which drills `isthmus drill run` takes."""

import pytest
from typer.testing import CliRunner

from deploy.cli.drill import app


@pytest.mark.parametrize("said", [[], ["kill-30-percent-of-edge", "--short"]])
def test_drills_are_named_or_the_short_suite_is_asked_for(said: list[str]) -> None:
    refused = CliRunner().invoke(app, ["run", *said])
    assert refused.exit_code == 2
    assert "not both" in refused.output
