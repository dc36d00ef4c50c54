"""What holds for every course of a Realtime connection."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stt_server.errors import ErrorCode
from stt_server.events import (
    Clear,
    Flush,
    Hypothesis,
    SpeechStarted,
    StreamError,
    TurnEnded,
    TurnEndReason,
)
from stt_server.protocols.realtime import RealtimeCodec
from stt_server.protocols.tests.realtime_exchange import (
    APPEND,
    BY_CLIENT,
    CLEAR,
    COMMIT,
    TEXT,
    Json,
    asked,
    audio,
    heard,
    new_codec,
    told,
    update,
)

BY_SERVER = {"audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
WORDS = st.lists(st.sampled_from(["the", "quick", "brown", "fox"]), max_size=6)
LOST = StreamError(ErrorCode.TRANSCRIPTION_ERROR, "the model is gone")


@dataclass(frozen=True)
class Turn:
    """One that ends with all its words, or with others."""

    words: list[str]
    growth: list[int]
    """Stable words of each interim, never fewer than before."""
    other_final: list[str] | None
    fails: bool
    is_cleared: bool

    @property
    def final(self) -> str:
        return " ".join(self.words if self.other_final is None else self.other_final)

    def interims(self) -> list[Hypothesis]:
        text = " ".join(self.words)
        stables = (" ".join(self.words[:count]) for count in self.growth)
        return [Hypothesis(0, part, text[len(part) :], (), 0, 1) for part in stables]


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    words = draw(WORDS)
    growth = sorted(draw(st.lists(st.integers(0, len(words)), max_size=4)))
    other = draw(st.none() | WORDS)
    return Turn(words, growth, other, draw(st.booleans()), draw(st.booleans()))


STEPS = st.lists(turns() | st.sampled_from(["commit", "clear", "by client", "by server"]))


@dataclass
class Course:
    """A connection, its stages played as they are promised to behave."""

    codec: RealtimeCodec = field(default_factory=new_codec)
    is_manual: bool = False
    messages: list[Json] = field(default_factory=list)
    finals: list[Turn | None] = field(default_factory=list)
    """Of each item in order; None: of a commit behind which there is no turn."""

    def take(self, step: Any) -> None:
        match step:
            case Turn():
                self.turn(step)
            case "commit":
                if self.is_manual:
                    asked(self.codec, APPEND, audio=audio(2))
                    self.finals.append(None)
                self.tell(*asked(self.codec, COMMIT))
            case "clear":
                self.tell(*asked(self.codec, CLEAR))
            case _:
                self.is_manual = step == "by client"
                self.messages += update(self.codec, BY_CLIENT if self.is_manual else BY_SERVER)

    def turn(self, turn: Turn) -> None:
        self.tell(SpeechStarted(0, opens_turn=True))
        if turn.fails:
            self.tell(LOST)
        self.tell(*turn.interims())
        if turn.is_cleared:
            self.tell(Clear())
            return
        self.finals.append(turn)
        reason = TurnEndReason.COMMIT if self.is_manual else TurnEndReason.SILENCE
        self.tell(TurnEnded(1, reason), heard(turn.final, final=True))
        if self.is_manual:
            self.tell(Flush(reason=reason))

    def tell(self, *events: Any) -> None:
        self.messages += told(self.codec, *events)


@settings(deadline=None)
@given(STEPS)
def test_promises_about_items_and_text(steps: list[Any]) -> None:
    course = Course()
    for step in steps:
        course.take(step)
    messages = course.messages

    events = [message["event_id"] for message in messages]
    assert len(set(events)) == len(events)
    committed = [m for m in messages if m["type"] == "input_audio_buffer.committed"]
    ids = [m["item_id"] for m in committed]
    assert len(set(ids)) == len(ids) == len(course.finals)
    assert [m["previous_item_id"] for m in committed] == [None, *ids][: len(ids)]
    for item, turn in zip(ids, course.finals, strict=True):
        check_item(item, turn, messages)
    check_that_items_do_not_interleave(messages, set(ids))
    assert not [m for m in messages if m["type"] == "error"]


def check_item(item: str, turn: Turn | None, messages: list[Json]) -> None:
    own = [m for m in messages if m.get("item_id", m.get("item", {}).get("id")) == item]
    ends = [m for m in own if m["type"] in (f"{TEXT}.completed", f"{TEXT}.failed")]
    assert ends == own[-1:]
    deltas = [m["delta"] for m in own if "delta" in m]
    assert all(deltas)
    assert all(delta.startswith(" ") for delta in deltas[1:])
    assert not any(delta.startswith(" ") for delta in deltas[:1])
    joined = "".join(deltas)
    if turn is None:
        assert (joined, ends[0]["transcript"]) == ("", "")
    elif turn.fails and not turn.final:
        assert ends[0]["type"] == f"{TEXT}.failed"
    else:
        assert ends[0]["transcript"] == turn.final
        told_words = " ".join(turn.words[: max(turn.growth, default=0)])
        continues = turn.final == told_words or turn.final.startswith(f"{told_words} ".lstrip())
        assert joined == (turn.final if continues else told_words)


def check_that_items_do_not_interleave(messages: list[Json], ids: set[str]) -> None:
    order = [m.get("item_id", m.get("item", {}).get("id")) for m in messages]
    order = [item for item in order if item in ids]
    changes = [item for item, before in zip(order, [None, *order], strict=False) if item != before]
    assert len(changes) == len(ids)
