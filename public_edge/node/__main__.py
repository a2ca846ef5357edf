from mesh.process import start
from public_edge.node.main import main
from public_edge.node.settings import EdgeSettings

if __name__ == "__main__":
    start(main, EdgeSettings)
