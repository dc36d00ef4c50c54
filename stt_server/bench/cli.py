"""The command line of `stt-bench`. Everything heavy is loaded after the flags are understood."""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from stt_server.bench.ramp import Ramp
from stt_server.command_line import BriefParser

_EPILOG = """\
exit codes:
  0    done
  1    the load generator itself failed
  2    the command line is wrong
  3    the server cannot be reached, or refuses this client for good
  5    the audio cannot be read
  130  interrupted; what was measured is printed and saved
"""
DEFAULT_LAG_MS = 500.0
BEYOND_CHUNK_MS = 100.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run `stt-bench` and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    fault = _fault(arguments)
    if fault is not None:
        parser.error(fault)
    if arguments.max_lag_ms is None:
        chunk_ms = arguments.chunk_ms
        arguments.max_lag_ms = DEFAULT_LAG_MS if chunk_ms is None else chunk_ms + BEYOND_CHUNK_MS
    try:
        from stt_server.bench.run import run

        return run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1  # whoever read our output has gone


def _parser() -> argparse.ArgumentParser:
    parser = BriefParser(
        prog="stt-bench",
        description="Load a speech-to-text server with live clients and measure what they see.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    server = parser.add_argument_group("server")
    server.add_argument(
        "--url",
        default="ws://127.0.0.1:15751",
        help="host, host:port or URL; its query goes to the server: "
        "'ws://host:15751/ws/transcribe?silence_ms=700' (default: %(default)s)",
    )
    server.add_argument(
        "--protocol",
        choices=("native", "parakeet", "fastconformer"),
        default="native",
        help="what clients speak (default: %(default)s)",
    )
    server.add_argument(
        "--api-key", metavar="KEY", help="API key (default: the variable STT_API_KEY)"
    )
    server.add_argument(
        "--server-pid",
        type=_whole(1, 2**31),
        metavar="PID",
        help="process whose CPU and memory are measured (default: who listens on the port)",
    )
    _add_load(parser)
    limits = parser.add_argument_group("limits", "a ramp ends at the first that is broken")
    limits.add_argument(
        "--max-lag-ms",
        type=_number(1.0, 600_000.0),
        metavar="MS",
        help="lag of interims, p95 (default: --chunk-ms and 100, else 500)",
    )
    limits.add_argument(
        "--chunk-ms",
        type=_number(1.0, 60_000.0),
        metavar="MS",
        help="audio of one step of the model: look-ahead and 80",
    )
    limits.add_argument(
        "--max-refusals",
        type=_whole(0, 10_000),
        default=0,
        metavar="N",
        help="clients turned away (default: %(default)s)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="PATH", help="write everything measured")
    output.add_argument("--png", type=Path, metavar="PATH", help="draw latency against streams")
    return parser


def _add_load(parser: argparse.ArgumentParser) -> None:
    load = parser.add_argument_group("load")
    count = load.add_mutually_exclusive_group()
    count.add_argument(
        "--streams",
        type=_whole(1, 10_000),
        default=10,
        metavar="N",
        help="clients at once, one stage (default: %(default)s)",
    )
    count.add_argument(
        "--ramp",
        type=_ramp,
        metavar="START:MAX[:STEP]",
        help="stages with more and more clients: in equal steps, or without STEP doubled and then "
        "halved between held and not held",
    )
    load.add_argument(
        "--stage-s",
        type=_number(1.0, 86_400.0),
        default=30.0,
        metavar="S",
        help="how long all clients of a stage speak (default: %(default)g)",
    )
    load.add_argument(
        "--audio",
        type=Path,
        metavar="FILE|FOLDER",
        help="what they say: WAV and FLAC, dealt out (default: the bundled conversations)",
    )
    load.add_argument(
        "--pause-s",
        type=_number(0.0, 60.0),
        default=2.0,
        metavar="S",
        help="silence after each file (default: %(default)g)",
    )
    load.add_argument(
        "--packet-ms",
        type=_whole(10, 1_000),
        default=100,
        metavar="MS",
        help="audio in a message (default: %(default)s)",
    )
    load.add_argument(
        "--fast",
        action="store_true",
        help="as fast as the server takes it: throughput instead of lag",
    )
    load.add_argument(
        "--processes",
        type=_whole(1, 64),
        default=1,
        metavar="N",
        help="processes with clients (default: %(default)s)",
    )


def _fault(arguments: argparse.Namespace) -> str | None:
    """What is wrong with flags that are right one by one."""
    for flag in ("json", "png"):
        path: Path | None = getattr(arguments, flag)
        if path is not None and not path.parent.is_dir():
            return f"--{flag} {path}: there is no folder {path.parent}"
    if arguments.png is not None and arguments.fast:
        return "--png draws latency, which --fast does not measure"
    if arguments.png is not None and importlib.util.find_spec("matplotlib") is None:
        return "--png needs matplotlib: pip install matplotlib psutil"
    return None


class _Between:
    """A number of a kind within bounds, for argparse."""

    def __init__(self, kind: type[int] | type[float], low: float, high: float) -> None:
        self._kind, self._low, self._high = kind, low, high

    def __call__(self, text: str) -> float:
        try:
            value = self._kind(text)
        except ValueError:
            value = None
        if value is None or not self._low <= value <= self._high:
            kind = "a whole number" if self._kind is int else "a number"
            raise argparse.ArgumentTypeError(
                f"{text!r}: use {kind} from {self._low:g} to {self._high:g}"
            )
        return value


def _whole(low: int, high: int) -> _Between:
    return _Between(int, low, high)


def _number(low: float, high: float) -> _Between:
    return _Between(float, low, high)


def _ramp(text: str) -> Ramp:
    try:
        return Ramp.parse(text)
    except ValueError as error:
        # A part that is no number says so in Python's words.
        why = "use START:MAX or START:MAX:STEP" if "literal" in str(error) else error
        raise argparse.ArgumentTypeError(f"{text!r}: {why}") from None
