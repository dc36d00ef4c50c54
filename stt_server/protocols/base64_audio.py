"""Audio bytes inside JSON."""

import binascii

from stt_server.errors import InvalidMessage

_WHITESPACE = b" \t\r\n"


def decode_base64(text: str, *, field: str) -> bytes:
    """Standard base64 with padding; only whitespace may stand between its characters.

    A decoder that skipped foreign characters would turn garbage into shifted audio.

    Raises:
        InvalidMessage: it is something else; `field` names it to the client.
    """
    try:
        raw = text.encode("ascii")
        if any(space in raw for space in _WHITESPACE):
            raw = raw.translate(None, _WHITESPACE)
        return binascii.a2b_base64(raw, strict_mode=True)
    except ValueError as error:
        raise InvalidMessage(f"{field} is not valid base64") from error
