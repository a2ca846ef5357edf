from mesh import process
from private_core.payments.sandbox.main import main
from private_core.payments.sandbox.settings import SandboxSettings

process.start(main, SandboxSettings)
