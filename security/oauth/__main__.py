from mesh import process
from security.oauth.main import main
from security.oauth.settings import OAuthSettings

process.start(main, OAuthSettings)
