"""`stt-bench`: live clients in real time, more and more of them, until a limit is broken."""
