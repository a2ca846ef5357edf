from mesh import process
from security.gateway.main import main
from security.gateway.settings import GatewaySettings

process.start(main, GatewaySettings)
