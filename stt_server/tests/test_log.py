"""Log lines: event names with fields, and the session on each."""

import json
import logging
import sys
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest

from stt_server.log import ConsoleFormatter, JsonFormatter, configure_logging, session_id


@pytest.fixture
def _logging_restored() -> Iterator[None]:
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn")
    handlers, levels = root.handlers[:], (root.level, uvicorn.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    uvicorn.setLevel(levels[1])


def record(message: str = "session.closed", **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("stt_server.session", logging.INFO, __file__, 1, message, None, None)
    made.created = 0.25
    vars(made).update(fields)
    return made


def in_session(name: str, formatter: logging.Formatter, line: logging.LogRecord) -> str:
    def run() -> str:
        session_id.set(name)
        return formatter.format(line)

    return copy_context().run(run)


def as_json(line: logging.LogRecord) -> dict[str, Any]:
    return json.loads(JsonFormatter().format(line))


def test_json_line_has_the_event_and_its_fields() -> None:
    assert as_json(record(audio_s=12.4, reason="client")) == {
        "time": "1970-01-01T00:00:00.250+00:00",
        "level": "INFO",
        "logger": "stt_server.session",
        "event": "session.closed",
        "audio_s": 12.4,
        "reason": "client",
    }


def test_json_line_names_its_session() -> None:
    line = in_session("s-1", JsonFormatter(), record())

    assert json.loads(line)["session_id"] == "s-1"


def test_json_event_is_one_line_whatever_it_says() -> None:
    assert len(JsonFormatter().format(record("a\nb", text="c\nd")).splitlines()) == 1


def test_json_line_shows_objects_it_does_not_know_as_text() -> None:
    assert as_json(record(path=ValueError("why")))["path"] == "why"


@pytest.mark.parametrize("formatter", [JsonFormatter(), ConsoleFormatter()])
def test_failure_comes_with_its_traceback(formatter: logging.Formatter) -> None:
    line = record("session.failed")
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError:
        line.exc_info = sys.exc_info()

    shown = formatter.format(line)

    assert "Traceback" in shown
    assert "ZeroDivisionError: by zero" in shown


def test_console_line_shows_the_fields_behind_the_event() -> None:
    line = ConsoleFormatter().format(record(audio_s=12.4, reason="client"))

    assert line.endswith(" INFO    session.closed  audio_s=12.4 reason=client")


def test_console_line_without_fields_ends_with_the_event() -> None:
    assert ConsoleFormatter().format(record()).endswith("session.closed")


def test_console_line_names_its_session_first() -> None:
    line = in_session("s-1", ConsoleFormatter(), record(reason="client"))

    assert line.endswith("session.closed  session_id=s-1 reason=client")


@pytest.mark.usefixtures("_logging_restored")
@pytest.mark.parametrize("json_lines", [True, False])
def test_configured_logging_writes_to_stderr(
    capsys: pytest.CaptureFixture[str], json_lines: bool
) -> None:
    configure_logging("INFO", as_json=json_lines)
    logging.getLogger("stt_server.any").info("engine.started", extra={"load_s": 0.5})
    logging.getLogger("stt_server.any").debug("engine.detail")

    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "engine.started" in err
    assert err.startswith("{") == json_lines


@pytest.mark.usefixtures("_logging_restored")
def test_lines_of_the_web_server_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG", as_json=False)
    logging.getLogger("uvicorn.error").info("connection open")

    assert capsys.readouterr().err == ""
