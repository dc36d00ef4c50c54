"""Wire protocols, one file each. Bytes in, events out; no I/O."""
