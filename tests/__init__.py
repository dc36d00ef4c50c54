"""End to end: a real server process, real sockets, real audio."""
