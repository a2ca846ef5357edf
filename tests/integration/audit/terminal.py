"""A terminal of its own process: runs `isthmus` with the words of each line that it reads, and prints how it ended.

Loading the command takes longer than most of what it does, so that many are given to one process. Lines are JSON.
"""

import json
import sys

from typer.testing import CliRunner

from deploy.cli.main import app


def main() -> None:
    for line in sys.stdin:
        done = CliRunner().invoke(app, json.loads(line))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        print(json.dumps([done.exit_code, done.stdout, done.stderr]), flush=True)


if __name__ == "__main__":
    main()
