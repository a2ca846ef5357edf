"""The backend for a mesh on Kubernetes: pods are deleted, or cut off by network policies that the cluster itself ends.

The mesh is the pods of one namespace that are part of `isthmus`, each a node of its component (the recommended labels).
A fault that lasts is a NetworkPolicy owned by a Job without pods: the Job's activeDeadlineSeconds is the time to live,
its ttlSecondsAfterFinished of 0 removes it then, and the garbage collector takes what it owns. No runner has to live.

Policies of the standard API only ever allow: where another one allows what a fault should cut, the fault is refused.
"""

import math
import os
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from deploy.local import links
from deploy.local.door import LAUNCHER, Refused
from deploy.local.errors import NotRunning

PART: Final = "app.kubernetes.io/part-of=isthmus"
COMPONENT: Final = "app.kubernetes.io/component"
LEASE: Final = "isthmus.internal/drill"
# Who connects to whom over each link between the zones.
LINKS: Final = {
    "core": (("edge-gateway",), "core-gateway"),
    "kafka": (("bridge-inbound", "bridge-outbound"), "kafka"),
}
DEADLINE_S: Final = 10.0
PODS_MAX: Final = 500
TTL_S_MAX: Final = 600.0
NOT_FOUND: Final = 404
REMEDY: Final = "See docs/runbooks/drills.md"


def connect(namespace: str) -> "Cluster":
    """By the kubeconfig of the environment, or as the pod that this runs in.

    Raises:
        NotRunning: there is neither.
    """
    try:
        file = os.environ.get("KUBECONFIG")
        # Who is told a file by the time that this is loaded is not told it again later.
        config.load_kube_config(file) if file else config.load_config()  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise NotRunning(f"No cluster: {error}", "Set KUBECONFIG") from error
    return Cluster(client.ApiClient(), namespace)


