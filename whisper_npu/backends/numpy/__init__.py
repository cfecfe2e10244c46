"""NumPy: the specification of every op, and faster ways to compute some of them."""
