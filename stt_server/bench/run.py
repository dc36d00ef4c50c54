"""One run of `stt-bench`: stages, the table, files, an exit code."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from stt_server.bench.clips import Playlist, load_round
from stt_server.bench.live import Manner, converse, first_failure, was_turned_away
from stt_server.bench.measured import Measured
from stt_server.bench.observer import NEVER
from stt_server.bench.picture import draw
from stt_server.bench.ramp import Ramp
from stt_server.bench.report import heading, line, remarks, to_json
from stt_server.bench.server_costs import ServerCosts
from stt_server.bench.stage import Limits, LoadProcesses, Plan, StageResult, run_stage
from stt_server.bench.target import ProtocolName, Target
from stt_server.clients.errors import BadAddress, ClientError, UnreadableAudio, advised
from stt_server.clients.options import ClientSettings


class ExitCode(IntEnum):
    """`stt-bench --help` and docs/bench.md explain them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_SERVER = 3
    BAD_FILE = 5
    INTERRUPTED = 130


@dataclass(slots=True)
class Findings:
    """The stages so far, and whether Ctrl-C ended them."""

    rows: list[StageResult] = field(default_factory=list[StageResult])
    interrupted: bool = False


def run(arguments: argparse.Namespace) -> ExitCode:
    """Do what the command line asks for; a known failure becomes one line on stderr."""
    try:
        plan = _plan(arguments)
        audio = load_round(plan.audio, pause_s=plan.pause_s)
        asyncio.run(_knock(plan.target, Playlist(audio, 0)))
    except ClientError as error:
        _say(f"stt-bench: {advised(error)}")
        return _exit_code(error)
    ramp = arguments.ramp or Ramp(arguments.streams, arguments.streams)
    costs = ServerCosts(plan.target.http, api_key=plan.target.api_key, pid=arguments.server_pid)
    sys.stdout.write(heading(counts_children=costs.knows_process) + "\n")
    findings = Findings()
    try:
        climb(plan, ramp, costs, findings, show=_print_row)
    except BrokenProcessPool:
        _say("stt-bench: a process with clients died: is there enough memory?")
        return ExitCode.FAILED
    except TimeoutError:
        _say("stt-bench: a process with clients hangs")
        return ExitCode.FAILED
    finally:
        fault = _conclude(arguments, plan, findings)
    if fault is not None:
        _say(f"stt-bench: {fault}")
        return ExitCode.FAILED
    return ExitCode.INTERRUPTED if findings.interrupted else ExitCode.OK


def climb(
    plan: Plan,
    ramp: Ramp,
    costs: ServerCosts,
    findings: Findings,
    *,
    show: Callable[[StageResult], None],
) -> None:
    """Run the stages of a ramp; `findings` has those that are done, whatever happens."""
    tried: dict[int, bool] = {}
    with LoadProcesses(plan.processes) as processes:
        while not findings.interrupted and (streams := ramp.next(tried)) is not None:
            row, findings.interrupted = run_stage(plan, streams, processes, costs)
            findings.rows.append(row)
            tried[streams] = row.broken_by is None
            show(row)


def _plan(arguments: argparse.Namespace) -> Plan:
    key = arguments.api_key
    if key is None and (secret := ClientSettings().api_key) is not None:
        key = secret.get_secret_value()
    return Plan(
        target=Target(arguments.url, ProtocolName(arguments.protocol), key or None),
        limits=Limits(arguments.max_lag_ms, arguments.chunk_ms, arguments.max_refusals),
        audio=arguments.audio,
        pause_s=arguments.pause_s,
        packet_ms=arguments.packet_ms,
        stage_s=arguments.stage_s,
        fast=arguments.fast,
        processes=arguments.processes,
    )


async def _knock(target: Target, speech: Playlist) -> None:
    """Come and go once, so that a wrong address, key or option is one sentence and not a table of
    errors.

    Raises:
        ClientError: no client will ever be served there.
    """
    nothing = Manner(packet_samples=1, samples=0)
    found: list[ClientError] = []
    try:
        await converse(
            target,
            speech,
            nothing,
            lambda timeline: target.observer(timeline, NEVER, Measured(), speech.speech_end),
            asyncio.Event(),
        )
    except* ClientError as group:
        found.append(first_failure(group))
    # A server that is full for now is one for the stages to count.
    if found and not was_turned_away(found[0]):
        raise found[0]


def _conclude(arguments: argparse.Namespace, plan: Plan, findings: Findings) -> str | None:
    """Say what the rows mean and save them; what went wrong with that."""
    rows = findings.rows
    if not rows:
        return None
    for remark in remarks(rows, plan.limits, is_live=not plan.fast):
        sys.stdout.write(f"{remark}\n")
    about: dict[str, Any] = {
        "url": plan.target.url.partition("?")[0],
        "protocol": plan.target.protocol,
        "stage_s": plan.stage_s,
        "packet_ms": plan.packet_ms,
        "fast": plan.fast,
        "processes": plan.processes,
        "interrupted": findings.interrupted,
    }
    try:
        if arguments.json is not None:
            text = json.dumps(to_json(rows, plan.limits, about), indent=2)
            arguments.json.write_text(f"{text}\n", encoding="utf-8")
        if arguments.png is not None:
            title = f"{plan.target.protocol}, {plan.stage_s:g} s each"
            draw(rows, plan.limits, arguments.png, title=title)
    except OSError as error:
        return f"cannot write {error.filename}: {error.strerror or error}"
    return None


def _print_row(row: StageResult) -> None:
    sys.stdout.write(line(row) + "\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _exit_code(error: ClientError) -> ExitCode:
    match error:
        case BadAddress():
            return ExitCode.USAGE
        case UnreadableAudio():
            return ExitCode.BAD_FILE
        case _:
            return ExitCode.NO_SERVER
