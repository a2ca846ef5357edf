"""The part of the Kubernetes API that drills use, over HTTP as its reference documents it, with what the cluster's
controllers do to it: jobs end by their deadline and are removed, what they own goes with them, policies add up."""

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PATH = re.compile(
    r"^/(?:api|apis/[a-z0-9.]+)/v1/namespaces/(?P<namespace>[^/]+)/(?P<kind>[a-z]+)(?:/(?P<name>[^/]+))?$"
)
Thing = dict[str, Any]


class KubeApi:
    """One cluster. `now_s` is its clock, which only tests move."""

    def __init__(self) -> None:
        self.things: dict[tuple[str, str, str], Thing] = {}
        self.forbidden: set[str] = set()
        self.now_s = 0.0
        self.lock = threading.Lock()

    def add(self, kind: str, name: str, labels: dict[str, str], **more: Any) -> Thing:
        metadata = {"name": name, "namespace": "isthmus", "labels": labels, "uid": str(uuid.uuid4())}
        thing = {"metadata": metadata, **more}
        self.things["isthmus", kind, name] = thing
        return thing

    def pod(self, name: str, component: str, ready: bool = True) -> Thing:
        labels = {"app.kubernetes.io/part-of": "isthmus", "app.kubernetes.io/component": component}
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": None}
        return self.add(
            "pods", name, labels, spec={"containers": [{"name": "one"}]}, status={"conditions": [condition]}
        )

    def named(self, kind: str) -> list[str]:
        return sorted(name for _, one, name in self.things if one == kind)

    def passes(self, seconds: float) -> None:
        """Jobs past their deadline fail, finished ones are removed after their time, with what they own."""
        self.now_s += seconds
        for _, kind, name in list(self.things):
            if kind == "jobs":
                job = self.things["isthmus", kind, name]
                ends_s = job["began_s"] + job["spec"]["activeDeadlineSeconds"] + job["spec"]["ttlSecondsAfterFinished"]
                if self.now_s >= ends_s:
                    self.remove("jobs", name)

    def remove(self, kind: str, name: str) -> Thing | None:
        gone = self.things.pop(("isthmus", kind, name), None)
        if gone is not None:
            for namespace, owned_kind, owned in list(self.things):
                owners = self.things[namespace, owned_kind, owned]["metadata"].get("ownerReferences", ())
                if any(owner["uid"] == gone["metadata"]["uid"] for owner in owners):
                    del self.things[namespace, owned_kind, owned]
        return gone

    def reaches(self, source: str, target: str) -> bool:
        """Whether a new connection is let through: all that select a pod allow together, and none allows all."""
        from_, to = (self.things["isthmus", "pods", name] for name in (source, target))
        return self._allowed(from_, to, "Egress", "egress", "to") and self._allowed(
            to, from_, "Ingress", "ingress", "from"
        )

    def _allowed(self, pod: Thing, other: Thing, direction: str, rules: str, peers: str) -> bool:
        specs = [one["spec"] for (_, kind, _), one in self.things.items() if kind == "networkpolicies"]
        mine = [one for one in specs if direction in one["policyTypes"] and _chosen(one.get("podSelector") or {}, pod)]
        allowed = [peer for one in mine for rule in one.get(rules) or () for peer in rule.get(peers) or [{}]]
        return not mine or any(_chosen(peer.get("podSelector") or {}, other) for peer in allowed)


def _chosen(selector: Thing, pod: Thing) -> bool:
    labels = pod["metadata"]["labels"]
    for one in selector.get("matchExpressions") or ():
        inside = labels.get(one["key"]) in one.get("values", ())
        if inside != (one["operator"] == "In"):
            return False
    return all(labels.get(name) == value for name, value in (selector.get("matchLabels") or {}).items())


def _asked_for(selector: str, labels: dict[str, str]) -> bool:
    for part in filter(None, re.split(r",(?![^(]*\))", selector)):
        if within := re.fullmatch(r"(\S+) (in|notin) \((.*)\)", part):
            if (labels.get(within[1]) in within[3].split(",")) != (within[2] == "in"):
                return False
            continue
        name, equals, value = part.partition("=")
        if (labels.get(name) != value) if equals else (name not in labels):
            return False
    return True


class _Handler(BaseHTTPRequestHandler):
    api: KubeApi

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, status: int, body: Thing) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        found = PATH.match(parts.path)
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        if found is None or found["namespace"] != "isthmus":
            return self._answer(404, {"reason": "NotFound"})
        if f"{self.command} {found['kind']}" in self.api.forbidden:
            return self._answer(403, {"reason": "Forbidden"})
        with self.api.lock:
            self._answer(*self._done(found["kind"], found["name"], json.loads(content or b"{}"), parse_qs(parts.query)))
        return None

    def _done(self, kind: str, name: str | None, body: Thing, query: dict[str, list[str]]) -> tuple[int, Thing]:
        api = self.api
        if self.command == "POST":
            name = body["metadata"]["name"]
            if ("isthmus", kind, name) in api.things:
                return 409, {"reason": "AlreadyExists"}
            created = api.add(kind, name, body["metadata"].get("labels", {}), spec=body["spec"], began_s=api.now_s)
            created["metadata"]["ownerReferences"] = body["metadata"].get("ownerReferences", [])
            return 201, created
        if name is None:
            selector = query.get("labelSelector", [""])[0]
            there = [thing for (_, one, _), thing in api.things.items() if one == kind]
            return 200, {"items": [one for one in there if _asked_for(selector, one["metadata"]["labels"])]}
        thing = api.things.get(("isthmus", kind, name))
        if thing is None:
            return 404, {"reason": "NotFound"}
        if self.command == "DELETE":
            api.remove(kind, name)
        elif self.command == "PATCH":
            for label, value in body["metadata"]["labels"].items():
                thing["metadata"]["labels"].pop(label, None)
                if value is not None:
                    thing["metadata"]["labels"][label] = value
        return 200, thing

    do_GET = do_POST = do_DELETE = do_PATCH = _handle  # noqa: N815 (http.server's names)


@contextmanager
def serving(api: KubeApi) -> Iterator[str]:
    """Yields where it listens."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
