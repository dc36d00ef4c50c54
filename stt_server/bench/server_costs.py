"""What the measured server spends: its metrics, and its processes if they are on this machine."""

import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException
from typing import Any, Self
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from stt_server.clients.address import is_loopback

TIMEOUT_S = 10.0
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram of Prometheus, of a span of time: how many values up to each bound (seconds)."""

    buckets: Mapping[float, float]

    @property
    def count(self) -> float:
        return max(self.buckets.values(), default=0.0)

    def __sub__(self, earlier: Self) -> "Histogram":
        past = earlier.buckets
        return Histogram({bound: n - past.get(bound, 0.0) for bound, n in self.buckets.items()})

    def quantile(self, share: float) -> float | None:
        """Interpolated within its bucket; the largest finite bound if it is beyond; None if empty.

        Args:
            share: 0..1.
        """
        rank = share * self.count
        below, lower = 0.0, 0.0
        for bound, count in sorted(self.buckets.items()):
            if count >= rank and count > below:
                if bound == float("inf"):
                    return lower
                return lower + (bound - lower) * (rank - below) / (count - below)
            below, lower = count, bound
        return None


EMPTY = Histogram({})


@dataclass(frozen=True, slots=True)
class Reading:
    """The server at one moment. None: it cannot be known from here."""

    cpu_s: float | None = None
    rss_mib: float | None = None
    step_lag: Histogram = EMPTY
    step: Histogram = EMPTY
    capacity: int | None = None
    """Sessions at once at most."""


class ServerCosts:
    """Reads one server."""

    def __init__(self, http: str, *, api_key: str | None, pid: int | None) -> None:
        """
        Args:
            http: Address of its pages.
            pid: Of its process; None looks for who listens on the port, if that is a loopback's.
        """
        self._url = f"{http}/metrics"
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._process = _process(http, pid)

    @property
    def knows_process(self) -> bool:
        """Whether CPU and memory are those of the process and its children."""
        return self._process is not None

    def read(self) -> Reading:
        """How things stand."""
        text = self._metrics()
        parsed = Reading() if text is None else parse_metrics(text)
        if self._process is None:
            return parsed
        cpu_s, rss_mib = _usage(self._process)
        return replace(parsed, cpu_s=cpu_s, rss_mib=rss_mib)

    def _metrics(self) -> str | None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            request = urllib.request.Request(self._url, headers=self._headers)
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                return answer.read().decode(errors="replace")
        except (OSError, HTTPException, urllib.error.URLError):
            return None  # another server has no such page, or not for us


def parse_metrics(text: str) -> Reading:
    """What this program uses of a page of metrics."""
    values: dict[str, float] = {}
    buckets: dict[str, dict[float, float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = sample.name.removesuffix("_bucket")
                if "le" in sample.labels:
                    bounds = buckets.setdefault(name, {})
                    bound = float(sample.labels["le"])
                    bounds[bound] = bounds.get(bound, 0.0) + sample.value
                else:
                    values[sample.name] = values.get(sample.name, 0.0) + sample.value
    except ValueError:
        return Reading()  # some other page

    def histogram(name: str) -> Histogram:
        return Histogram(buckets.get(name, {}))

    rss = values.get("process_resident_memory_bytes")
    capacity = values.get("stt_capacity")
    return Reading(
        values.get("process_cpu_seconds_total"),
        None if rss is None else rss / MIB,
        histogram("stt_step_lag_seconds"),
        histogram("stt_step_seconds"),
        None if capacity is None else int(capacity),
    )


def _process(http: str, pid: int | None) -> Any:
    """psutil's, which is optional and knows the processes of this machine alone."""
    try:
        import psutil
    except ImportError:
        return None
    try:
        if pid is None and is_loopback(http):
            port = urlsplit(http).port
            for connection in psutil.net_connections("tcp"):
                listens = connection.status == psutil.CONN_LISTEN
                if listens and connection.laddr and connection.laddr.port == port:
                    pid = connection.pid
        return None if pid is None else psutil.Process(pid)
    except (psutil.Error, OSError):
        return None


def _usage(process: Any) -> tuple[float | None, float | None]:
    """CPU seconds and resident MiB of a process and its children."""
    import psutil

    cpu_s = rss = 0.0
    try:
        for each in (process, *process.children(recursive=True)):
            times = each.cpu_times()
            cpu_s += times.user + times.system
            rss += each.memory_info().rss
    except psutil.Error:
        return None, None
    return cpu_s, rss / MIB
