from mesh.process import start
from private_core.catalog.main import main
from private_core.catalog.settings import CatalogSettings

start(main, CatalogSettings)
