"""What a step does for others, measured by a clock that only computing advances."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_lite.salm.encoding import Encoding
from nemo_lite.salm.generation import GenerationBatch
from nemo_lite.salm.pace import MOST, SHARE, Pace, PassTimes
from nemo_lite.salm.passes import EagerPasses
from nemo_lite.salm.tests.tiny import noise, tiny_network, tiny_tokenizer
from nemo_lite.salm.tokenizer import PromptIds

PROMPT = tiny_tokenizer().prompt()
TOKENS = 30


@dataclass
class Machine:
    """Reading all weights takes as long as computing 16 rows: so is decoding bound by memory."""

    pass_seconds: float = 1.0
    free_rows: int = 16
    piece_seconds: float = 0.7
    now: float = 0.0
    queued: float = 0.0
    """Seconds of work on a device that works while the program goes on; `wait` brings them up."""

    def wait(self) -> None:
        self.now += self.queued
        self.queued = 0.0

    def pass_of(self, rows: int) -> float:
        return self.pass_seconds * max(1.0 + rows / 100, rows / self.free_rows)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    run, advance = EagerPasses.run, Encoding.advance

    def timed_run(self: EagerPasses, writers: dict, readings: list) -> dict:
        rows = len(writers) + sum(len(reading.rows) for reading in readings)
        machine.now += machine.pass_of(rows)
        return run(self, writers, readings)

    def timed_advance(self: Encoding) -> object:
        machine.now += machine.piece_seconds
        return advance(self)

    monkeypatch.setattr(EagerPasses, "run", timed_run)
    monkeypatch.setattr(Encoding, "advance", timed_advance)
    return machine


@pytest.fixture
def queueing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine that only queues what it is told, and is waited for where tokens are wanted."""
    run, advance = EagerPasses.run, Encoding.advance

    def queued_run(self: EagerPasses, writers: dict, readings: list) -> dict:
        before = machine.now
        tokens = run(self, writers, readings)
        machine.queued, machine.now = machine.queued + machine.now - before, before
        if tokens:
            machine.wait()
        return tokens

    def queued_advance(self: Encoding) -> object:
        before = machine.now
        frames = advance(self)
        machine.queued, machine.now = machine.queued + machine.now - before, before
        return frames

    monkeypatch.setattr(EagerPasses, "run", queued_run)
    monkeypatch.setattr(Encoding, "advance", queued_advance)
    return machine


def finish_times(machine: Machine, count: int, *, gap: float = 0.0) -> list[float]:
    """When each of some equal requests is done that come one after another."""
    network = tiny_network()
    batch = GenerationBatch(
        network,
        slots=16,
        length=128,
        end_tokens=frozenset(),
        clock=lambda: machine.now,
        wait=machine.wait,
    )
    start, done, added = machine.now, dict[int, float](), 0
    while len(done) < count:
        while added < count and added * gap <= machine.now - start:
            batch.add(noise(4.0, seed=added), PROMPT, max_new_tokens=TOKENS)
            added += 1
        if not batch.active + batch.waiting:
            machine.now = start + added * gap
        for number, _ in batch.step():
            done[number] = machine.now - start
    return [done[number] for number in sorted(done)]


def test_the_first_of_a_batch_takes_little_longer_than_alone(machine: Machine) -> None:
    (alone,) = finish_times(machine, 1)
    together = finish_times(machine, 16)
    assert min(together) == together[0]
    assert together[0] < 1.3 * alone


def test_a_batch_is_far_faster_than_one_after_another(machine: Machine) -> None:
    (alone,) = finish_times(machine, 1)
    work = alone - TOKENS * machine.pass_of(1)
    together = finish_times(machine, 16)
    # All the encoding and reading first, then writing together, is the least that is possible.
    least = 16 * work + TOKENS * machine.pass_of(16)
    assert max(together) < 1.5 * least
    assert max(together) < 0.35 * 16 * alone


def test_first_come_are_first_served(machine: Machine) -> None:
    done = finish_times(machine, 12)
    assert done == sorted(done)


@pytest.mark.parametrize("queues", [False, True])
def test_late_arrivals_do_not_stall_those_that_write(
    queues: bool, request: pytest.FixtureRequest
) -> None:
    """Steps stay short at any time; in units of a step that only writes."""
    machine: Machine = request.getfixturevalue("queueing" if queues else "machine")
    network = tiny_network()
    batch = GenerationBatch(
        network,
        slots=16,
        length=128,
        end_tokens=frozenset(),
        clock=lambda: machine.now,
        wait=machine.wait,
    )
    batch.add(noise(4.0), PROMPT, max_new_tokens=60)
    for _ in range(4):
        batch.step()
    for seed in range(2):
        batch.add(noise(4.0, seed=seed), PROMPT, max_new_tokens=TOKENS)
    steps: list[float] = []
    for _ in range(50):
        before = machine.now
        batch.step()
        steps.append(machine.now - before)
    assert max(steps) < 2.5
    assert np.mean(steps) < 1.35
    assert batch.active > 1


