"""How the mesh is built, started and operated."""
