from mesh import process
from sync_bridge.inbound.main import main
from sync_bridge.inbound.settings import InboundSettings

process.start(main, InboundSettings)
