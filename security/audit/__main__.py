from mesh.process import start
from security.audit.main import main
from security.audit.settings import AuditSettings

start(main, AuditSettings)
