"""A transport over connections of memory, which are lost when a test says so."""

import asyncio
import json
from collections.abc import Callable

import pytest

from stt_server.errors import ClientTooSlow, ResumeFailed
from stt_server.pipeline import Progress
from stt_server.protocols.base import Message
from stt_server.protocols.native import NativeCodec
from stt_server.protocols.native_config import Abilities
from stt_server.protocols.native_resume import Comeback, ResumeOffer
from stt_server.resume import ResumableTransport
from stt_server.resume_tokens import ResumeTokens
from stt_server.session import ClientGone, Reattached
from stt_server.settings import ResumeSettings, SessionOptions

WINDOW_S = 15.0
START = Comeback(0, 0, 0)
FINAL = '{"text":"%s","isFinal":true,"isEndOfTurn":true}'


class MemoryConnection:
    """A `Connection`."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self.messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self.sent: list[str] = []
        self.is_gone = self.is_detached = self.is_half_closed = False
        self.may_return = True
        self.pinged_at = self.lost_at = 0.0
        self.closed: tuple[int, str] | None = None
        self.left: tuple[int, str] | None = None
        self.answer: Callable[[], None] = lambda: None
        self.writable = asyncio.Event()
        self.writable.set()
        self._clock = clock
        self._lost = asyncio.Event()
        self._has_read_all = False

    async def receive(self) -> Message | None:
        return await self.messages.get()

    async def send(self, message: Message) -> None:
        await self.writable.wait()
        if self.is_gone:
            raise ClientGone
        assert isinstance(message, str)
        self.sent.append(message)

    async def close(self, code: int, reason: str) -> None:
        if self.is_gone:
            raise ClientGone
        self.closed = code, reason

    def leave(self, code: int, reason: str) -> None:
        self.left = code, reason
        self.lose()

    def probe(self, on_answer: Callable[[], None]) -> None:
        self.answer = on_answer

    async def wait_until_lost(self) -> bool:
        await self._lost.wait()
        return self._has_read_all

    def lose(self, *, has_read_all: bool = False) -> None:
        if not self.is_gone:
            self.is_gone, self.lost_at, self._has_read_all = True, self._clock(), has_read_all
            self.messages.put_nowait(None)
            self.writable.set()
            self._lost.set()

    @property
    def texts(self) -> list[str]:
        return [json.loads(message).get("text", "-") for message in self.sent]


class Bench:
    """A session's transport, its first connection, and the time."""

    def __init__(
        self,
        *,
        resumes: bool = True,
        buffer_kib: int = 16,
        window_s: float = WINDOW_S,
        send_timeout_s: float = 20.0,
    ) -> None:
        self.now = 100.0
        self.first = self.connection()
        self.tokens = ResumeTokens("s-1")
        self.progress = Progress()
        self.codec = NativeCodec(
            session_id="s-1",
            defaults=SessionOptions(),
            abilities=Abilities(frozenset({"scripted"}), resume=True),
            max_audio_bytes=2**20,
            query={"resume": "true"} if resumes else {},
            resume=ResumeOffer(self.tokens.current, WINDOW_S),
        )
        self.transport = ResumableTransport(
            self.first,
            "s-1",
            self.codec,
            self.tokens,
            self.progress,
            settings=ResumeSettings(window_s=window_s, buffer_kib=buffer_kib),
            send_timeout_s=send_timeout_s,
            clock=lambda: self.now,
        )

    def connection(self) -> MemoryConnection:
        return MemoryConnection(clock=lambda: self.now)

    async def attach(self, connection: MemoryConnection, comeback: Comeback) -> asyncio.Task[None]:
        token = self.tokens.current
        self.transport.admit(token, comeback)
        task = asyncio.ensure_future(self.transport.attach(connection, token, comeback))
        await settle()
        return task


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def send_many(bench: Bench) -> None:
    for number in range(1_000):
        await bench.transport.send(FINAL % number)


