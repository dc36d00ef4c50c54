"""`python -m stt_server`."""

import sys

from stt_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
