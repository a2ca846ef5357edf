from mesh import process
from private_core.payments.main import main
from private_core.payments.settings import PaymentsSettings

process.start(main, PaymentsSettings)
