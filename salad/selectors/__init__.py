"""Selection strategies: numpy in, indices out. One strategy a file; the protocol is in base.py."""
