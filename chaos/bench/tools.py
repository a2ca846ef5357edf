"""Programs that the benchmarks run: servers to be measured, and the load generator."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

# ApacheBench can show a client certificate, which wrk cannot; wrk speaks HTTP/1.1, without which uvicorn closes every
# connection. Debian's packages by tool.
LOAD_TOOLS = {"ab": "apache2-utils", "wrk": "wrk"}
_START_S = 60.0
_STOP_S = 15.0


class BenchError(Exception):
    """The benchmark cannot be run. Says what to do."""


def require_load_tools() -> None:
    """Install the load generators when we may. Raises BenchError when one is missing then."""
    missing = [package for tool, package in LOAD_TOOLS.items() if not shutil.which(tool)]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-q", *missing]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
    if any(not shutil.which(tool) for tool in LOAD_TOOLS):
        raise BenchError(f"a load generator is missing: apt-get install {' '.join(missing)}")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        ports = []
        for _ in range(count):
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
        return ports


@contextlib.contextmanager
def running(command: Sequence[str], port: int, log: Path, environment: Mapping[str, str]) -> Iterator[int]:
    """Run a server until the block ends; enter when its port answers. Yields its pid."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=dict(environment))
    try:
        _wait_for(port, process, log)
        yield process.pid
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to end, and see to it that it does."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_S)


def by_ab(url: str, *, connections: int, seconds: float, pem: Path) -> float:
    """GET `url` from one thread over kept-alive connections, with the client certificate in `pem`.

    Requests per second. Raises BenchError when any answer is not 2xx.
    """
    command = ["ab", "-q", "-k", "-l", "-c", str(connections), "-t", f"{seconds:.0f}", "-n", "10000000"]
    command += ["-E", str(pem)]
    done = subprocess.run([*command, url], capture_output=True, text=True, check=False, timeout=seconds + 60)
    rate = re.search(r"Requests per second:\s+([\d.]+)", done.stdout)
    failed = re.search(r"Failed requests:\s+(\d+)", done.stdout)
    if rate is None or failed is None or int(failed[1]) or "Non-2xx" in done.stdout:
        raise BenchError(f"{url} did not answer every request: {(done.stderr or done.stdout)[-500:]}")
    return float(rate[1])


def by_wrk(url: str, *, connections: int, seconds: float) -> float:
    """The same without a client certificate."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if rate is None or "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise BenchError(f"{url} did not answer every request: {(done.stderr or done.stdout)[-500:]}")
    return float(rate[1])


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise BenchError(f"a server did not start; its log is {log}: {log.read_text(errors='replace')[-500:]}")
