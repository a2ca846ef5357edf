from mesh import process
from private_core.orders.main import main
from private_core.orders.settings import OrdersSettings

process.start(main, OrdersSettings)
