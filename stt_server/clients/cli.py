"""The command line of `stt-client`. Everything heavy is loaded after the flags are understood."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from stt_server.command_line import BriefParser

SAVE_SUFFIXES = (".txt", ".srt", ".vtt", ".json")
_NATIVE_ONLY = (
    "language",
    "model",
    "vocabulary",
    "lookahead_ms",
    "stall_ms",
    "endpointing",
    "detector",
    "no_interim",
    "segment_finals",
    "no_resume",
)

_EPILOG = """\
exit codes:
  0    everything was transcribed
  1    the server failed or the connection was lost; what came before is shown and saved
  2    the command line is wrong
  3    the server cannot be reached, or refuses this client or its options
  4    no microphone
  5    the file cannot be read
  6    --expect-text: no text came
  130  interrupted (with the microphone, Ctrl-C asks for the last text and ends with 0)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `stt-client` and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    fault = _fault(arguments)
    if fault is not None:
        parser.error(fault)
    try:
        from stt_server.clients.run import run

        return run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; what is left of it must not be tried again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = BriefParser(
        prog="stt-client",
        description="Transcribe a sound file or the microphone with a speech-to-text server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="sound file: WAV, FLAC, MP3, OGG; any rate. Without it the microphone is used",
    )
    _add_server(parser)
    _add_session(parser)
    _add_output(parser)
    audio = parser.add_argument_group("audio")
    audio.add_argument(
        "--fast", action="store_true", help="send the file as fast as the server takes it"
    )
    audio.add_argument("--list-devices", action="store_true", help="list the microphones and exit")
    audio.add_argument("--device", metavar="N|NAME", help="microphone: number or part of the name")
    return parser


def _add_server(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument(
        "--url",
        default="ws://127.0.0.1:15751",
        help="host, host:port or ws, wss, http, https URL; for parakeet also tcp://host:port "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--protocol",
        choices=("native", "parakeet", "fastconformer"),
        default="native",
        help="what to speak; the others know fewer options (default: %(default)s)",
    )
    group.add_argument(
        "--api-key", metavar="KEY", help="API key (default: the variable STT_API_KEY)"
    )


def _add_session(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("session", "what is not given is the server's choice")
    group.add_argument("--language", metavar="TAG", help="language hint, such as en-US")
    group.add_argument("--model", metavar="NAME", help="one of the server's models")
    group.add_argument(
        "--vocabulary",
        metavar="WORDS",
        action="append",
        default=[],
        help="expected words or phrases, separated by commas; may be repeated",
    )
    group.add_argument(
        "--lookahead-ms", type=int, metavar="MS", help="latency the model may trade for accuracy"
    )
    group.add_argument("--silence-ms", type=int, metavar="MS", help="silence that ends a turn")
    group.add_argument(
        "--stall-ms", type=int, metavar="MS", help="time without audio that ends a turn; 0 = never"
    )
    group.add_argument(
        "--endpointing",
        choices=("vad", "none"),
        help="none: one turn, which ends with the audio",
    )
    group.add_argument(
        "--detector",
        metavar="NAME",
        help="what may end a turn earlier: silence, eou or smart-turn",
    )
    group.add_argument("--no-interim", action="store_true", help="final text only")
    group.add_argument(
        "--segment-finals", action="store_true", help="final pieces inside long turns, too"
    )
    group.add_argument(
        "--no-resume",
        action="store_true",
        help="end when the connection is lost; otherwise live audio goes on over a new one",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", action="store_true", help="every server message on stdout, one per line"
    )
    group.add_argument("--quiet", action="store_true", help="only the final texts on stdout")
    group.add_argument(
        "--save",
        metavar="PATH",
        type=Path,
        action="append",
        default=[],
        help=f"write the transcript; the suffix is the format: {' '.join(SAVE_SUFFIXES)}; "
        "may be repeated",
    )
    group.add_argument(
        "--expect-text", action="store_true", help="with FILE: exit code 6 if no text comes"
    )


def _fault(arguments: argparse.Namespace) -> str | None:
    """What is wrong with flags that are right one by one."""
    if arguments.file is None:
        for flag in ("fast", "expect_text"):
            if getattr(arguments, flag):
                return f"--{flag.replace('_', '-')} needs a FILE"
    elif arguments.device is not None or arguments.list_devices:
        return "--device and --list-devices are for the microphone, not for a FILE"
    if arguments.url.strip().startswith("tcp:") and arguments.protocol != "parakeet":
        return f"--url {arguments.url}: raw TCP is for --protocol parakeet"
    if arguments.protocol != "native":
        unknown = [*_NATIVE_ONLY, *(["silence_ms"] if arguments.protocol == "parakeet" else [])]
        for flag in unknown:
            if getattr(arguments, flag) not in (None, False, []):
                return f"--{flag.replace('_', '-')}: the {arguments.protocol} protocol has no such"
        for path in arguments.save:
            if path.suffix.lower() in (".srt", ".vtt"):
                return f"--save {path}: the {arguments.protocol} protocol has no times"
    for path in arguments.save:
        if path.suffix.lower() not in SAVE_SUFFIXES:
            return f"--save {path}: the suffix must be one of {' '.join(SAVE_SUFFIXES)}"
        if not path.parent.is_dir():
            return f"--save {path}: there is no folder {path.parent}"
    return None
