"""The table of processes and what it tells the rest of the mesh."""

import json
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import make_url

from deploy.local import networks, replication, table, topology
from deploy.local.errors import LauncherError, NotRunning
from deploy.local.kafka import broker
from deploy.local.settings import SOCKET_PATH_BYTES_MAX, Home, LauncherSettings
from mesh import contract
from mesh.environment import GRPC


def rows(tmp_path: Path, **settings: object) -> dict[str, table.Row]:
    return {row.name: row for row in table.build(LauncherSettings(home=tmp_path, **settings))}  # type: ignore[arg-type]


def test_no_port_is_given_out_twice_and_all_derive_from_the_base(tmp_path: Path) -> None:
    ports = [listen.port for row in rows(tmp_path, port_base=30000).values() for listen in row.process.listens]
    assert max(Counter(ports).values()) == 1
    assert sorted(ports) == list(range(30000, 30000 + len(ports)))
    shifted = [listen.port for row in rows(tmp_path, port_base=31000).values() for listen in row.process.listens]
    assert shifted == [port + 1000 for port in ports]


def test_the_gateways_have_the_two_fixed_ports_and_only_the_edge_takes_clients_without_a_certificate(
    tmp_path: Path,
) -> None:
    found = rows(tmp_path, port_base=30000)
    open_to_all = [listen.port for row in found.values() for listen in row.process.listens if not listen.client_cert]
    assert open_to_all == [30000]
    assert found["core-gateway"].process.listens[0].port == 30001


def test_with_networks_of_their_own_the_zones_listen_on_their_own_addresses_and_know_the_other_by_its_own(
    tmp_path: Path,
) -> None:
    settings = {"port_base": 30000, "zone_networks": True, "fault_links": True}
    found = rows(tmp_path, **settings)
    for row in found.values():
        zone = row.process.zone
        assert row.namespace == networks.namespace(30000, zone)
        assert {one.address for one in row.process.listens} <= {networks.address(30000, zone)}
    everybody = topology.Topology("isthmus.internal", tuple(row.process for row in found.values()))
    link = found["links"].process.listen("core")
    assert link is not None
    seen = table.public_view(everybody).process("core-gateway").listen("https")
    assert str(seen) == str(link)
    assert found["edge-1"].environment["ISTHMUS_ISSUER"] == f"https://{networks.address(30000, 'public')}:30000"


def test_every_workload_of_the_contract_is_in_the_table_in_its_zone(tmp_path: Path) -> None:
    there = {(row.process.zone, row.process.workload) for row in rows(tmp_path).values()}
    assert {place for service in contract.load().services.values() for place in service.places} <= there


def test_every_row_waits_only_for_rows_of_the_table(tmp_path: Path) -> None:
    found = rows(tmp_path)
    assert {name for row in found.values() for name in row.after} <= found.keys()


def test_a_database_and_a_kafka_of_the_users_own_are_not_started(tmp_path: Path) -> None:
    own = rows(tmp_path, database_url="postgresql+psycopg://db.example/isthmus", kafka_bootstrap="kafka.example:9093")
    assert "postgres" not in own
    assert own["kafka"].command == ()
    assert own["orders-1"].environment["ISTHMUS_DATABASE_URL"] == "postgresql+psycopg://db.example/isthmus"
    assert own["edge-1"].environment["ISTHMUS_KAFKA_BOOTSTRAP"] == "kafka.example:9093"


@pytest.mark.parametrize(("brokers", "replicas", "in_sync"), [(1, "1", "1"), (3, "3", "2"), (5, "3", "2")])
def test_brokers_by_a_setting_and_all_processes_know_all_of_them(
    tmp_path: Path, brokers: int, replicas: str, in_sync: str
) -> None:
    found = rows(tmp_path, kafka_brokers=brokers)
    cluster = [found[name].process for name in broker.names(brokers)]
    bootstrap = ",".join(str(one.listen("kafka")) for one in cluster)
    assert {found[name].environment["ISTHMUS_KAFKA_BOOTSTRAP"] for name in ("edge-1", "bridge-inbound")} == {bootstrap}
    assert set(found["topics"].after) == {one.name for one in cluster}
    settings = [broker.properties(Home(tmp_path), one, cluster) for one in cluster]
    assert [each["node.id"] for each in settings] == [str(number) for number in range(1, brokers + 1)]
    assert len({each["controller.quorum.voters"] for each in settings}) == 1
    assert {(each["default.replication.factor"], each["min.insync.replicas"]) for each in settings} == {
        (replicas, in_sync)
    }


def test_spare_edge_nodes_take_the_last_ports_and_have_their_part_of_every_budget(tmp_path: Path) -> None:
    without, found = rows(tmp_path, edge_nodes=2), rows(tmp_path, edge_nodes=2, edge_spares=2)
    assert {name: row.process.listens for name, row in found.items() if not row.spare} == {
        name: row.process.listens for name, row in without.items()
    }
    assert [name for name, row in found.items() if row.spare] == ["edge-3", "edge-4"]
    nodes = {row.environment["ISTHMUS_EDGE_NODES"] for row in found.values() if row.process.workload == "edge"}
    assert nodes == {"4"}