def test_requests_that_come_at_intervals_are_done_about_as_fast_as_alone(
    machine: Machine,
) -> None:
    (alone,) = finish_times(machine, 1)
    gap = 0.8 * alone
    done = finish_times(machine, 8, gap=gap)
    waits = [time - index * gap for index, time in enumerate(done)]
    assert max(waits) < 1.6 * alone


def test_passes_that_only_read_are_measured_on_a_device_that_queues(queueing: Machine) -> None:
    """The first part of a prompt of more rows than a pass reads gives no token to wait for."""
    batch = GenerationBatch(
        tiny_network(),
        slots=1,
        length=1_024,
        end_tokens=frozenset(),
        clock=lambda: queueing.now,
        wait=queueing.wait,
    )
    prompt = PromptIds((1,) * 600, (2,))
    batch.add(np.zeros(0, np.float32), prompt, max_new_tokens=2)
    batch.step()
    assert queueing.now == pytest.approx(queueing.pass_of(512))
    batch.step()
    assert batch._pace.times.estimate(512) == pytest.approx(queueing.pass_of(512))
    assert batch._pace.times.estimate(89) == pytest.approx(queueing.pass_of(89))


@given(st.lists(st.tuples(st.integers(1, 700), st.floats(1e-4, 10.0)), max_size=30))
def test_estimates_never_fall_with_more_rows(passes: list[tuple[int, float]]) -> None:
    times = PassTimes()
    assert times.estimate(3) is None
    for rows, seconds in passes:
        times.observe(rows, seconds)
    if passes:
        estimates = [times.estimate(rows) for rows in range(1, 900, 7)]
        assert estimates == sorted(estimates)  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_times_are_learned_and_one_disturbed_pass_changes_little() -> None:
    times = PassTimes()
    for _ in range(20):
        times.observe(1, 1.0)
        times.observe(96, 3.0)
    assert times.estimate(11) == pytest.approx(1.0)  # the weights take longer than 11 rows
    assert times.estimate(48) == pytest.approx(48 * 3.0 / 96)
    assert times.estimate(192) == pytest.approx(6.0)
    times.observe(1, 50.0)
    assert times.estimate(1) == pytest.approx(1.25)
    assert MOST >= 1.0


def test_neighbouring_sizes_are_one() -> None:
    times = PassTimes()
    for rows in (100, 101, 102):
        times.observe(rows, 1.0)
    assert times.estimate(103) == times.estimate(96) == 1.0
    assert times.estimate(104) != 1.0
    times.observe(3, 0.1)
    times.observe(4, 0.2)
    assert times.estimate(3) == 0.1


def test_a_disturbed_first_pass_of_a_size_says_nothing_about_larger_ones() -> None:
    times = PassTimes()
    for rows in (1, 64, 512):
        times.observe(rows, 1.0 + rows / 100)
    times.observe(5, 300.0)
    times.observe(9, 300.0)
    assert times.estimate(64) == pytest.approx(1.64)
    assert times.estimate(512) == pytest.approx(6.12)
    assert times.estimate(5) == times.estimate(9)
    assert times.estimate(5) == pytest.approx(1.64, rel=0.4)


def rows_read(pace: Pace, machine: Machine, steps: int) -> list[int]:
    """Of a prompt that never ends, beside two that write."""
    found: list[int] = []
    for _ in range(steps):
        pace.earn(writers=2, others=2, promised=True)
        found.append(pace.chunk(2, 300))
        pace.passed(2, found[-1], machine.pass_of(2 + found[-1]))
    return found


@pytest.mark.parametrize("disturbed", [[5], [10] * 50, [2, 10, 18, 26] * 50])
@pytest.mark.parametrize("learned", [False, True])
def test_reading_recovers_from_passes_that_were_disturbed(
    learned: bool, disturbed: list[int]
) -> None:
    machine, pace = Machine(free_rows=64), Pace()
    rows_read(pace, machine, 300 if learned else 1)
    usual = sum(rows_read(Pace(), machine, 1_500)[-100:])
    for rows in disturbed:
        pace.times.observe(rows, 50.0)
    assert usual > 2_000
    assert sum(rows_read(pace, machine, 1_500)[-100:]) > 0.9 * usual


def test_what_is_tried_is_paid_for() -> None:
    machine, pace = Machine(free_rows=16), Pace()
    rows_read(pace, machine, 300)
    found = rows_read(pace, machine, 300)
    assert len(set(found)) > 1
    spent = sum(machine.pass_of(2 + rows) for rows in found) / 300
    assert spent / machine.pass_of(2) < 1.0 + 1.1 * SHARE
