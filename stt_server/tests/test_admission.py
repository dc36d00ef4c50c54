"""Capacity of the server."""

from contextlib import ExitStack

import pytest

from stt_server.admission import Admission
from stt_server.errors import Overloaded


def test_as_many_places_as_the_capacity_are_given() -> None:
    admission = Admission(2)
    with admission.place(), admission.place():
        assert admission.active == 2
        with pytest.raises(Overloaded, match="all places are taken"), admission.place():
            pass


def test_refusal_takes_no_place() -> None:
    admission = Admission(1)
    with admission.place():
        with pytest.raises(Overloaded), admission.place():
            pass
        assert admission.active == 1


def test_place_is_free_again_afterwards() -> None:
    admission = Admission(1)
    for _ in range(3):
        with admission.place():
            assert admission.active == 1
    assert admission.active == 0


def test_place_is_free_again_after_a_failure() -> None:
    admission = Admission(1)
    with pytest.raises(ZeroDivisionError), admission.place():
        raise ZeroDivisionError
    assert admission.active == 0


def test_places_may_be_given_back_in_any_order() -> None:
    admission = Admission(2)
    first, second = ExitStack(), ExitStack()
    first.enter_context(admission.place())
    second.enter_context(admission.place())
    first.close()

    with admission.place():
        assert admission.active == 2
    second.close()
    assert admission.active == 0


def test_closed_admission_refuses_everybody() -> None:
    admission = Admission(1)
    admission.is_open = False

    with pytest.raises(Overloaded, match="shutting down"), admission.place():
        pass


def test_closing_leaves_taken_places_alone() -> None:
    admission = Admission(1)
    with admission.place():
        admission.is_open = False
        assert admission.active == 1
    assert admission.active == 0


def test_capacity_that_shrinks_counts_for_the_next_session() -> None:
    places = 2
    admission = Admission(lambda: places)
    with admission.place():
        places = 1
        with pytest.raises(Overloaded, match="all places are taken"), admission.place():
            pass
        places = 2
        with admission.place():
            assert admission.active == 2