class Cluster:
    """One namespace. Calls block for DEADLINE_S at most."""

    def __init__(self, api: Any, namespace: str) -> None:
        self._core = client.CoreV1Api(api)
        self._apps = client.AppsV1Api(api)
        self._batch = client.BatchV1Api(api)
        self._network = client.NetworkingV1Api(api)
        self._namespace = namespace

    @property
    def nodes(self) -> dict[str, str]:
        return {pod.metadata.name: pod.metadata.labels[COMPONENT] for pod in self._pods(f"{PART},{COMPONENT}")}

    @property
    def links(self) -> list[str]:
        there = set(self.nodes.values())
        return sorted(name for name, (_, to) in LINKS.items() if to in there)

    @property
    def spares(self) -> list[str]:
        # What is added here is the business of whoever scales.
        return []

    def ask(self, at: str = LAUNCHER, **request: Any) -> dict[str, Any]:
        match at, request.get("do"):
            case (_, "active"):
                jobs = self._call(self._batch.list_namespaced_job, label_selector=LEASE).items
                return {"leases": [job.metadata.name for job in jobs]}
            case (door, "kill") if door == LAUNCHER:
                pod = self._pod(request)
                self._call(self._core.delete_namespaced_pod, pod.metadata.name, grace_period_seconds=0)
                return {}
            case (door, "freeze" | "hold") if door == LAUNCHER:
                self._isolate(request)
                return {}
            case (links.NAME, "disturb"):
                self._cut(request)
                return {}
        raise Refused(
            f"Refused: on Kubernetes nothing does {request.get('do')!r}; kill, freeze, hold and disturb", REMEDY
        )

    def heal(self, at: str, key: str) -> None:
        """What is not there any more has ended by itself."""
        for pod in self._pods(f"{LEASE}={key}"):
            self._gone(self._core.patch_namespaced_pod, pod.metadata.name, _labelled(None))
        self._gone(self._network.delete_namespaced_network_policy, key)
        self._gone(self._batch.delete_namespaced_job, key, propagation_policy="Background")

    async def unwell(self, names: Collection[str] | None = None) -> dict[str, str]:
        pods = {pod.metadata.name: pod for pod in self._pods(f"{PART},{COMPONENT}")}
        wrong = {name: f"{name} does not run" for name in names or () if name not in pods}
        looked_at = [pod for name, pod in pods.items() if names is None or name in names]
        wrong |= {one.metadata.name: f"{one.metadata.name} is not ready" for one in looked_at if not _ready(one)}
        workloads = {pod.metadata.labels[COMPONENT] for pod in looked_at}
        for one in self._sets():
            workload, wanted, there = (
                one.metadata.labels.get(COMPONENT, ""),
                one.spec.replicas,
                one.status.ready_replicas,
            )
            if (names is None or workload in workloads) and (there or 0) < wanted:
                wrong[workload] = f"{workload}: {there or 0} of {wanted} are ready"
        return wrong

    def _isolate(self, request: dict[str, Any]) -> None:
        """Nobody reaches the pod, and it reaches nobody: held or frozen, it looks the same from outside."""
        pod, key, ttl_s = self._pod(request), *_lease(request)
        self._require_unallowed([pod], "Ingress", "Egress")
        name = pod.metadata.name
        policy = {"podSelector": {"matchLabels": {LEASE: key}}, "policyTypes": ["Ingress", "Egress"]}
        self._call(self._core.patch_namespaced_pod, name, _labelled(key))
        self._lay(key, ttl_s, policy)

    def _cut(self, request: dict[str, Any]) -> None:
        """Nobody on the near side of a link connects to its far side any more."""
        link, key, ttl_s = str(request.get("link")), *_lease(request)
        if link not in LINKS:
            raise Refused(f"Refused: {link} is no link; there are {', '.join(LINKS)}", REMEDY)
        if request.get("mode") != "black-hole" or set(request.get("directions", links.BOTH)) != links.BOTH:
            raise Refused("Refused: a network policy cuts both ways and does nothing else; mode is black-hole", REMEDY)
        near, far = LINKS[link]
        self._require_unallowed(self._pods(f"{PART},{COMPONENT}={far}"), "Ingress")
        others = {"matchExpressions": [{"key": COMPONENT, "operator": "NotIn", "values": list(near)}]}
        policy = {
            "podSelector": {"matchLabels": {COMPONENT: far}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": others, "namespaceSelector": {}}]}],
        }
        self._lay(key, ttl_s, policy)

    def _lay(self, key: str, ttl_s: float, spec: dict[str, Any]) -> None:
        labels = {LEASE: key}
        # Without pods: what counts is only when it ends. A template there must be.
        template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "none", "image": "none"}]}}
        lease = {
            "metadata": {"name": key, "labels": labels},
            "spec": {
                "parallelism": 0,
                "activeDeadlineSeconds": math.ceil(ttl_s),
                "ttlSecondsAfterFinished": 0,
                "template": template,
            },
        }
        try:
            job = self._call(self._batch.create_namespaced_job, lease)
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": key, "uid": job.metadata.uid}
            policy = {"metadata": {"name": key, "labels": labels, "ownerReferences": [owner]}, "spec": spec}
            self._call(self._network.create_namespaced_network_policy, policy)
        except BaseException:
            self.heal(LAUNCHER, key)
            raise

    def _require_unallowed(self, pods: Iterable[Any], *directions: str) -> None:
        names = {pod.metadata.name for pod in pods}
        if not names:
            raise Refused("Refused: there is nothing to cut off", "See kubectl get pods")
        for policy in self._call(self._network.list_namespaced_network_policy).items:
            spec = policy.spec
            rules = {"Ingress": spec.ingress, "Egress": spec.egress}
            if not any(rules[direction] for direction in directions):
                continue
            if names & {pod.metadata.name for pod in self._pods(_selector(spec.pod_selector))}:
                raise Refused(
                    f"Refused: the network policy {policy.metadata.name} allows what this fault should cut",
                    "Take that policy away for the drill: policies only ever allow",
                )

    def _pod(self, request: dict[str, Any]) -> Any:
        name = request.get("process")
        for pod in self._pods(f"{PART},{COMPONENT}"):
            if pod.metadata.name == name:
                return pod
        raise Refused(f"Refused: {name!r} is no pod of this mesh", "See kubectl get pods")

    def _pods(self, selector: str) -> list[Any]:
        pods = self._call(self._core.list_namespaced_pod, label_selector=selector, limit=PODS_MAX).items
        # One that is on its way out is replaced already.
        return [pod for pod in pods if pod.metadata.deletion_timestamp is None]

    def _sets(self) -> list[Any]:
        kinds = (self._apps.list_namespaced_deployment, self._apps.list_namespaced_stateful_set)
        return [one for kind in kinds for one in self._call(kind, label_selector=f"{PART},{COMPONENT}").items]

    def _gone(self, do: Callable[..., Any], name: str, *arguments: Any, **options: Any) -> None:
        try:
            self._call(do, name, *arguments, **options)
        except Refused as error:
            cause = error.__cause__
            if not isinstance(cause, ApiException) or cause.status != NOT_FOUND:
                raise

    def _call(self, do: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Of the calls that take a namespace: it comes last of a path's names, and before a body."""
        names = [one for one in arguments if isinstance(one, str)]
        bodies = [one for one in arguments if not isinstance(one, str)]
        try:
            return do(*names, self._namespace, *bodies, _request_timeout=DEADLINE_S, **options)
        except ApiException as error:
            raise Refused(
                f"Refused by the cluster: {error.status} {error.reason}", "See kubectl auth can-i --list"
            ) from error
        except HTTPError as error:
            raise NotRunning(f"The cluster does not answer: {error}", "Look at KUBECONFIG") from error


def _lease(request: dict[str, Any]) -> tuple[str, float]:
    ttl_s = request.get("ttl_s")
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not 0 < ttl_s <= TTL_S_MAX:
        raise Refused(f"Refused: ttl_s must be a number of seconds up to {TTL_S_MAX:g}", REMEDY)
    return str(request["lease"]), float(ttl_s)


def _labelled(key: str | None) -> dict[str, Any]:
    return {"metadata": {"labels": {LEASE: key}}}


def _ready(pod: Any) -> bool:
    conditions = pod.status.conditions or ()
    return any(one.type == "Ready" and one.status == "True" for one in conditions)


def _selector(selector: Any) -> str:
    """A policy's selector in the words of a query. An empty one selects all."""
    parts = [f"{name}={value}" for name, value in (selector.match_labels or {}).items()]
    words = {"In": "in", "NotIn": "notin"}
    for one in selector.match_expressions or ():
        if one.operator in words:
            parts.append(f"{one.key} {words[one.operator]} ({','.join(one.values)})")
        else:
            parts.append(one.key if one.operator == "Exists" else f"!{one.key}")
    return ",".join(parts)