async def test_without_the_wish_to_resume_nothing_is_added() -> None:
    bench = Bench(resumes=False)
    await bench.transport.send(FINAL % "one")
    assert bench.first.sent == [FINAL % "one"]
    bench.first.lose()
    assert bench.transport.is_gone
    assert not bench.transport.is_detached
    assert await bench.transport.receive() is None
    with pytest.raises(ClientGone):
        await bench.transport.send(FINAL % "two")
    with pytest.raises(ClientGone):
        await bench.transport.close(1000, "")


async def test_messages_wait_for_the_client_and_come_in_order() -> None:
    bench = Bench()
    await bench.transport.send(FINAL % "one")
    bench.first.lose()
    await bench.transport.send(FINAL % "two")
    await bench.transport.send(FINAL % "three")
    assert bench.transport.is_detached
    assert not bench.transport.is_gone

    second = bench.connection()
    await bench.attach(second, Comeback(0, 0, 1))
    await bench.transport.send(FINAL % "four")

    assert second.texts == ["-", "two", "three", "four"]
    assert json.loads(second.sent[0])["type"] == "resumed"
    assert [json.loads(message)["messageId"] for message in second.sent[1:]] == [1, 2, 3]
    assert not bench.transport.is_detached


async def test_new_messages_wait_behind_those_that_are_repeated() -> None:
    bench = Bench()
    bench.first.lose()
    await bench.transport.send(FINAL % "one")
    second = bench.connection()
    second.writable.clear()
    await bench.attach(second, START)
    sending = asyncio.ensure_future(bench.transport.send(FINAL % "two"))
    closing = asyncio.ensure_future(bench.transport.close(1000, ""))
    await settle()
    assert not second.sent
    assert second.closed is None
    second.writable.set()
    await sending
    await settle()
    second.lose(has_read_all=True)
    await closing
    assert second.texts == ["-", "one", "two"]
    assert second.closed == (1000, "")


async def test_a_long_repetition_that_is_read_holds_nothing_up() -> None:
    bench = Bench()
    bench.first.lose()
    await bench.transport.send(FINAL % "one")
    second = bench.connection()
    second.writable.clear()
    await bench.attach(second, START)
    async with asyncio.timeout(5):
        await bench.transport.send(FINAL % "two")
    assert not second.sent
    second.writable.set()
    await settle()
    assert second.texts == ["-", "one", "two"]


async def test_who_does_not_keep_up_with_a_repetition_is_waited_for() -> None:
    bench = Bench(buffer_kib=16)
    second = bench.connection()
    second.writable.clear()
    await bench.attach(second, START)
    sending = asyncio.ensure_future(send_many(bench))
    await settle()
    assert not sending.done()
    second.writable.set()
    await sending
    await settle()
    assert second.texts == ["-", *map(str, range(1_000))]


async def test_who_reads_nothing_of_a_repetition_is_left_and_may_come_back() -> None:
    bench = Bench(send_timeout_s=0.02)
    bench.first.lose()
    await bench.transport.send(FINAL % "one")
    second, third = bench.connection(), bench.connection()
    second.writable.clear()
    token = bench.tokens.current
    async with asyncio.timeout(10):
        await bench.transport.attach(second, token, START)
    assert second.left == (1013, "messages were not read in time")
    assert not bench.transport.is_gone
    await bench.attach(third, START)
    assert third.texts == ["-", "one"]


async def test_reading_goes_on_with_the_next_connection() -> None:
    bench = Bench()
    bench.first.messages.put_nowait(b"aa")
    assert await bench.transport.receive() == b"aa"
    reading = asyncio.ensure_future(bench.transport.receive())
    bench.first.lose()
    await settle()
    assert not reading.done()
    second = bench.connection()
    second.messages.put_nowait(b"bb")
    bench.progress.taken = 9
    await bench.attach(second, Comeback(5, 0, 0))
    assert await reading == Reattached(5)
    assert await bench.transport.receive() == b"bb"


async def test_what_the_old_connection_has_brought_is_taken_first() -> None:
    bench = Bench()
    bench.first.messages.put_nowait(b"aa")
    second = bench.connection()
    second.messages.put_nowait(b"bb")
    await bench.attach(second, START)
    assert bench.first.left is not None
    received = [await bench.transport.receive() for _ in range(3)]
    assert received == [b"aa", Reattached(0), b"bb"]


