"""The server process: one listening socket, uvicorn around the app, and a polite way out."""

import asyncio
import errno
import gc
import ipaddress
import logging
import socket
import sys
from types import FrameType

import uvicorn

from stt_server import __version__
from stt_server.app import create_app
from stt_server.engine.base import EngineUnavailable
from stt_server.log import configure_logging
from stt_server.parakeet import ParakeetPorts
from stt_server.service import Service, State
from stt_server.settings import (
    LogFormat,
    Settings,
    as_variables,
    client_variables,
    old_variables,
    unknown_variables,
)
from stt_server.settings.section import Section
from stt_server.transport import ImpatientHttpProtocol, PatientWebSocketProtocol

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.001


class DrainingServer(uvicorn.Server):
    """Finishes live turns after the first SIGTERM or SIGINT; a second one stops at once."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        parakeet: ParakeetPorts,
        tcp: tuple[socket.socket | None, socket.socket | None],
    ) -> None:
        """
        Args:
            tcp: Where `parakeet` listens: for streams, and for who asks how many there are.
        """
        super().__init__(config)
        self._service = service
        self._parakeet = parakeet
        self._tcp = tcp
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        await self._parakeet.open(*self._tcp)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._parakeet.close()
        await super().shutdown(sockets=sockets)

    async def on_tick(self, counter: int) -> bool:
        """Uvicorn asks ten times a second whether to go on."""
        if self._service.state is State.FAILED:
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._draining is not None or self._loop is None:
            # Not left to uvicorn, which would raise the signal once more at the end. The engine is
            # stopped properly all the same; only a third signal does without that.
            self.force_exit, self.should_exit = self.should_exit, True
            return
        self._draining = self._loop.create_task(self._drain())
        # A signal handler runs between two instructions of whatever was running: wake the loop.
        self._loop.call_soon_threadsafe(lambda: None)

    async def _drain(self) -> None:
        await self._service.drain()
        self.should_exit = True


def serve(settings: Settings) -> int:
    """Serve until a signal; returns the exit code."""
    configure_logging(settings.log.level, as_json=settings.log.format is LogFormat.JSON)
    _warn(settings)
    host = settings.bind_host
    parakeet, fastconformer = settings.parakeet, settings.fastconformer
    try:
        listener = _listen(host, settings.port, flag="--port")
        tcp = (
            _listen_beside(host, parakeet, "port", "parakeet"),
            _listen_beside(host, parakeet, "status_port", "parakeet status"),
        )
        old = (
            _listen_beside(host, parakeet, "ws_port", "parakeet WebSocket"),
            _listen_beside(host, fastconformer, "port", "fastconformer WebSocket"),
        )
        app = create_app(settings)
    except (OSError, EngineUnavailable) as error:
        logger.error("server.cannot_start", extra={"why": str(error)})
        return 1
    port = listener.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    logger.info(
        "server.listening",
        extra={"url": f"ws://{shown}:{port}/ws/transcribe", "version": __version__},
    )
    service: Service = app.state.service
    ports = ParakeetPorts(service, app.state.parakeet)
    server = DrainingServer(_uvicorn_config(app, settings), service, ports, tcp)
    # The model's thread asks for the interpreter several times per tick; with the default of 5 ms
    # it would wait longer for it than it computes.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _allow_many_files()
    # What was loaded until here stays: the collector need not look at it again.
    gc.freeze()
    with listener:
        server.run(sockets=[listener, *(socket for socket in old if socket)])
    return 1 if service.failure is not None else 0


def _warn(settings: Settings) -> None:
    """Say what in the settings may not be what was meant."""
    for name, meant in unknown_variables().items():
        hint = {"hint": f"did you mean {meant}?"} if meant else {}
        logger.warning("settings.unknown_variable", extra={"variable": name, **hint})
    if old := old_variables():
        instead = " ".join(map(as_variables, old.values()))
        logger.warning("settings.old_variables", extra={"read": list(old), "same_as": instead})
    if settings.auth.api_keys:
        return
    for name in client_variables():
        hint = f"{name} is for clients; the server's keys are STT_AUTH__API_KEYS"
        logger.warning("settings.client_variable", extra={"variable": name, "hint": hint})
    host = settings.bind_host
    if not _is_loopback(host):
        why = "anybody who reaches this address can use the server; set auth.api_keys"
        logger.warning("server.open", extra={"host": host, "why": why})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _allow_many_files() -> None:
    """Every session is a socket, and some systems begin with as few as 256 files."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _listen(host: str, port: int, *, flag: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2_048)
    except OSError as error:
        # Python adds the address to the system's words.
        why = str(error.strerror).partition(" (while attempting")[0]
        if error.errno == errno.EADDRINUSE:
            why += f"; set {flag}, or is another stt-server running?"
        raise OSError(f"cannot listen on {host} port {port}: {why}") from error


def _listen_beside(host: str, section: Section, field: str, protocol: str) -> socket.socket | None:
    """A listener beside the main one; None if it is off, or cannot be had and nobody asked.

    Args:
        protocol: Begins with the section's name.
    """
    port = getattr(section, field)
    if not port:
        return None
    flag = f"--{protocol.partition(' ')[0]}-{field.replace('_', '-')}"
    try:
        listener = _listen(host, port, flag=flag)
    except OSError as error:
        if field in section.model_fields_set:
            raise
        logger.warning("server.port_left_out", extra={"protocol": protocol, "why": str(error)})
        return None
    logger.info("server.also_listening", extra={"protocol": protocol, "port": port})
    return listener


def _uvicorn_config(app: object, settings: Settings) -> uvicorn.Config:
    limits = settings.limits
    return uvicorn.Config(
        app,  # pyright: ignore[reportArgumentType]
        http=ImpatientHttpProtocol,
        ws=PatientWebSocketProtocol,
        ws_max_size=limits.max_message_bytes,
        ws_ping_interval=limits.ping_interval_s,
        ws_ping_timeout=limits.ping_timeout_s,
        # Audio does not compress; trying costs both ends more than it saves.
        ws_per_message_deflate=False,
        access_log=False,
        log_config=None,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=5,
    )
