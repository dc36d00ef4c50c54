"""The secret by which a client that comes back shows that a session is its own."""

import hmac
import secrets

SECRET_BYTES = 24


class ResumeTokens:
    """One session's tokens, of which each opens it once. Pure but for the random numbers.

    The answer that brings the next token may be lost together with the new connection. So the
    token used last opens the session again until its client has shown that it got the answer.
    """

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._used: str | None = None
        self.current = self._fresh()

    def accepts(self, token: str) -> bool:
        """Whether `token` opens the session now."""
        # Both are compared, so that the time tells nothing.
        is_current = _same(token, self.current)
        is_used = self._used is not None and _same(token, self._used)
        return is_current or is_used

    def use(self, token: str) -> str:
        """Open the session with an accepted token; the next one."""
        self._used = token
        self.current = self._fresh()
        return self.current

    def confirm(self) -> None:
        """The client has the current token."""
        self._used = None

    def _fresh(self) -> str:
        return f"{self._session_id}.{secrets.token_urlsafe(SECRET_BYTES)}"


def session_of(token: str) -> str:
    """The id of the session that `token` is for; it is no secret."""
    return token.rpartition(".")[0]


def _same(given: str, known: str) -> bool:
    return hmac.compare_digest(given.encode(), known.encode())
