"""One run of `stt-client`: audio in, text shown and saved, an exit code out."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum
from io import TextIOWrapper

from stt_server.clients.client import Client
from stt_server.clients.devices import InputDevice, choose_device, input_devices
from stt_server.clients.errors import (
    BadAddress,
    ClientError,
    NoAudioDevice,
    OptionsRefused,
    Refused,
    ServerUnreachable,
    UnreadableAudio,
    advised,
)
from stt_server.clients.file import AudioFile, RealTime
from stt_server.clients.lines import Display, JsonOutput, LogOutput, QuietOutput
from stt_server.clients.microphone import Microphone
from stt_server.clients.options import ClientOptions, ClientSettings
from stt_server.clients.portaudio import load_sounddevice
from stt_server.clients.sibling_client import SiblingClient
from stt_server.clients.siblings import FastConformerDialect, ParakeetDialect
from stt_server.clients.streaming import Session, Streaming
from stt_server.protocols.base import AudioFormat
from stt_server.settings import EndpointingMode


class ExitCode(IntEnum):
    """`stt-client --help` and docs/client.md explain them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_SERVER = 3
    NO_DEVICE = 4
    BAD_FILE = 5
    NO_TEXT = 6


def run(arguments: argparse.Namespace) -> ExitCode:
    """Do what the command line asks for; a known failure becomes one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console without ✓
    try:
        if arguments.list_devices:
            return _list_devices()
        if arguments.file is not None:
            return _run_file(arguments)
        return _run_microphone(arguments)
    except ClientError as error:
        _say(f"stt-client: {advised(error)}")
        return _exit_code(error)


def _run_file(arguments: argparse.Namespace) -> ExitCode:
    with AudioFile(arguments.file) as file:
        display = _display(arguments, total_s=file.seconds)
        client = _client(arguments, file.format, display)
        with display:
            streaming = Streaming(client, display, save=arguments.save)
            clock = None if arguments.fast else RealTime()
            asyncio.run(streaming.send_file(file, clock=clock))
    if streaming.failed:
        return ExitCode.FAILED
    if arguments.expect_text and not streaming.transcript.has_text:
        _say("stt-client: no text came")
        return ExitCode.NO_TEXT
    return ExitCode.OK


def _run_microphone(arguments: argparse.Namespace) -> ExitCode:
    sound = load_sounddevice()
    can_ask = sys.stdin.isatty() and sys.stderr.isatty()
    ask = _ask if can_ask else None
    device = choose_device(input_devices(sound), arguments.device, ask=ask)
    microphone = Microphone(sound, device)
    display = _display(arguments, total_s=None)
    client = _client(arguments, microphone.format, display)
    with display:
        streaming = Streaming(client, display, save=arguments.save)
        asyncio.run(streaming.send_microphone(microphone))
    return ExitCode.FAILED if streaming.failed else ExitCode.OK


def _list_devices() -> ExitCode:
    devices = input_devices(load_sounddevice())
    if not devices:
        raise NoAudioDevice("no microphone found")
    for device in devices:
        sys.stdout.write(f"{device}\n")
    return ExitCode.OK


def _ask(devices: Sequence[InputDevice], complaint: str) -> str:
    if complaint:
        _say(complaint)
    for device in devices:
        _say(str(device))
    sys.stderr.write("microphone [*]: ")
    sys.stderr.flush()
    return sys.stdin.readline()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _client(arguments: argparse.Namespace, audio_format: AudioFormat, display: Display) -> Session:
    key = arguments.api_key
    if key is None and (secret := ClientSettings().api_key) is not None:
        key = secret.get_secret_value()
    key = key or None
    match arguments.protocol:
        case "parakeet":
            dialect = ParakeetDialect()
        case "fastconformer":
            dialect = FastConformerDialect()
        case _:
            options = replace(
                _options(arguments),
                sample_rate=audio_format.sample_rate,
                channels=audio_format.channels,
            )
            return Client(arguments.url, api_key=key, options=options, note=display.note)
    silence_ms = arguments.silence_ms
    query = "" if silence_ms is None else f"silence_ms={silence_ms}"
    return SiblingClient(arguments.url, dialect, source=audio_format, query=query, api_key=key)


def _options(arguments: argparse.Namespace) -> ClientOptions:
    words = [word.strip() for words in arguments.vocabulary for word in words.split(",")]
    mode = arguments.endpointing
    return ClientOptions(
        features=("all",),
        interim=False if arguments.no_interim else None,
        segment_finals=True if arguments.segment_finals else None,
        language=arguments.language,
        vocabulary=tuple(word for word in words if word),
        model=arguments.model,
        lookahead_ms=arguments.lookahead_ms,
        endpointing=None if mode is None else EndpointingMode(mode),
        detector=arguments.detector,
        silence_ms=arguments.silence_ms,
        stall_ms=arguments.stall_ms,
        resume=True if not (arguments.fast or arguments.no_resume) else None,
    )


def _display(arguments: argparse.Namespace, *, total_s: float | None) -> Display:
    if arguments.json:
        return JsonOutput(sys.stdout, sys.stderr)
    if arguments.quiet:
        return QuietOutput(sys.stdout, sys.stderr)
    if not sys.stdout.isatty():
        return LogOutput(sys.stdout, sys.stderr)
    from rich.console import Console

    from stt_server.clients.display import LiveDisplay

    return LiveDisplay(Console(), total_s=total_s)


def _exit_code(error: ClientError) -> ExitCode:
    match error:
        case BadAddress():
            return ExitCode.USAGE
        case ServerUnreachable() | Refused() | OptionsRefused():
            return ExitCode.NO_SERVER
        case NoAudioDevice():
            return ExitCode.NO_DEVICE
        case UnreadableAudio():
            return ExitCode.BAD_FILE
        case _:
            return ExitCode.FAILED