async def test_only_the_newest_of_several_connections_counts() -> None:
    bench = Bench()
    second, third = bench.connection(), bench.connection()
    second.messages.put_nowait(b"bb")
    third.messages.put_nowait(b"cc")
    await bench.attach(second, START)
    await bench.attach(third, START)
    received = [await bench.transport.receive() for _ in range(2)]
    assert received == [Reattached(0), b"cc"]


async def test_a_client_that_stays_away_is_gone() -> None:
    bench = Bench()
    bench.now += 50
    bench.first.lose()
    bench.now += WINDOW_S - 0.1
    assert not bench.transport.is_gone
    bench.now += 0.2
    assert bench.transport.is_gone
    with pytest.raises(ResumeFailed):
        bench.transport.admit(bench.tokens.current, START)


async def test_a_client_that_left_on_purpose_is_gone_at_once() -> None:
    bench = Bench()
    bench.first.may_return = False
    bench.first.lose()
    assert bench.transport.is_gone
    assert await bench.transport.receive() is None


async def test_no_more_is_kept_than_there_is_room_for() -> None:
    bench = Bench(buffer_kib=16)
    bench.first.lose()
    with pytest.raises(ClientTooSlow):
        await send_many(bench)
    second = bench.connection()
    await bench.attach(second, START)
    assert sum(map(len, second.sent)) < 17 * 1_024
    assert second.texts[1:4] == ["0", "1", "2"]


async def test_a_long_session_is_no_burden_and_its_client_may_come_back() -> None:
    bench = Bench(buffer_kib=16)
    await send_many(bench)
    bench.first.lose()
    with pytest.raises(ResumeFailed, match="not kept"):
        bench.transport.admit(bench.tokens.current, START)
    second = bench.connection()
    await bench.attach(second, Comeback(0, 0, 990))
    assert second.texts[1:] == [str(number) for number in range(990, 1_000)]


@pytest.mark.parametrize(
    "comeback", [Comeback(101, 0, 0), Comeback(0, 3, 0), Comeback(0, 0, 2)], ids=str
)
async def test_nobody_can_have_got_more_than_there_was(comeback: Comeback) -> None:
    bench = Bench()
    bench.progress.taken = 100
    bench.codec.decode('{"type":"flush"}')
    bench.codec.decode('{"type":"flush"}')
    await bench.transport.send(FINAL % "one")
    bench.transport.admit(bench.tokens.current, Comeback(100, 2, 1))
    with pytest.raises(ResumeFailed):
        bench.transport.admit(bench.tokens.current, comeback)


async def test_an_old_connection_confirms_no_new_token() -> None:
    bench = Bench()
    first_token = bench.tokens.current
    second, third = bench.connection(), bench.connection()
    await bench.attach(second, START)
    bench.transport.admit(first_token, START)
    attaching = asyncio.ensure_future(bench.transport.attach(third, first_token, START))
    await settle()
    second.answer()
    assert bench.tokens.accepts(first_token)
    third.answer()
    assert not bench.tokens.accepts(first_token)
    third.lose()
    await attaching


async def test_the_end_waits_until_the_client_has_read_it() -> None:
    bench = Bench()
    await bench.transport.send(FINAL % "one")
    closing = asyncio.ensure_future(bench.transport.close(1000, ""))
    await settle()
    assert bench.first.closed == (1000, "")
    bench.first.lose()
    await settle()
    assert not closing.done()
    second = bench.connection()
    attached = await bench.attach(second, START)
    assert second.texts == ["-", "one"]
    assert second.closed == (1000, "")
    second.lose(has_read_all=True)
    await closing
    await attached


async def test_the_end_does_not_wait_for_ever() -> None:
    bench = Bench(window_s=0.02)
    async with asyncio.timeout(10):
        await bench.transport.close(1000, "bye")
    bench.transport.release()
    assert bench.first.left == (1000, "bye")


async def test_a_session_that_was_cut_off_gives_its_connection_back() -> None:
    bench = Bench()
    bench.transport.release()
    assert bench.first.left == (1012, "the session was ended")
