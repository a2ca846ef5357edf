"""What a process tells of the durations of its calls."""

import secrets

import grpc
import prometheus_client
import pytest

from mesh.telemetry import call_durations

NAME = "rpc_server_duration_seconds"


def counted(method: str, code: str = "OK", at_most: str = "+Inf") -> float | None:
    labels = {"method": method, "code": code, "le": at_most}
    return prometheus_client.REGISTRY.get_sample_value(f"{NAME}_bucket", labels)


@pytest.fixture
def method() -> str:
    return f"/test.Service/M{secrets.token_hex(4)}"


def test_a_call_is_counted_as_soon_as_somebody_reads(method: str) -> None:
    told = call_durations(method)
    told(grpc.StatusCode.OK, 0.004)
    assert (counted(method, at_most="0.002"), counted(method, at_most="0.005")) == (0.0, 1.0)
    told(grpc.StatusCode.NOT_FOUND, 0.1)
    assert (counted(method), counted(method, "NOT_FOUND")) == (1.0, 1.0)


def test_many_calls_between_two_readings_are_all_counted(method: str) -> None:
    told = call_durations(method)
    for _ in range(1000):
        told(grpc.StatusCode.OK, 0.004)
    assert counted(method) == 1000.0


def test_what_waits_for_a_reader_is_bounded(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_now = []
    monkeypatch.setattr(prometheus_client.Histogram, "observe", lambda _, seconds: sorted_now.append(seconds))
    told = call_durations(method)
    for _ in range(1000):
        told(grpc.StatusCode.OK, 0.004)
    assert len(sorted_now) >= 700
