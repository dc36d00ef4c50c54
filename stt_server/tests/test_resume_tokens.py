from stt_server.resume_tokens import ResumeTokens, session_of


def test_only_the_sessions_own_token_opens_it() -> None:
    tokens = ResumeTokens("s-1")
    assert tokens.accepts(tokens.current)
    for other in ("", "s-1.", "s-1", tokens.current[:-1], ResumeTokens("s-1").current, "ü"):
        assert not tokens.accepts(other)


def test_a_token_says_which_session_it_is_for() -> None:
    assert session_of(ResumeTokens("s-1").current) == "s-1"
    assert session_of("nonsense") == ""


def test_a_used_token_is_good_until_the_next_one_has_come() -> None:
    tokens = ResumeTokens("s-1")
    first = tokens.current
    second = tokens.use(first)
    assert second != first
    assert tokens.accepts(first)
    assert tokens.accepts(second)
    tokens.confirm()
    assert not tokens.accepts(first)
    assert tokens.accepts(second)


def test_a_token_that_was_lost_on_its_way_is_worth_nothing() -> None:
    tokens = ResumeTokens("s-1")
    first = tokens.current
    lost = tokens.use(first)
    third = tokens.use(first)
    assert not tokens.accepts(lost)
    assert tokens.accepts(third)


def test_to_use_the_next_token_uses_up_the_one_before() -> None:
    tokens = ResumeTokens("s-1")
    first = tokens.current
    tokens.use(tokens.use(first))
    assert not tokens.accepts(first)
