import io

import pytest
from rich.console import Console

from stt_server.clients.display import LiveDisplay
from stt_server.clients.lines import JsonOutput, LogOutput, QuietOutput, printable, tail
from stt_server.clients.messages import ServerMessage, parse_message
from stt_server.protocols.native_messages import TranscriptionSegment


def interim(text: str) -> TranscriptionSegment:
    return TranscriptionSegment(text=text, is_final=False, is_end_of_turn=False)


def final(text: str) -> TranscriptionSegment:
    return TranscriptionSegment(text=text, is_final=True, is_end_of_turn=True, start=0.5, end=2.25)


TURN: list[ServerMessage] = [
    interim("please"),
    interim("pleas"),
    interim("please send"),
    final("please send the report"),
    final(""),
    interim("thanks"),
    final("thank you"),
]


def test_a_log_has_interims_that_grew_and_finals_with_times() -> None:
    output = io.StringIO()
    display = LogOutput(output, io.StringIO())
    for message in TURN:
        display.message(message, "")
    assert output.getvalue() == (
        "… please\n"
        "… please send\n"
        "✓ please send the report  (0.50–2.25 s)\n"
        "… thanks\n"
        "✓ thank you  (0.50–2.25 s)\n"
    )


def test_quiet_has_the_finals_alone() -> None:
    output, notes = io.StringIO(), io.StringIO()
    display = QuietOutput(output, notes)
    for message in TURN:
        display.message(message, "")
    display.note("something")
    assert output.getvalue() == "please send the report\nthank you\n"
    assert notes.getvalue() == "! something\n"


def test_json_has_every_message_as_it_came_on_one_line() -> None:
    output = io.StringIO()
    display = JsonOutput(output, io.StringIO())
    for text in ['{"type":"flushed"}', '{"type":\n"flushed"}']:
        display.message(parse_message(text), text)
    assert output.getvalue() == '{"type":"flushed"}\n{"type": "flushed"}\n'


def test_a_server_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\r\nc é ✓") == "a [2Jb  c é ✓"


@pytest.mark.parametrize(
    ("width", "shown"), [(11, "one two six"), (8, "[…] two six"), (7, "[…] six")]
)
def test_tail_begins_with_a_word(width: int, shown: str) -> None:
    assert tail("one two six", width) == shown


def terminal(total_s: float | None) -> tuple[io.StringIO, LiveDisplay]:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=60, height=20, color_system=None)
    return screen, LiveDisplay(console, total_s=total_s)


def test_a_terminal_keeps_the_finals_and_draws_the_progress_of_a_file() -> None:
    screen, display = terminal(total_s=10.0)
    with display:
        display.sent(2.5)
        display.message(interim("[bold]please"), "")
        display.note("a note")
        display.message(final("please send [the] report"), "")
        display.finishing()
    shown = screen.getvalue()
    assert "… [bold]please" in shown
    assert "2.5 of 10.0 s sent" in shown
    assert "! a note" in shown
    assert "✓ please send [the] report  (0.50–2.25 s)" in shown
    assert "waiting for the last text" in shown


def test_a_terminal_shows_the_level_of_a_microphone() -> None:
    screen, display = terminal(total_s=None)
    with display:
        display.sent(1.5, -30.0)
        display.message(interim(""), "")
    assert "▮" * 10 + "▯" * 10 + " 1.5 s" in screen.getvalue()


def test_a_terminal_keeps_text_that_has_no_final_at_its_end() -> None:
    screen, display = terminal(total_s=None)
    with display:
        display.message(final("done"), "")
        display.message(interim("still open"), "")
    assert screen.getvalue().rstrip().endswith("… still open")


def test_a_terminal_keeps_nothing_else_at_its_end() -> None:
    screen, display = terminal(total_s=None)
    with display:
        display.message(interim("don"), "")
        display.message(final("done"), "")
    assert "don\n" not in screen.getvalue().rpartition("✓ done")[2]
