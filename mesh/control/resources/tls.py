"""TLS 1.3 with SPIFFE names, for Envoy (certificates from files that it watches) and for gRPC (its own provider)."""

from typing import Any, Final

from mesh.control.resources.view import View
from mesh.spiffe import SpiffeId

_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
_TLS_1_3: Final = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
# As the bootstrap of xds:/// clients names it.
CERTIFICATE_PROVIDER: Final = "identity"


def envoy_upstream(view: View, gateway: str, peer: SpiffeId, alpn: str) -> dict[str, Any]:
    """The gateway shows its own leaf and takes no peer but this one."""
    exact = [{"san_type": "URI", "matcher": {"exact": str(peer)}}]
    return _socket(
        {
            "@type": _TYPE + "UpstreamTlsContext",
            "sni": peer.dns_name,
            "common_tls_context": {**_own(view, gateway, [alpn]), **_roots(view, gateway, exact)},
        }
    )


def envoy_downstream_public(view: View, gateway: str) -> dict[str, Any]:
    """For browsers: no client certificate."""
    return _socket(
        {
            "@type": _TYPE + "DownstreamTlsContext",
            "require_client_certificate": False,
            "common_tls_context": _own(view, gateway, ["h2", "http/1.1"]),
        }
    )


def envoy_downstream_mutual(view: View, gateway: str, peers: list[SpiffeId]) -> dict[str, Any]:
    """For peers of the mesh, each named exactly."""
    names = [{"san_type": "URI", "matcher": {"exact": str(peer)}} for peer in peers]
    return _socket(
        {
            "@type": _TYPE + "DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {**_own(view, gateway, ["h2", "http/1.1"]), **_roots(view, gateway, names)},
        }
    )


def grpc_upstream(peer: SpiffeId) -> dict[str, Any]:
    """For xds:/// clients (gRFC A29), which read the older form of the name's match only."""
    provider = {"instance_name": CERTIFICATE_PROVIDER}
    return _socket(
        {
            "@type": _TYPE + "UpstreamTlsContext",
            "common_tls_context": {
                "tls_certificate_provider_instance": provider,
                "validation_context": {
                    "ca_certificate_provider_instance": provider,
                    "match_subject_alt_names": [{"exact": str(peer)}],
                },
            },
        }
    )


def _own(view: View, gateway: str, alpn: list[str]) -> dict[str, Any]:
    return {
        "tls_params": _TLS_1_3,
        "alpn_protocols": alpn,
        "tls_certificate_sds_secret_configs": [_secret(view, gateway, "identity")],
    }


def _roots(view: View, gateway: str, names: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": _secret(view, gateway, "bundle"),
        }
    }


def _secret(view: View, gateway: str, name: str) -> dict[str, Any]:
    path = view.run / gateway / f"sds-{name}.yaml"
    return {"name": name, "sds_config": {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}}


def _socket(context: dict[str, Any]) -> dict[str, Any]:
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}
