"""For programs that call the mesh from outside of it: their proof of who they are, their token, their calls."""
