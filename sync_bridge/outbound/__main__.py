from mesh import process
from sync_bridge.outbound.main import main
from sync_bridge.outbound.settings import OutboundSettings

process.start(main, OutboundSettings)
