"""Asks the mesh how it is from a process of its own: thirty handshakes would make the traffic's process send late, and
what is late there counts as the mesh's own slowness."""

import asyncio
import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Collection

from chaos.drill.errors import MeshUnwell
from chaos.drill.target import Target
from deploy.local.errors import LauncherError
from deploy.local.settings import LauncherSettings
from mesh.environment import GRPC

ANSWER_WITHIN_S = 60.0
END_WITHIN_S = 5.0
POLL_S = 0.5


class Looker:
    """Not for several threads. Its process starts with the first look and ends with ours, whatever ends that."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._child: subprocess.Popen[bytes] | None = None

    def unwell(self, names: Collection[str] | None = None) -> dict[str, str]:
        """Every process of the mesh, or of those named, that does not run or is not ready, with the reason.

        Raises:
            TimeoutError: no answer within ANSWER_WITHIN_S; the next look begins anew.
        """
        child = self._child or self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(None if names is None else sorted(names)).encode() + b"\n")
            child.stdin.flush()
            ready, _, _ = select.select([child.stdout], [], [], ANSWER_WITHIN_S)
            line = child.stdout.readline() if ready else b""
        except BrokenPipeError:
            line = b""
        if not line:
            self.close()
            raise TimeoutError(f"the mesh was asked how it is, and nothing came within {ANSWER_WITHIN_S:g} s")
        answer: dict[str, str] = json.loads(line)
        return answer

    def require_well(self, within_s: float, names: Collection[str] | None = None) -> None:
        """
        Raises:
            MeshUnwell: it did not become well in time, and why.
        """
        wrong = self.unwell(names)
        # The first look may have had to start the process that looks.
        ends = time.monotonic() + within_s
        while wrong:
            if time.monotonic() >= ends:
                raise MeshUnwell(f"The mesh is not well: {'; '.join(wrong.values())[:300]}", "See `isthmus check`")
            time.sleep(POLL_S)
            wrong = self.unwell(names)

    def close(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            # Where it died, what was asked last cannot be sent any more.
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        try:
            child.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(END_WITHIN_S)

    def _start(self) -> "subprocess.Popen[bytes]":
        self._child = subprocess.Popen(
            (sys.executable, "-m", "chaos.drill.looker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | GRPC | {"ISTHMUS_HOME": str(self._target.home.root)},
            # A Ctrl-C is for the runner, which still has to see the mesh healed.
            start_new_session=True,
        )
        return self._child


def main() -> None:
    """Answer each line of standard input, the names or null, with one line, until there are no more."""
    target = Target(LauncherSettings())
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            try:
                answer = runner.run(target.unwell(json.loads(line)))
            except LauncherError as error:
                answer = {"mesh": str(error)}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
