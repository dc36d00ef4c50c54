"""A server in a process of its own, and what it costs."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread

import psutil


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Its WebSocket address and its process."""

    url: str
    process: psutil.Process

    def get(self, path: str) -> str:
        """The body of a GET."""
        base = self.url.replace("ws://", "http://").removesuffix("/ws/transcribe")
        with urllib.request.urlopen(base + path, timeout=10) as answer:
            return answer.read().decode()

    def rss_mib(self) -> float:
        return self.process.memory_info().rss / 2**20

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = (line for line in self.get("/metrics").splitlines() if line.startswith(name))
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@contextmanager
def running_server(*flags: str) -> Generator[RunningServer]:
    """Start `stt-server` on a free port; stop it at the end."""
    command = [sys.executable, "-m", "stt_server", "--port", "0", "--log-format", "json", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:  # noqa: TID251
        try:
            url = _wait(process)
            yield RunningServer(url, psutil.Process(process.pid))
        finally:
            process.terminate()


def _wait(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    url = ""
    for line in process.stderr:
        entry = json.loads(line)
        url = entry.get("url", url)
        if entry["event"] == "model.ready":
            Thread(target=process.stderr.read, daemon=True).start()
            return url
    raise RuntimeError("the server did not start")
