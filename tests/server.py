"""A server process for tests: started, listened to, ended."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent
MODULE = (sys.executable, "-m", "stt_server")
OFF = ("--parakeet-port", "0", "--parakeet-status-port", "0", "--no-uploads-warm")
SCRIPTED = ("--model", "scripted", "--port", "0", *OFF, "--log-format", "json")
START_S = 60.0
"""Bound on a start; two busy cores need a few seconds."""


class ServerProcess:
    """A server process and what it has written to stderr so far."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        # The environment is built from nothing, so that no STT_* of the caller gets in.
        self._process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: list[str] = []
        self._grown = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr(self) -> str:
        """Everything so far; all of it once `wait` has returned."""
        with self._grown:
            return "\n".join(self._lines)

    @property
    def http(self) -> str:
        """Base of the HTTP addresses."""
        return self.url.replace("ws://", "http://").removesuffix("/ws/transcribe")

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.http.removeprefix("http://").rpartition(":")
        return host, int(port)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log lines that are JSON."""
        with self._grown:
            return [json.loads(line) for line in self._lines if line.startswith("{")]

    def wait_for_event(self, name: str, *, timeout_s: float = START_S) -> dict[str, Any]:
        """The first log line of that event, now or later."""
        deadline = time.monotonic() + timeout_s
        with self._grown:
            while True:
                for event in self.events:
                    if event["event"] == name:
                        return event
                left = deadline - time.monotonic()
                if left <= 0 or self._ended:
                    raise AssertionError(f"no {name} in the log:\n{self.stderr}")
                self._grown.wait(left)

    def wait_until_ready(self) -> None:
        self.url = self.wait_for_event("server.listening")["url"].replace("0.0.0.0", "127.0.0.1")
        wait_until(lambda: self.get("/ready").status_code == 200, what="/ready")

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return httpx.get(self.http + path, timeout=10.0, trust_env=False, **arguments)

    def open_sessions(self) -> float:
        """`stt_open_sessions` of `/metrics`, summed over protocols."""
        return sum(
            float(line.rpartition(" ")[2])
            for line in self.get("/metrics").text.splitlines()
            if line.startswith("stt_open_sessions{")
        )

    def active_sessions(self) -> int:
        return self.get("/health").json()["active_sessions"]

    def usage(self) -> psutil.Process:
        return psutil.Process(self.pid)

    def tell(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 15.0) -> int:
        """Its exit code; `stderr` is complete afterwards."""
        code = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def end(self) -> None:
        """End it, whatever it is doing."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(5.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self.wait()
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        self._process.stdin.close()
        self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._grown:
                self._lines.append(line.rstrip("\n"))
                self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def run_server(
    *flags: str,
    command: Sequence[str] = (*MODULE, *SCRIPTED),
    env: Mapping[str, str] | None = None,
    wait: bool = True,
) -> Iterator[ServerProcess]:
    """A server that is ready (unless `wait` is false) and that ends with the context."""
    process = ServerProcess([*command, *flags], env or {}, ROOT)
    try:
        if wait:
            process.wait_until_ready()
        yield process
    finally:
        process.end()


def wait_until(condition: Callable[[], bool], *, what: str, timeout_s: float = 60.0) -> None:
    """Ask until it is true: for states of another process that announce themselves nowhere."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def with_engine(engine: str, *, before: str = "") -> tuple[str, ...]:
    """A command that serves with another engine than any that flags can name.

    Args:
        engine: Expression; `Script` and `ScriptedEngine` are there.
        before: Statements ahead of it.
    """
    code = f"""
import sys
from stt_server import app
from stt_server.cli import main
from stt_server.engine.fake import Script, ScriptedEngine
{before}
app.make_engine = lambda settings: {engine}
sys.exit(main())
"""
    return (sys.executable, "-c", code, *SCRIPTED)
