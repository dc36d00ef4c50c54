"""What is kept for a client that comes back: everything but what it can do without, in bounds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_server.resume_replay import ReplayBuffer


def segment(text: str, *, final: bool) -> str:
    fields = {"text": text, "isFinal": final, "isEndOfTurn": final}
    return json.dumps(fields, separators=(",", ":"))


INTERIM = segment("one two", final=False)
FINAL = segment("one two three", final=True)
EVENT = '{"type":"endOfTurn","turnId":0}'


def buffer_of(*messages: str, max_bytes: int = 2**20) -> ReplayBuffer:
    buffer = ReplayBuffer(max_bytes)
    for number, message in enumerate(messages):
        buffer.add(message, ack_samples=number * 100)
    return buffer


def kept(buffer: ReplayBuffer, number: int = 0) -> list[dict[str, object]]:
    """What a client gets that has the messages before `number`."""
    found: list[dict[str, object]] = []
    while (next_one := buffer.first_from(number)) is not None:
        number, text = next_one
        found.append(json.loads(text))
        assert found[-1]["messageId"] == number
        number += 1
    return found


def test_messages_carry_their_number_and_the_samples_that_were_taken() -> None:
    assert kept(buffer_of(EVENT, FINAL)) == [
        json.loads(EVENT) | {"messageId": 0, "ackSamples": 0},
        json.loads(FINAL) | {"messageId": 1, "ackSamples": 100},
    ]


def test_an_interim_is_let_go_for_the_segment_that_follows_it() -> None:
    buffer = buffer_of(INTERIM, INTERIM, FINAL, INTERIM, EVENT, INTERIM)
    assert [message["messageId"] for message in kept(buffer)] == [2, 4, 5]
    assert buffer.can_repeat_from(0)


@pytest.mark.parametrize("text", ['"isFinal":false,"isEndOfTurn":', '{"text":"', "\\"])
def test_what_a_final_says_does_not_make_it_an_interim(text: str) -> None:
    buffer = buffer_of(segment(text, final=True), FINAL)
    assert [message["messageId"] for message in kept(buffer)] == [0, 1]


def test_a_client_gets_what_it_does_not_have() -> None:
    buffer = buffer_of(FINAL, FINAL, FINAL)
    assert [message["messageId"] for message in kept(buffer, 2)] == [2]
    assert not kept(buffer, 3)
    assert buffer.can_repeat_from(3)
    assert not buffer.can_repeat_from(4)


def test_what_a_client_has_is_forgotten() -> None:
    buffer = buffer_of(FINAL, FINAL, FINAL)
    buffer.forget(2)
    assert [message["messageId"] for message in kept(buffer)] == [2]
    assert not buffer.can_repeat_from(1)


def test_the_oldest_of_what_was_sent_makes_room() -> None:
    buffer = buffer_of(*[FINAL] * 10, max_bytes=1_000)
    buffer.shrink(9)
    left = kept(buffer)
    assert left
    assert sum(len(json.dumps(message)) for message in left) <= 600
    assert not buffer.can_repeat_from(0)
    assert buffer.can_repeat_from(int(str(left[0]["messageId"])))


def test_room_is_counted_as_it_is_on_the_wire() -> None:
    text = segment("", final=True).replace('""', '"%s"' % ("\u00e4" * 600))
    assert buffer_of(text, max_bytes=1_200).is_full
    buffer = buffer_of(text, text, max_bytes=1_200)
    buffer.forget(2)
    assert not buffer.is_full


def test_what_was_not_sent_stays() -> None:
    buffer = buffer_of(*[FINAL] * 20, max_bytes=1_000)
    buffer.shrink(3)
    assert len(kept(buffer)) == 17
    assert buffer.is_full


@given(
    st.lists(st.sampled_from([INTERIM, FINAL, EVENT]), max_size=40),
    st.lists(st.integers(0, 45), max_size=5),
    st.integers(0, 3_000),
)
def test_no_final_or_event_is_lost_to_a_client_that_may_come_back(
    messages: list[str], has: list[int], max_bytes: int
) -> None:
    buffer = ReplayBuffer(max_bytes)
    for number, message in enumerate(messages):
        buffer.add(message, ack_samples=0)
        if number % 7 == 6:
            buffer.shrink(number)
    assert buffer.next_number == len(messages)
    for number in has:
        if buffer.can_repeat_from(number):
            expected = [
                at for at, message in enumerate(messages) if at >= number and message != INTERIM
            ]
            got = [message["messageId"] for message in kept(buffer, number)]
            assert [at for at in got if messages[int(str(at))] != INTERIM] == expected
