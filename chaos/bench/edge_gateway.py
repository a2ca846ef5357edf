"""What the edge gateway leaves of an edge node's rate, against Envoy alone in front of a server that does nothing.

Both Envoys run with one worker thread, take TLS 1.3 from the load generator and speak HTTP/2 over mutual TLS 1.3 to the
server behind them. Ours is the mesh's own, configured by its control plane, with everything that it does to a request.
Once the node serves what it learnt from Kafka, that goes away, as where the node is measured alone: a request ends in
the spool, and a broker on the same cores would take a quarter of them for events, of which the baseline has none.
"""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from confluent_kafka import Producer
from isthmus.catalog.v1.catalog_pb2 import Campaign

from chaos.bench.tools import BenchError, by_wrk, free_ports, running
from deploy.local import envoy
from deploy.local.kafka import broker
from deploy.local.mesh import LocalMesh
from mesh.contract import load

_LISTENING = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_PORTS = 64
_DEADLINE_S = 60.0

# Runs the server that does nothing with the certificate in a directory, behind mutual TLS; yields its URL.
Hello = Callable[[Path, Path], contextlib.AbstractContextManager[str]]


async def measure(
    bench: Path,
    campaigns: Sequence[Campaign],
    hello: Hello,
    ask: str,
    connections: int,
    seconds: float,
    rounds: int,
) -> list[dict[str, float]]:
    """Rates of both, `gateway` and `envoy`, in interleaved rounds, with these campaigns published."""
    home = bench / "mesh"
    mesh = LocalMesh(home, _ports_in_a_row(_PORTS), edge_nodes=1, only=("edge-gateway", "edge-1"))
    async with mesh:
        await asyncio.to_thread(_publish, mesh, campaigns)
        live = {name: home / "run" / name / "identity" / "live" for name in ("edge-1", "edge-gateway")}
        with hello(bench, live["edge-1"]) as behind, _envoy(bench, live["edge-gateway"], behind) as before:
            urls = {"gateway": f"https://localhost:{mesh.settings.port_base}", "envoy": before}

            def once(duration: float) -> dict[str, float]:
                return {
                    name: by_wrk(url + ask, connections=connections, seconds=duration) for name, url in urls.items()
                }

            await asyncio.to_thread(_until_served, urls["gateway"] + ask, home)
            await mesh.suspend("kafka")
            await asyncio.to_thread(once, 1.0)
            return [await asyncio.to_thread(once, seconds) for _ in range(rounds)]


def _publish(mesh: LocalMesh, campaigns: Sequence[Campaign]) -> None:
    """Into the topic from which edge nodes build their snapshot, as the broker itself."""
    producer = Producer(broker.client_settings(mesh.home.identity("kafka"), mesh.kafka_bootstrap))
    topic = load().events[Campaign.DESCRIPTOR.full_name].topic
    for campaign in campaigns:
        producer.produce(topic, campaign.SerializeToString(), campaign.campaign_id)
    if producer.flush(_DEADLINE_S):
        raise BenchError("the campaigns could not be published")


def _until_served(url: str, home: Path) -> None:
    context = ssl.create_default_context(cafile=str(home / "ca" / "public" / "root.pem"))
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        try:
            with urlopen(url, timeout=5, context=context):  # noqa: S310 (our own https URL)
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise BenchError(f"the gateway does not answer: {error}") from error
        time.sleep(0.2)


@contextlib.contextmanager
def _envoy(bench: Path, live: Path, behind: str) -> Iterator[str]:
    """Envoy with nothing but a route to the URL `behind`, with the gateway's certificate in `live`."""
    (port,) = free_ports(1)
    configuration = bench / "envoy.json"
    configuration.write_text(json.dumps(_configuration(port, live, urlsplit(behind).port or 0)))
    command = [str(envoy.binary()), "-c", str(configuration), "--concurrency", "1", "--disable-hot-restart"]
    with running([*command, "--log-level", "error"], port, bench / "envoy.log", os.environ):
        yield f"https://localhost:{port}"


def _ports_in_a_row(count: int) -> int:
    """The first of so many free neighbours. The kernel gives none of these out by itself."""
    for base in range(20_000, 32_000, count):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(base, base + count):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return base
    raise BenchError(f"no {count} free ports in a row between 20000 and 32000")


def _configuration(port: int, live: Path, hello_port: int) -> dict[str, Any]:
    certificate = {
        "certificate_chain": {"filename": str(live / "svid.pem")},
        "private_key": {"filename": str(live / "key.pem")},
    }
    context = {"tls_params": envoy.TLS_1_3, "tls_certificates": [certificate]}
    manager = {
        "@type": envoy.TYPE_MANAGER,
        "stat_prefix": "bare",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "hello"}}]}
            ]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": envoy.TYPE_ROUTER}}],
    }
    listener = {
        "name": "bare",
        "address": _address(port),
        "filter_chains": [
            {
                "transport_socket": {
                    "name": "tls",
                    "typed_config": {"@type": _LISTENING, "common_tls_context": context},
                },
                "filters": [{"name": "http", "typed_config": manager}],
            }
        ],
    }
    trusted = {"trusted_ca": {"filename": str(live / "bundle.pem")}}
    cluster = {
        "name": "hello",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "hello",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(hello_port)}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": envoy.TYPE_HTTP,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": f"{envoy.TYPE_TLS}.UpstreamTlsContext",
                "common_tls_context": context | {"alpn_protocols": ["h2"], "validation_context": trusted},
            },
        },
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
