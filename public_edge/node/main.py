"""Builds an edge node and runs it."""

import sys

from isthmus.ads.v1 import ads_pb2_grpc
from isthmus.clicks.v1 import clicks_pb2_grpc
from isthmus.content.v1 import content_pb2_grpc

from mesh import telemetry
from mesh.clock import SystemClock
from mesh.process import Process
from mesh.server import ServerBuilder
from public_edge.ads import http as ads_http
from public_edge.ads.catalogue import Catalogue, Share
from public_edge.ads.decision import Decider
from public_edge.ads.domain import Chooser
from public_edge.ads.service import AdsService
from public_edge.clicks import http as clicks_http
from public_edge.clicks import keys
from public_edge.clicks.domain import Signer
from public_edge.clicks.following import Follower
from public_edge.clicks.service import ClicksService
from public_edge.content import http as content_http
from public_edge.content.domain import Shelf
from public_edge.content.reading import Reader
from public_edge.content.receipts import Receipts
from public_edge.content.service import ContentService
from public_edge.http.app import EdgeApp
from public_edge.http.bots import BotRates, limit_of_bots
from public_edge.http.server import HttpServer
from public_edge.kafka import KafkaAccess
from public_edge.node import meters
from public_edge.node.click_urls import SignedClickUrls
from public_edge.node.parts import ClickKeysService, SnapshotService, SpoolService
from public_edge.node.settings import EdgeSettings
from public_edge.recorder import Recorder
from public_edge.snapshot.consumer import SnapshotConsumer
from public_edge.snapshot.publisher import Publisher
from public_edge.snapshot.state import Source
from public_edge.spool.event import Kind
from public_edge.spool.shipper import Shipper
from public_edge.spool.spool import Spool, SpoolLimits

# How long the shipper may keep the interpreter while a request waits for it.
SWITCH_INTERVAL_S = 0.001


async def main(settings: EdgeSettings, process: Process) -> None:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    clock, events = SystemClock(), process.contract.events
    limits = SpoolLimits(segment_bytes=settings.spool_segment_bytes, bytes_max=settings.spool_bytes_max)
    spool = Spool(settings.spool_dir, limits)
    recorder = Recorder(spool, process.contract)
    access = KafkaAccess(settings.kafka_bootstrap, settings.identity_dir, settings.node)
    ledger_topic = events["isthmus.events.v1.SpoolLedger"].topic
    shipper = Shipper(spool, access, {kind: events[kind.message].topic for kind in Kind}, ledger_topic, settings.node)

    signer = Signer(keys.load_or_create(settings.click_keys_dir))
    chooser = Chooser()
    urls = SignedClickUrls(signer, settings.browser_url, settings.click_ttl_s)
    decider = Decider(chooser, urls, recorder, clock, settings.node)
    follower = Follower(signer, chooser, recorder, clock, settings.node)
    reader = Reader(recorder, clock, settings.node)
    receipts = Receipts(recorder, clock, settings.node)

    catalogue = Catalogue(Share(settings.edge_nodes, settings.node_index))
    publisher = Publisher(catalogue, Shelf(), chooser, reader, clock)
    topics = {events[source.message].topic: source for source in Source}
    consumer = SnapshotConsumer(access, topics, publisher, settings.snapshot_path)

    content_routes = (content_http.route(reader), content_http.receipt_route(receipts))
    bots = BotRates(limit_of_bots(process.contract))
    app = EdgeApp((ads_http.route(decider), clicks_http.route(follower), *content_routes), bots)
    front = HttpServer(app, settings.http_address, settings.identity_dir)
    server = (
        ServerBuilder(process)
        .add(ads_pb2_grpc.add_AdsServicer_to_server, AdsService(decider))
        .add(clicks_pb2_grpc.add_ClicksServicer_to_server, ClicksService(follower))
        .add(content_pb2_grpc.add_ContentServicer_to_server, ContentService(reader, receipts))
        .build()
    )
    for renewed in (front.renew, shipper.renew, consumer.renew):
        process.identity.on_change(lambda _, renew=renewed: renew())  # type: ignore[misc]
    meters.observe(
        telemetry.meter(),
        app=app,
        bots=bots,
        recorder=recorder,
        follower=follower,
        spool=spool,
        shipper=shipper,
        consumer=consumer,
        publisher=publisher,
    )
    await process.serve(
        server,
        SpoolService(spool, shipper),
        ClickKeysService(settings.click_keys_dir, signer),
        SnapshotService(consumer),
        front,
    )
