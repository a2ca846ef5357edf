"""Load, faults, checkers and reports: how failover is proven."""

import os

from mesh.environment import GRPC

# Chaos Toolkit's own command imports our extension by name, and gRPC with it, which reads this once, on loading.
os.environ.update(GRPC)
