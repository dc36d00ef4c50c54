"""`python stt_server/server.py`, also from a checkout that is not installed."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts this file's own folder first, where `events.py` and others are no packages.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

    from stt_server.cli import main

    sys.exit(main())
