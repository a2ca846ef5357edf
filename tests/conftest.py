"""What every test stands on: gRPC must find its environment before it is loaded."""

import os

from hypothesis import settings

from mesh.environment import GRPC

os.environ.update(GRPC)
# How long one example takes says more of the machine than of the rule.
settings.register_profile("isthmus", deadline=None)
settings.load_profile("isthmus")
