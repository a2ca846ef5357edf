"""The xDS bootstrap of a gRPC client: which control plane to ask, and with which certificate.

Format: gRFC A27, with mTLS towards the control plane (A65) and towards the services (A29). While the control plane is
away, a client that starts asks the fallback of its own process (A71).
"""

import json

from deploy.local.settings import Home
from deploy.local.topology import Process
from mesh import fallback

REFRESH_INTERVAL = "1s"
# The name by which the control plane's answers refer to this process' certificate and roots.
CERTIFICATE_PROVIDER = "identity"
# A resource that is missing from an answer is no reason to drop what works.
FEATURES = ["xds_v3", "ignore_resource_deletion"]


def write_xds_bootstrap(home: Home, process: Process, control: str) -> None:
    """Write run/<process>/xds-bootstrap.json. `control` is the address of the zone's control plane, host:port."""
    identity = home.identity(process.name)
    certificate = {
        "certificate_file": str(identity / "svid.pem"),
        "private_key_file": str(identity / "key.pem"),
        "ca_certificate_file": str(identity / "bundle.pem"),
        "refresh_interval": REFRESH_INTERVAL,
    }
    bootstrap = {
        "xds_servers": [
            {
                "server_uri": control,
                "channel_creds": [{"type": "tls", "config": certificate}],
                "server_features": FEATURES,
            },
            {
                "server_uri": f"unix:{home.sockets(process.name) / fallback.SOCKET}",
                # Who may open the socket is for the file system to say.
                "channel_creds": [{"type": "insecure"}],
                "server_features": FEATURES,
            },
        ],
        "node": {"id": process.node, "cluster": process.workload, "locality": process.locality},
        "certificate_providers": {CERTIFICATE_PROVIDER: {"plugin_name": "file_watcher", "config": certificate}},
    }
    path = home.run(process.name) / "xds-bootstrap.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(bootstrap, indent=1))
