from mesh.process import start
from private_core.members.main import main
from private_core.members.settings import MembersSettings

start(main, MembersSettings)
