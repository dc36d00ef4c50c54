"""The client's side of coming back, alone and against the server's."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stt_server.audio import Ingress
from stt_server.clients.unacknowledged import Unacknowledged
from stt_server.events import Configure
from stt_server.protocols.base import Packet
from stt_server.protocols.native import NativeCodec
from stt_server.protocols.native_config import Abilities
from stt_server.settings import SessionOptions


def kept_of(*messages: str | bytes) -> Unacknowledged:
    kept = Unacknowledged(frame_bytes=2)
    for message in messages:
        kept.add(message)
    return kept


def test_what_is_acknowledged_is_let_go_to_the_sample() -> None:
    kept = kept_of(b"aabbcc", b"ddee")
    kept.acknowledge(2)
    assert list(kept) == [b"cc", b"ddee"]
    kept.acknowledge(2)
    kept.acknowledge(1)
    assert list(kept) == [b"cc", b"ddee"]
    kept.acknowledge(5)
    assert not list(kept)
    assert kept.acked == 5


def test_a_control_message_has_come_when_a_sample_behind_it_has() -> None:
    kept = kept_of("config", b"aabb", "flush", b"cc")
    assert (next(iter(kept)), kept.controls) == ("config", 0)
    kept.acknowledge(2)
    assert (list(kept), kept.controls) == (["flush", b"cc"], 1)
    kept.acknowledge(3)
    assert (list(kept), kept.controls) == ([], 2)


def test_more_than_was_sent_cannot_be_acknowledged() -> None:
    kept = kept_of(b"aa", "flush")
    kept.acknowledge(9)
    assert (list(kept), kept.acked) == (["flush"], 1)


class Server:
    """Takes messages as a session does."""

    def __init__(self) -> None:
        self.codec = NativeCodec(
            session_id="s",
            defaults=SessionOptions(),
            abilities=Abilities(frozenset({"scripted"})),
            max_audio_bytes=2**20,
            query={},
        )
        self.ingress = Ingress()
        self.heard: list[object] = []

    def take(self, message: str | bytes) -> None:
        for event in self.codec.decode(message):
            match event:
                case Packet():
                    for piece in self.ingress.push(event):
                        self.heard += np.round(piece * 32_768).astype(int).tolist()
                case Configure(options=options):
                    self.heard.append(options.language)
                case _:
                    raise AssertionError(event)


@given(
    st.lists(st.one_of(st.none(), st.integers(1, 30)), max_size=25),
    st.data(),
)
def test_whatever_is_lost_the_server_hears_everything_once_and_in_order(
    script: list[int | None], choose: st.DataObject
) -> None:
    """`script`: samples of a packet, or a control message."""
    kept, server, sample = Unacknowledged(frame_bytes=2), Server(), 0
    wanted: list[object] = []
    connected = True
    for number, size in enumerate(script):
        if size is None:
            message: str | bytes = json.dumps({"type": "config", "language": f"l{number}"})
            wanted.append(f"l{number}")
        else:
            values = list(range(sample, sample + size))
            wanted += values
            sample += size
            message = np.array(values, dtype="<i2").tobytes()
        kept.add(message)
        if connected:
            server.take(message)
            kept.acknowledge(choose.draw(st.integers(0, server.ingress.taken)))
            connected = choose.draw(st.booleans())
        elif choose.draw(st.booleans()):
            connected = True
            come_back(kept, server, lost=choose.draw(st.integers(0, 3)))
    come_back(kept, server, lost=0)
    assert server.heard == wanted


def come_back(kept: Unacknowledged, server: Server, *, lost: int) -> None:
    """The last `lost` messages do not arrive; the client does not know and comes once more."""
    repeated = list(kept)
    for messages in (repeated[: len(repeated) - lost], repeated):
        server.codec.repeat(kept.controls)
        server.ingress.rewind(kept.acked)
        for message in messages:
            server.take(message)
