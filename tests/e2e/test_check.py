"""`isthmus check` on a healthy mesh, and on one broken in five ways: the right line fails, with its remedy."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from sqlalchemy import text

from deploy.local import checkup
from deploy.local.checkup import Finding
from deploy.local.kafka import broker
from deploy.local.mesh import LocalMesh
from mesh.database.engine import async_engine, execute
from tests.e2e.command import isthmus
from tests.integration.control.world import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(autouse=True)
def here(mesh: LocalMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks made in this process look at the mesh under test."""
    monkeypatch.setenv("ISTHMUS_HOME", str(mesh.home.root))
    monkeypatch.setenv("ISTHMUS_PORT_BASE", str(mesh.settings.port_base))
    monkeypatch.setenv("ISTHMUS_EDGE_NODES", str(mesh.settings.edge_nodes))


async def until(name: str, result: str) -> Finding:
    """The finding of that name, once it has come to that result."""
    last: list[Finding] = []

    async def holds() -> bool:
        last[:] = [await checkup.finding(name)]
        return last[0].result == result

    await eventually(holds, f"{name} is {result}")
    return last[0]


async def test_a_healthy_mesh_passes_every_line(mesh: LocalMesh) -> None:
    async def well() -> bool:
        return all(finding.result != "fail" for finding in await checkup.all_findings())

    await eventually(well, "nothing fails")
    code, output, errors = await isthmus(
        "check", "--json", home=mesh.home.root, port_base=mesh.settings.port_base, edge_nodes=mesh.settings.edge_nodes
    )
    assert code == 0, output + errors
    rows = json.loads(output)
    # In the order in which they depend on each other: the first that fails is the one to mend first.
    assert [row["name"] for row in rows] == [
        "java",
        "ports",
        "orphans",
        "clock",
        "certificates",
        "trust bundles",
        "tls",
        "migrations",
        "topics",
        "control planes",
        "data planes",
        "configuration",
        "endpoints",
        "processes",
        "lag",
    ]


@asynccontextmanager
async def no_control_plane(mesh: LocalMesh) -> AsyncIterator[None]:
    await mesh.suspend("control-public")
    try:
        yield
    finally:
        await mesh.resume("control-public")
        await mesh.wait_ready("control-public")


@asynccontextmanager
async def frozen(mesh: LocalMesh, name: str) -> AsyncIterator[None]:
    mesh.kill(name, signal.SIGSTOP)
    try:
        yield
    finally:
        mesh.kill(name, signal.SIGCONT)


@asynccontextmanager
async def shortened_topic(mesh: LocalMesh) -> AsyncIterator[None]:
    admin = broker.admin(mesh.home.identity("kafka"), mesh.kafka_bootstrap)
    entry = ConfigEntry("retention.ms", "86400000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, TOPIC, incremental_configs=[entry])
    for answer in admin.incremental_alter_configs([resource]).values():
        await asyncio.to_thread(answer.result, 10)
    try:
        yield
    finally:
        # The remedy: this is the step with which every start of the mesh begins.
        topics = next(row for row in mesh.rows if row.name == "topics")
        step = await asyncio.create_subprocess_exec(*topics.command, env={**os.environ, **topics.environment})
        assert await asyncio.wait_for(step.wait(), 60) == 0


@asynccontextmanager
async def older_schema(mesh: LocalMesh) -> AsyncIterator[None]:
    engine = async_engine(mesh.database_url, "test", pool_size=1)
    ((revision,),) = await execute(engine, text("SELECT version_num FROM orders.alembic_version"))
    change = text("UPDATE orders.alembic_version SET version_num = :revision")
    await execute(engine, change, {"revision": "0000"})
    try:
        yield
    finally:
        await execute(engine, change, {"revision": revision})
        await engine.dispose()


@asynccontextmanager
async def lost_key(mesh: LocalMesh) -> AsyncIterator[None]:
    # Nobody uses it now, and its agent, which would bring it back, sleeps.
    mesh.kill("identity-private", signal.SIGSTOP)
    identity = mesh.home.identity("operator")
    key = identity.resolve() / "key.pem"
    key.rename(key.with_suffix(".away"))
    try:
        yield
    finally:
        key.with_suffix(".away").rename(key)
        mesh.kill("identity-private", signal.SIGCONT)


TOPIC = "isthmus.impression.v1"


@pytest.mark.parametrize(
    ("broken", "name", "said", "remedy"),
    [
        (no_control_plane, "control planes", "control-public", "control-"),
        (partial(frozen, name="members-1"), "endpoints", "members-1 is unhealthy", "logs"),
        # Those that speak no gRPC: HTTP, and Kafka's own protocol.
        (partial(frozen, name="identity-public"), "endpoints", "identity-public is unhealthy", "logs"),
        (partial(frozen, name="kafka"), "endpoints", "kafka is unhealthy", "logs"),
        (shortened_topic, "topics", "retention.ms", "Restart the mesh"),
        (older_schema, "migrations", "orders", "deploy.local.migrate"),
        (lost_key, "certificates", "operator", "identity agent"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
async def test_a_broken_mesh_is_told_where_and_what_to_do(
    mesh: LocalMesh, broken: Callable[[LocalMesh], object], name: str, said: str, remedy: str
) -> None:
    async with broken(mesh):  # type: ignore[attr-defined]
        finding = await until(name, "fail")
        assert said in finding.detail
        assert remedy in finding.remedy
    await until(name, "pass")
