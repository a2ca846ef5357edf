from mesh.process import start
from security.witness.main import main
from security.witness.settings import WitnessSettings

start(main, WitnessSettings)
