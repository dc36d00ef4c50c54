"""What a run shows on a terminal: finals scroll by, the open turn and the progress stay below."""

from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stt_server.clients.levels import FLOOR_DB
from stt_server.clients.lines import printable, tail, turn_times
from stt_server.clients.messages import ServerMessage
from stt_server.protocols.native_messages import TranscriptionSegment

_REFRESHES_PER_SECOND = 10
_INTERIM_LINES = 3
_METER_WIDTH = 20


class LiveDisplay:
    """Draws on a terminal until it is left. A file has a length, a microphone has none."""

    def __init__(self, console: Console, *, total_s: float | None) -> None:
        self._console = console
        self._total_s = total_s
        self._interim = ""
        self._sent_s = 0.0
        self._level_db = FLOOR_DB
        self._finishing = False
        self._live = Live(
            get_renderable=self._draw,
            console=console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()
        if self._interim:  # no final came
            self._console.print(Text(f"… {self._interim}", style="cyan"))

    def message(self, message: ServerMessage, text: str) -> None:
        if not isinstance(message, TranscriptionSegment):
            return
        self._interim = "" if message.is_final else printable(message.text)
        self._live.refresh()
        if message.is_final and message.text.strip():
            times = (turn_times(message), "dim")
            self._console.print(Text.assemble(("✓ ", "green"), printable(message.text), times))

    def sent(self, seconds: float, level_db: float | None = None) -> None:
        self._sent_s = seconds
        if level_db is not None:
            self._level_db = level_db

    def finishing(self) -> None:
        self._finishing = True
        self._live.refresh()

    def note(self, text: str) -> None:
        self._console.print(Text(f"! {printable(text)}", style="yellow"))

    def _draw(self) -> Group:
        """Called by rich's own thread."""
        room = self._console.width * _INTERIM_LINES - 8
        interim = Text(f"… {tail(self._interim, room)}" if self._interim else "", style="cyan")
        return Group(interim, self._meter() if self._total_s is None else self._progress())

    def _progress(self) -> Table:
        total = self._total_s or 1.0
        state = "sent, waiting for the last text" if self._finishing else "sent"
        row = Table.grid(padding=(0, 1))
        row.add_column()
        row.add_column(no_wrap=True)
        width = self._console.width // 4
        bar = ProgressBar(total=total, completed=min(self._sent_s, total), width=width)
        row.add_row(bar, f"{self._sent_s:.1f} of {total:.1f} s {state}")
        return row

    def _meter(self) -> Text:
        if self._finishing:
            return Text("waiting for the last text", style="dim")
        lit = round((1 - self._level_db / FLOOR_DB) * _METER_WIDTH)
        style = "red" if lit >= _METER_WIDTH - 1 else "green"
        return Text.assemble(
            ("● ", "red"),
            ("▮" * lit, style),
            ("▯" * (_METER_WIDTH - lit), "dim"),
            f" {self._sent_s:.1f} s ",
            ("Ctrl-C to stop", "dim"),
        )
