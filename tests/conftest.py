"""What every test stands on: gRPC must find its environment before it is loaded."""

import os

from mesh.environment import GRPC

os.environ.update(GRPC)
