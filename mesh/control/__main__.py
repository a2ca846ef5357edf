"""Run with `python -m mesh.control`."""

from mesh.control.main import main
from mesh.control.settings import ControlSettings
from mesh.process import start

start(main, ControlSettings)
