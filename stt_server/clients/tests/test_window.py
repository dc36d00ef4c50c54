from stt_server.clients.window import AckWindow


def test_a_mark_is_due_every_step() -> None:
    window = AckWindow(limit=100, step=10)
    assert [window.add(size) for size in (4, 4, 4, 4, 20)] == [None, None, 12, None, 36]


def test_full_until_the_server_has_read_enough() -> None:
    window = AckWindow(limit=20, step=10)
    window.add(10)
    assert not window.is_full
    window.add(10)
    assert window.is_full
    window.acknowledge(10)
    assert not window.is_full


def test_an_old_pong_takes_nothing_back() -> None:
    window = AckWindow(limit=20, step=10)
    window.add(20)
    window.acknowledge(20)
    window.add(10)
    window.acknowledge(10)
    assert not window.is_full
