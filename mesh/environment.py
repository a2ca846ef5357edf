"""What the environment of a process must hold before gRPC is loaded, since gRPC reads it once, on loading.

This module imports nothing, so that launchers, commands and tests can set it in time.
"""

from typing import Final

SUITES: Final = "GRPC_SSL_CIPHER_SUITES"

# grpcio negotiates TLS 1.2 by default and no API of it sets a minimum. With this suite alone, which needs an RSA
# certificate that nobody here has, every TLS 1.2 handshake fails and TLS 1.3's own suites stay.
TLS13_ONLY: Final = "ECDHE-RSA-AES256-GCM-SHA384"

# Whoever forks here runs another program at once, so gRPC need not look after its threads in a child.
GRPC: Final = {SUITES: TLS13_ONLY, "GRPC_DNS_RESOLVER": "native", "GRPC_ENABLE_FORK_SUPPORT": "0"}
