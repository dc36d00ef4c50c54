"""`make demo`: a server with the embedded recogniser, and the real client speaking a clip to it."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from threading import Thread
from time import monotonic, sleep

START_TIMEOUT_S = 60.0


def main(argv: Sequence[str]) -> int:
    """Exit code 0 if the client got a final text."""
    ports = ("--port=0", "--parakeet-port=0", "--parakeet-status-port=0")
    command = [sys.executable, "-m", "stt_server", *ports, "--log-format", "json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = _wait_until_ready(server)
            if url is None:
                print("demo: the server did not start", file=sys.stderr)  # noqa: T201
                return 1
            client = [sys.executable, "-m", "stt_server.scripts.stt_client"]
            return subprocess.call([*client, "--url", url, "--expect-text", *argv])
        finally:
            server.terminate()


def _wait_until_ready(server: "subprocess.Popen[str]") -> str | None:
    """Follow the server's log to its address, then ask until it is ready."""
    assert server.stderr is not None
    url = None
    for line in server.stderr:
        entry = _entry(line)
        print(f"server: {entry.get('event', line.strip())} {_details(entry)}".rstrip())  # noqa: T201
        if entry.get("event") == "server.listening":
            url = str(entry["url"])
        if entry.get("event") == "model.ready":
            break
    Thread(target=server.stderr.read, daemon=True).start()  # an unread pipe would block it
    deadline = monotonic() + START_TIMEOUT_S
    while url is not None and server.poll() is None and monotonic() < deadline:
        if _is_ready(url):
            return url
        sleep(0.1)
    return None


def _is_ready(url: str) -> bool:
    ready_url = url.replace("ws://", "http://").replace("/ws/transcribe", "/ready")
    try:
        with urllib.request.urlopen(ready_url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _entry(line: str) -> dict[str, object]:
    try:
        return json.loads(line)
    except ValueError:
        return {}


def _details(entry: dict[str, object]) -> str:
    shown = ("url", "model", "about", "why", "error", "max_sessions")
    return ", ".join(f"{key}: {entry[key]}" for key in shown if key in entry)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
