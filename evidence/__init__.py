"""Does choosing beat chance, by how much, at what cost? `make reproduce` measures it, from nothing (docs/evidence.md)."""
