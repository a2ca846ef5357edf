"""The one refusal of a data file that is not in its format."""

from pathlib import Path


class BadInput(Exception):
    """A file breaks a rule of its format. `line` counts from 1; 0 where the file as a whole is meant.

    The offending value is not repeated: a file may hold anything.
    """

    def __init__(self, file: Path, line: int, rule: str) -> None:
        place = f"{file}:{line}" if line else str(file)
        super().__init__(f"{place}: {rule}")
        self.file = file
        self.line = line
        self.rule = rule
