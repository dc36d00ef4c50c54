"""What a step does for others, measured by a clock that only computing advances."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_lite.salm.encoding import Encoding
from nemo_lite.salm.generation import GenerationBatch
from nemo_lite.salm.pace import MOST, PassTimes
from nemo_lite.salm.passes import EagerPasses
from nemo_lite.salm.tests.tiny import noise, tiny_network, tiny_tokenizer

PROMPT = tiny_tokenizer().prompt()
TOKENS = 30


@dataclass
class Machine:
    """Reading all weights takes as long as computing 16 rows: so is decoding bound by memory."""

    pass_seconds: float = 1.0
    free_rows: int = 16
    piece_seconds: float = 0.7
    now: float = 0.0

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


def finish_times(machine: Machine, count: int, *, gap: float = 0.0) -> list[float]:
    """When each of some equal requests is done that come one after another."""
    network = tiny_network()
    batch = GenerationBatch(
        network, slots=16, length=128, end_tokens=frozenset(), clock=lambda: machine.now
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


def test_late_arrivals_do_not_stall_those_that_write(machine: Machine) -> None:
    """Steps stay short at any time; in units of a step that only writes."""
    network = tiny_network()
    batch = GenerationBatch(
        network, slots=16, length=128, end_tokens=frozenset(), clock=lambda: machine.now
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
        times.observe(101, 3.0)
    assert times.estimate(11) == pytest.approx(1.0)  # the weights take longer than 11 rows
    assert times.estimate(51) == pytest.approx(51 * 3.0 / 101)
    assert times.estimate(202) == pytest.approx(6.0)
    times.observe(1, 50.0)
    assert times.estimate(1) == pytest.approx(1.25)
    assert MOST >= 1.0
