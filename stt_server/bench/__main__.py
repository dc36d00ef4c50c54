"""`python -m stt_server.bench`."""

import sys

from stt_server.bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
