"""No data plane, however it behaves, brings a conversation out of step: it waits, it repeats nothing, it converges."""

from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mesh.control.conversation import WARM_WITHIN_S, Conversation
from mesh.control.snapshot import CLUSTER, ENDPOINTS, ORDER
from tests.unit.control.test_conversation import snapshot

KINDS = st.sampled_from(ORDER)
ALL = ("*",)
NAMES = st.one_of(st.just(ALL), st.lists(st.sampled_from(["a", "b", "c", "edge"]), min_size=1, unique=True).map(tuple))
Content = tuple[bytes, ...]


class AnyDataPlane(RuleBasedStateMachine):
    """Asks and answers in any order: rightly, wrongly, twice, late, never; and starts anew whenever it likes."""

    @initialize()
    def connect(self) -> None:
        self.target = snapshot(["a"])
        self.now = 0.0
        self._connect()

    @precondition(lambda self: len(self.names) == len(ORDER))
    @rule()
    def reconnect(self) -> None:
        self._connect()

    def _connect(self) -> None:
        self.conversation = Conversation()
        self.names: dict[str, tuple[str, ...]] = {}
        self.nonces: dict[str, str] = {}
        # Sent and neither acknowledged nor refused.
        self.pending: dict[str, Content] = {}
        self.told: dict[str, Content] = {}
        self.refused: dict[str, Content] = {}

    @rule(clusters=st.sets(st.sampled_from("abc"), min_size=1), mark=st.integers(0, 2), endpoints=st.integers(0, 2))
    def change(self, clusters: set[str], mark: int, endpoints: int) -> None:
        self.target = snapshot(clusters, mark=mark, endpoints_mark=endpoints)
        self._heard()

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(kind=KINDS, names=NAMES)
    def subscribe(self, kind: str, names: tuple[str, ...]) -> None:
        self.names[kind] = names
        self._request(kind, self.nonces.get(kind, ""))
        self._heard()

    @rule(kind=KINDS, refuse=st.booleans())
    def answer(self, kind: str, refuse: bool) -> None:
        if kind in self.nonces:
            self._request(kind, self.nonces[kind], "no" if refuse else "")

    @rule(kind=KINDS, nonce=st.sampled_from(["0", "1", "99999", "not a nonce"]), refuse=st.booleans())
    def answer_something_else(self, kind: str, nonce: str, refuse: bool) -> None:
        if nonce != self.nonces.get(kind) and kind in self.names:
            before = dict(self.pending)
            self._request(kind, nonce, "no" if refuse else "")
            assert self.pending == before

    @rule()
    def hear(self) -> None:
        self._heard()

    def _heard(self) -> bool:
        response = self.conversation.next(self.target, self.now)
        if response is None:
            return False
        kind, content = response.type_url, _content(response)
        assert kind in self.names, "told what was not asked for"
        assert kind not in self.pending, "told again before the last was answered"
        assert self.refused.get(kind) != content, "told again what it refused"
        self.nonces[kind] = response.nonce
        self.pending[kind] = self.told[kind] = content
        return True

    @precondition(lambda self: self.names)
    @rule()
    def behave(self) -> None:
        """From here on it does as it should: it soon knows all that it asked for, and then nothing more comes."""
        for kind in list(self.names):
            for _ in range(2):
                self._request(kind, self.nonces.get(kind, ""))
        silent = 0
        for _ in range(100):
            # Long enough for whoever waits for warmth.
            self.now += WARM_WITHIN_S
            silent = 0 if self._heard() else silent + 1
            for kind in list(self.pending):
                self._request(kind, self.nonces[kind])
            if silent == 3:
                break
        assert silent == 3, "it does not converge"
        for kind, names in self.names.items():
            wanted = self.target.select(kind, None if names == ALL else frozenset(names))
            assert self.told[kind] == tuple(sorted(each.packed.value for each in wanted.values())), kind

    def _request(self, kind: str, nonce: str, error: str = "") -> None:
        request = discovery_pb2.DiscoveryRequest(
            type_url=kind, resource_names=self.names.get(kind, ()), response_nonce=nonce
        )
        if error:
            request.error_detail.message = error
        self.conversation.receive(request)
        if nonce and nonce != self.nonces.get(kind):
            return
        content = self.pending.pop(kind, None)
        if content is not None and error:
            self.refused[kind] = content
            return
        # Whoever asks again, or has new clusters, is to be answered again.
        self.refused.pop(kind, None)
        if kind == CLUSTER:
            self.refused.pop(ENDPOINTS, None)

    @invariant()
    def silence_is_noticed(self) -> None:
        if hasattr(self, "pending") and not self.pending:
            assert not self.conversation.overdue(self.now)


def _content(response: Any) -> Content:
    return tuple(sorted(resource.value for resource in response.resources))


AnyDataPlane.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestAnyDataPlane = AnyDataPlane.TestCase
