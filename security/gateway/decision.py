"""Whether a call may go on, and with which inner token: the rules of its method, in the order in which they refuse."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from mesh.call import Claims
from mesh.clock import Clock
from mesh.contract import Contract, MethodPolicy
from mesh.errors import NotFound, PermissionDenied, Unauthenticated
from mesh.rates import CallerRates
from mesh.spiffe import SpiffeId
from security.gateway.minting import InnerToken, Mint
from security.tokens import inner
from security.tokens.admission import check_subject
from security.tokens.dpop import Nonces, read_proof

BEARER: Final = "bearer"
DPOP: Final = "dpop"


class Verifier(Protocol):
    """security.tokens.verifier.TokenVerifier."""

    async def verify(self, token: str) -> Claims:
        """The claims of a good token, or Unauthenticated."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as the core gateway describes it. Empty where there is nothing."""

    # /package.Service/Method
    path: str
    authorization: str = ""
    # SPIFFE id of who sent it to the core gateway, and its certificate's SHA-256 in base64url.
    peer: str = ""
    thumbprint: str = ""
    # The proof of RFC 9449, and the method and address that it must be for.
    proof: str = ""
    verb: str = ""
    # As it was asked for outside, without its query.
    outside: str = ""


@dataclass(frozen=True, slots=True)
class Decided:
    """A call that may go on; without a token where its method asks for none."""

    token: InnerToken | None
    claims: Claims | None


class Proofs(Protocol):
    """security.gateway.store.ProofStore."""

    async def first_use(self, digest: bytes, until: int) -> bool:
        """Note a proof; False if it was noted before."""
        ...


class Decider:
    """`core_gateway` presents the inner tokens that are made here; `edge_gateway` speaks for the outside.

    `origin` is where the outside finds the mesh.
    """

    def __init__(
        self,
        contract: Contract,
        verifier: Verifier,
        mint: Mint,
        proofs: Proofs,
        nonces: Nonces,
        core_gateway: SpiffeId,
        edge_gateway: SpiffeId,
        origin: str,
        clock: Clock,
    ) -> None:
        self._methods = contract.methods
        self._verifier = verifier
        self._mint = mint
        self._proofs = proofs
        self._nonces = nonces
        self._origin = origin
        self._chain = (str(core_gateway),)
        self._edge_gateway = str(edge_gateway)
        self._clock = clock
        rates = CallerRates(contract, clock.monotonic)
        # By path.
        self._taken = {path: rates.of(method) for path, method in contract.methods.items()}
        self._reach: Mapping[str, frozenset[str]] = inner.reach(contract)

    def policy(self, path: str) -> MethodPolicy:
        """The policy of a private method. NotFound for every other path."""
        policy = self._methods.get(path)
        if policy is None or policy.zone != "private":
            raise NotFound("METHOD_UNKNOWN", "there is no such method here")
        return policy

    async def decide(self, asked: Asked) -> Decided:
        """Raises the rule that the call breaks, as a type of mesh.errors."""
        policy = self.policy(asked.path)
        if not policy.needs_token:
            return Decided(None, None)
        scheme, _, token = asked.authorization.partition(" ")
        scheme = scheme.lower()
        if scheme not in (BEARER, DPOP) or not token:
            raise Unauthenticated("TOKEN_MISSING", "this call needs an access token")
        claims = await self._verifier.verify(token)
        await self._check_binding(claims, scheme, token, asked)
        check_subject(claims, policy, self._clock)
        self._taken[policy.path](claims, asked.peer)
        made = self._mint.token(
            claims, policy.workload, self._reach[policy.path], self._chain, expires_max=claims.expires
        )
        return Decided(made, claims)

    async def _check_binding(self, claims: Claims, scheme: str, token: str, asked: Asked) -> None:
        bound = claims.confirmation
        if asked.peer != self._edge_gateway and "x5t#S256" not in bound:
            # Whoever comes by itself has a certificate: a token that is good without one was not given to it.
            raise Unauthenticated("TOKEN_BINDING", "a workload's access token is bound to its certificate")
        if "x5t#S256" in bound and bound["x5t#S256"] != asked.thumbprint:
            raise Unauthenticated("TOKEN_BINDING", "the access token is bound to another certificate")
        if "jkt" not in bound:
            if scheme == DPOP:
                raise Unauthenticated("TOKEN_BINDING", "the access token is bound to no key")
            return
        # Neither may a bound token be sent as if it were none (RFC 9449, section 7.2).
        if scheme != DPOP or not asked.proof:
            raise Unauthenticated("PROOF_MISSING", "the access token is bound to a key, and no proof of it is here")
        now_s = self._clock.now_us() // 1_000_000
        proof = read_proof(asked.proof, asked.verb, self._origin + asked.outside, now_s, token)
        if proof.thumbprint != bound["jkt"]:
            raise Unauthenticated("PROOF_INVALID", "the DPoP proof is of another key")
        self._nonces.check(proof.nonce)
        if not await self._proofs.first_use(proof.digest, proof.until):
            raise Unauthenticated("PROOF_REPLAYED", "the DPoP proof was used before")


class Exchanger:
    """Token exchange between services: narrower, shorter or the same, never wider."""

    def __init__(self, contract: Contract, verifier_of: Mapping[str, Verifier], mint: Mint) -> None:
        """verifier_of: by workload, a verifier of inner tokens for it."""
        self._methods = contract.methods
        self._verifier_of = verifier_of
        self._mint = mint
        self._reach = inner.reach(contract)

    async def exchange(self, peer: SpiffeId, token: str, path: str) -> InnerToken:
        """A token with which `peer`, which was called with `token`, may call the method at `path`."""
        target = self._methods.get(path)
        verifier = self._verifier_of.get(peer.workload)
        if target is None or verifier is None or target.zone != "private" or peer.workload not in target.callers:
            raise PermissionDenied("EXCHANGE_TARGET", "this workload may not call this method")
        claims = await verifier.verify(token)
        missing = target.scopes - claims.scopes
        if missing:
            raise PermissionDenied("SCOPE_MISSING", f"the token lacks the scope {' '.join(sorted(missing))}")
        if len(claims.actors) >= inner.ACTORS_MAX:
            raise PermissionDenied("ACTORS_TOO_MANY", f"a call passes through at most {inner.ACTORS_MAX} workloads")
        chain = (str(peer), *claims.actors)
        return self._mint.token(claims, target.workload, self._reach[path], chain, expires_max=claims.expires)