def test_a_link_lies_before_the_database_for_the_rooms_alone(tmp_path: Path) -> None:
    found = rows(tmp_path, fault_links=True, fault_link_database=True, database_standby=True)
    through, direct = (str(Home(tmp_path).sockets(name)) for name in ("links-postgres", "postgres"))
    assert hosts(found["orders-1"])[0] == through
    assert hosts(found["migrate"])[0] == direct
    assert "links" in found["orders-1"].after
    ways = json.loads(found["links"].environment["ISTHMUS_LINKS"])["database"]
    assert [Path(way["to"]).name for way in ways] == [".s.PGSQL.5432"] * 2
    without = rows(tmp_path, fault_links=True)
    assert hosts(without["orders-1"]) == [direct]


def hosts(row: table.Row) -> list[str]:
    return str(make_url(row.environment["ISTHMUS_DATABASE_URL"]).query["host"]).split(",")


def test_an_even_number_of_brokers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="quorum"):
        LauncherSettings(home=tmp_path, kafka_brokers=2)


@pytest.mark.parametrize(("name", "wanted"), [("kafka", 3), ("kafka-3", 1)])
def test_a_home_keeps_the_number_of_brokers_that_it_began_with(tmp_path: Path, name: str, wanted: int) -> None:
    home = Home(tmp_path)
    home.data(name).mkdir(parents=True)
    (home.data(name) / "meta.properties").touch()
    with pytest.raises(LauncherError, match="would start without them"):
        broker.check_size(home, wanted)
    broker.check_size(home, broker.node_id(name))


def test_nothing_in_the_public_zone_is_told_where_the_database_is(tmp_path: Path) -> None:
    public = [row for row in rows(tmp_path).values() if row.process.zone == "public"]
    assert not [row.name for row in public if "ISTHMUS_DATABASE_URL" in row.environment]


def test_every_process_of_ours_starts_with_tls_1_3_alone(tmp_path: Path) -> None:
    ours = [row for row in rows(tmp_path).values() if row.command[1:2] == ("-m",)]
    assert ours
    assert all(row.environment.items() >= GRPC.items() for row in ours)


def test_topology_is_read_as_it_was_written(tmp_path: Path) -> None:
    settings = LauncherSettings(home=tmp_path)
    written = table.topology(settings, table.build(settings), {"edge-1": 42})
    topology.write(tmp_path / "topology.json", written)
    read = topology.read(tmp_path / "topology.json")
    assert read == written
    assert read.process("edge-1").pid == 42


def test_no_topology_means_no_mesh(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="make run"):
        topology.read(tmp_path / "topology.json")


def test_socket_paths_stay_short_however_long_the_home_is(tmp_path: Path) -> None:
    sockets = Home(tmp_path / ("deep" * 30)).sockets("postgres")
    assert len(str(sockets / ".s.PGSQL.5432.lock")) <= SOCKET_PATH_BYTES_MAX
    assert sockets != Home(tmp_path).sockets("postgres")


def test_links_lie_between_the_zones_and_nowhere_else(tmp_path: Path) -> None:
    settings = LauncherSettings(home=tmp_path, port_base=20000, edge_nodes=2, fault_links=True)
    rows = {row.name: row for row in table.build(settings)}
    link = rows["links"].process
    assert {listen.name for listen in link.listens} == {"core", "kafka"}
    kafka = str(link.listen("kafka"))
    for name, row in rows.items():
        dialled = row.environment.get("ISTHMUS_KAFKA_BOOTSTRAP")
        assert (dialled == kafka) == name.startswith("bridge-"), name
    whole = table.topology(settings, tuple(rows.values()), {})
    seen = {process.name: process for process in table.public_view(whole).processes}
    assert seen["core-gateway"].listen("https").port == link.listen("core").port  # type: ignore[union-attr]
    assert [seen[name] for name in seen if name != "core-gateway"] == [
        one for one in whole.processes if one.name != "core-gateway"
    ]


def test_a_link_leads_to_every_broker(tmp_path: Path) -> None:
    rows = {
        row.name: row
        for row in table.build(LauncherSettings(home=tmp_path, edge_nodes=2, fault_links=True, kafka_brokers=3))
    }
    link = rows["links"].process
    ways = [str(listen) for listen in link.listens if listen.name.startswith("kafka")]
    assert rows["bridge-inbound"].environment["ISTHMUS_KAFKA_BOOTSTRAP"] == ",".join(ways)
    assert len(set(ways)) == 3


def test_a_standby_is_a_second_node_that_everybody_knows(tmp_path: Path) -> None:
    found = {row.name: row for row in table.build(LauncherSettings(home=tmp_path, database_standby=True))}
    assert set(found["migrate"].after) == {"postgres", "postgres-2"}
    url = found["orders-1"].environment["ISTHMUS_DATABASE_URL"]
    assert all(str(found[name].process.name) in url for name in ("postgres", "postgres-2"))
    assert url.endswith("target_session_attrs=read-write")


def test_a_home_in_which_the_second_node_took_over_has_both_from_then_on(tmp_path: Path) -> None:
    settings = LauncherSettings(home=tmp_path)
    assert "postgres-2" not in {row.name for row in table.build(settings)}
    replication.write(settings.layout, replication.Roles("postgres"))
    assert "postgres-2" not in {row.name for row in table.build(settings)}
    replication.write(settings.layout, replication.Roles("postgres-2"))
    assert {"postgres", "postgres-2"} <= {row.name for row in table.build(settings)}
