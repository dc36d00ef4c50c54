"""`python -m stt_server.scripts.stt_client [FILE]`: the same as `stt-client`."""

import sys

from stt_server.clients.cli import main

if __name__ == "__main__":
    sys.exit(main())
