from mesh import process
from private_core.warehouse.main import main
from private_core.warehouse.settings import WarehouseSettings

process.start(main, WarehouseSettings)
