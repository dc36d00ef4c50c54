"""Models that fail, clients that misbehave, clocks that jump: nobody hangs, nothing leaks, and the
others finish with the right words."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress

import pytest
import soundfile
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from stt_server import Settings, create_app
from stt_server.engine.nemo import NemoEngine
from stt_server.engine.tests.fake_batch import CAPACITY, Script
from tests.faces import FASTCONFORMER, open_face
from tests.raw import BINARY, TEXT, frame, raw_peer
from tests.server import ROOT, SCRIPTED, ServerProcess, run_server, wait_until
from tests.speech import pcm
from tests.test_leaks import poll, running_tasks, serving
from tests.wire import Json, NativeClient, is_error, is_final, open_client, transcribe

FAULTY = (sys.executable, "-m", "tests.faulty_server", *SCRIPTED)
DEMO = pcm("demo")
END_OF_FIRST_TURN_S = 3.1
WORDS = ["s0 s1 s2", "s3 s4", "s5 s6"]
"""What the fake model hears in `DEMO`."""
MODEL = ROOT / "../shared/models/digits-streaming.nemo"
DIGITS = ROOT / "../shared/audio/digits"


@pytest.fixture(scope="module")
def faulty() -> Iterator[ServerProcess]:
    """A server with a fake model that fails on demand, with room for `CAPACITY` sessions."""
    flags = ("--limits-send-timeout-s=1", "--limits-max-bad-messages=1000000")
    with run_server(*flags, command=FAULTY) as server:
        yield server


def order(server: ServerProcess, line: str) -> None:
    """See `tests/faulty_server.py`; counts from the next step on."""
    before = server.stderr.count("taken")
    server.tell(line)
    wait_until(lambda: server.stderr.count("taken") > before, what="the order is taken")


async def break_down(server: ServerProcess, fault: str, callers: list["Caller"]) -> None:
    """The model fails, and each of the callers is told so."""
    order(server, fault)
    for caller in callers:
        await caller.say(0.3)
    await asyncio.to_thread(
        wait_until, lambda: server.get("/ready").status_code == 503, what="the model is down"
    )
    for caller in callers:
        await caller.say(0.3)
        failed = await caller.client.receive_until(is_error)
        assert failed[-1]["code"] == "TRANSCRIPTION_ERROR"


@contextmanager
def leaving_nothing(server: ServerProcess, *, hung_threads: int = 0) -> Iterator[None]:
    """Whatever happens within, afterwards all places, files and threads are free again."""
    usage = server.usage()
    files, threads = usage.num_fds(), usage.num_threads()
    yield
    wait_until(lambda: server.get("/ready").status_code == 200, what="/ready")
    wait_until(lambda: server.open_sessions() == 0, what="all sessions gone")
    assert server.active_sessions() == 0
    wait_until(lambda: usage.num_fds() <= files, what="all sockets closed")
    wait_until(lambda: usage.num_threads() <= threads + hung_threads, what="all threads gone")


class Caller:
    """A client that says `DEMO`."""

    def __init__(self, client: NativeClient) -> None:
        self.client = client
        self._said = 0

    async def say(self, seconds: float) -> None:
        size = round(seconds * 32_000)
        await self.client.send_binary(DEMO[self._said :][:size])
        self._said += size

    async def begin(self) -> None:
        """Talk in real time until a word has been heard."""
        hearing = asyncio.ensure_future(self.client.receive())
        while not hearing.done():
            await self.say(0.1)
            await asyncio.wait([hearing], timeout=0.1)
        await hearing
        assert self._said < END_OF_FIRST_TURN_S * 32_000

    async def finish(self) -> list[Json]:
        """Say the rest; all messages to the end."""
        await self.say(len(DEMO))
        return await self.client.finish()


@asynccontextmanager
async def talking(server: ServerProcess, count: int) -> AsyncIterator[list[Caller]]:
    """Sessions in the middle of their first turn, of which a word has been heard."""
    async with AsyncExitStack() as stack:
        url = server.url + "?stall_ms=0"  # what else a test does may take its time
        callers = [Caller(await stack.enter_async_context(open_client(url))) for _ in range(count)]
        await asyncio.gather(*(caller.begin() for caller in callers))
        yield callers


async def assert_full_house_is_served(server: ServerProcess) -> None:
    """Every slot of the model works, and hears what it should."""
    sessions = await asyncio.gather(*(transcribe(server.url, DEMO) for _ in range(CAPACITY)))
    for messages in sessions:
        assert [message["text"] for message in messages if is_final(message)] == WORDS


# The model


@pytest.mark.parametrize(("fault", "hung_threads"), [("raise", 0), ("die", 0), ("hang", 1)])
async def test_failing_model_costs_the_open_turns_alone(
    faulty: ServerProcess, fault: str, hung_threads: int
) -> None:
    with leaving_nothing(faulty, hung_threads=hung_threads):
        async with talking(faulty, CAPACITY - 1) as callers, open_client(faulty.url) as new:
            await break_down(faulty, fault, callers)
            assert faulty.get("/ready").status_code == 503
            assert faulty.get("/health").status_code == 200
            # What is said meanwhile waits for the model.
            await asyncio.gather(Caller(new).finish(), *(caller.finish() for caller in callers))
        for caller in callers:
            assert sum(map(is_error, caller.client.seen)) == 1
            # Where a second of the model's stream begins is another matter now.
            assert len(caller.client.finals) == 3
            assert all(caller.client.finals)
            assert caller.client.close_code == 1000
        assert (new.finals, new.close_code) == (WORDS, 1000)
        await assert_full_house_is_served(faulty)


async def test_sessions_between_turns_do_not_notice(faulty: ServerProcess) -> None:
    with leaving_nothing(faulty):
        async with talking(faulty, 1) as (broken,), open_client(faulty.url) as client:
            idle = Caller(client)
            await idle.say(END_OF_FIRST_TURN_S + 2.0)
            await client.receive_until(is_final)
            await break_down(faulty, "raise", [broken])
            await asyncio.gather(idle.finish(), broken.finish())
        assert not any(map(is_error, client.seen))
        assert [len(text.split()) for text in client.finals] == [3, 2, 2]


@pytest.mark.skipif(not MODEL.is_file(), reason="../shared/models is absent")
async def test_real_model_hears_on_after_its_thread_died() -> None:
    pytest.importorskip("torch")
    samples, _ = soundfile.read(DIGITS / "p01_turn_george.flac", dtype="int16")
    turn = samples.tobytes() + bytes(2 * 32_000)
    flags = ("--model=parakeet-eou", f"--nemo-checkpoint={MODEL}", "--device=cpu")
    with run_server(*flags, "--max-streams=2", command=FAULTY) as server:
        undisturbed = await transcribe(server.url, turn)
        async with open_client(server.url) as client:
            await client.send_binary(turn[:32_000])
            order(server, "die")
            await client.send_binary(turn[32_000:])
            await client.receive_until(is_error)
            await client.send_binary(turn)
            await client.finish()
        afterwards = await transcribe(server.url, turn)
    assert (len(client.finals), client.close_code) == (2, 1000)
    assert client.finals[-1]
    # Which interims are told depends on how fast the model is.
    assert list(filter(is_final, afterwards)) == list(filter(is_final, undisturbed))


async def test_no_task_outlives_a_failure() -> None:
    """The app in this loop, so that its tasks can be seen."""
    script = Script()
    engine = NemoEngine(
        script, name="fake", summary="For tests.", most_streams=CAPACITY, pauses_s=(0.0,)
    )
    settings = Settings(model="scripted")  # pyright: ignore[reportArgumentType]
    async with serving(create_app(settings, engine=engine)) as url:
        await transcribe(url, DEMO)
        before = running_tasks()
        for _ in range(3):
            script.failing_steps = {script.steps + 5}
            await transcribe(url, DEMO)
            await poll(lambda: engine.fault is None)
        await poll(lambda: running_tasks() <= before)
        assert script.loads == 4


# Clients


async def test_three_times_as_many_clients_as_places(faulty: ServerProcess) -> None:
    async def refused() -> Response:
        with pytest.raises(InvalidStatus) as caught:
            async with open_client(faulty.url):
                pass
        return caught.value.response

    with leaving_nothing(faulty):
        async with talking(faulty, CAPACITY) as callers:
            refusals = await asyncio.gather(*(refused() for _ in range(2 * CAPACITY)))
            await asyncio.gather(*(caller.finish() for caller in callers))
        for refusal in refusals:
            assert refusal.status_code == 503
            assert refusal.headers["Retry-After"] == "1"
        assert [caller.client.finals for caller in callers] == [WORDS] * CAPACITY


async def test_client_that_reads_nothing_takes_nothing_from_the_others(
    faulty: ServerProcess,
) -> None:
    def flood() -> None:
        ping = frame(TEXT, b'{"type":"ping","id":"%s"}' % (b"x" * 1_000)) * 60
        with raw_peer(faulty.address, receive_buffer=4_096, timeout_s=1.0) as peer:
            peer.upgrade()
            peer.send(frame(BINARY, DEMO[:64_000]))
            with suppress(ConnectionError, TimeoutError):
                while True:
                    peer.send(ping)

    with leaving_nothing(faulty):
        async with talking(faulty, CAPACITY - 1) as callers:
            flooding = asyncio.create_task(asyncio.to_thread(flood))
            await asyncio.gather(*(caller.finish() for caller in callers))
            await flooding
        assert [caller.client.finals for caller in callers] == [WORDS] * (CAPACITY - 1)


async def test_clients_that_vanish_in_a_turn_give_their_slots_back(faulty: ServerProcess) -> None:
    with leaving_nothing(faulty):
        async with talking(faulty, 1) as (staying,):
            for _ in range(2):
                async with talking(faulty, CAPACITY - 1) as callers:
                    for caller in callers:
                        caller.client.socket.transport.abort()
                wait_until(lambda: faulty.active_sessions() == 1, what="their places are free")
            await staying.finish()
        assert staying.client.finals == WORDS
        await assert_full_house_is_served(faulty)


# Time


async def test_wall_clock_that_jumps_changes_nothing(faulty: ServerProcess) -> None:
    with leaving_nothing(faulty):
        async with (
            talking(faulty, 1) as (caller,),
            open_face(FASTCONFORMER, faulty, 0) as stamped,
        ):
            for seconds in (7_200, -86_400):
                await stamped.send(DEMO)
                await stamped.receive_until("final")
                order(faulty, f"clock {seconds}")
                assert faulty.get("/ready").status_code == 200
            await asyncio.gather(caller.finish(), stamped.finish())
        assert (caller.client.finals, caller.client.close_code) == (WORDS, 1000)
        times = [message["ts"] for message in stamped.seen]
        assert times == sorted(times)
