"""OpenAI's Realtime protocol on the wire: client events read, server events written."""

import re
from typing import Any, cast

from pydantic_core import from_json, to_json

from stt_server.errors import BadMessage
from stt_server.protocols.base import Message

MAX_JSON = 65_536
"""Characters of a client event beside its audio: reading megabytes of brackets takes the event loop
for seconds."""
_AUDIO = re.compile(r'"audio"\s*:\s*"')


class BadEvent(BadMessage):
    """A client event is refused whole.

    Attributes:
        wire_code: OpenAI's name for the reason.
        param: What in the event is wrong.
    """

    def __init__(self, wire_code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.wire_code = wire_code
        self.param = param


def read_event(text: str) -> dict[str, Any]:
    """The fields of a client event; only `audio` may be long.

    Raises:
        BadEvent: it is no JSON object, or too long.
    """
    if len(text) <= MAX_JSON:
        return _object(text)
    # The audio is cut out before anything is read: the rest is short or refused.
    found = _AUDIO.search(text)
    begin = found.end() if found is not None else 0
    end = text.find('"', begin) if found is not None else -1
    if end < 0 or len(text) - (end - begin) > MAX_JSON:
        raise BadEvent("invalid_json", f"{len(text)} characters that are no audio")
    fields = _object(text[:begin] + text[end:])
    if fields.get("audio") == "":
        audio = text[begin:end]
        fields["audio"] = _unescaped(audio) if "\\" in audio else audio
    return fields


def dump(fields: dict[str, Any]) -> Message:
    """A server event as it is sent."""
    return to_json(fields, inf_nan_mode="null").decode()


class EventWriter:
    """Writes server events, each with an id of its own in the connection."""

    def __init__(self, token: str) -> None:
        """
        Args:
            token: Part of all ids, another one in each connection.
        """
        self._token = token
        self._events = self._items = 0

    def new_item_id(self) -> str:
        """An id that no item has had."""
        self._items += 1
        return f"item_{self._token}{self._items:04}"

    def write(self, kind: str, **fields: Any) -> Message:
        """The event of type `kind`."""
        self._events += 1
        return dump({"type": kind, "event_id": f"event_{self._token}{self._events:06}", **fields})

    def error(
        self,
        code: str,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        culprit: object = None,
    ) -> Message:
        """The event `error`.

        Args:
            culprit: `event_id` of the client event at fault, if it has one.
        """
        event_id = culprit if isinstance(culprit, str) else None
        return self.write(
            "error",
            error={
                "type": kind,
                "code": code,
                "message": message,
                "param": param,
                "event_id": event_id,
            },
        )


def _object(text: str) -> dict[str, Any]:
    try:
        value: object = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise BadEvent("invalid_json", "the event is not valid JSON") from error
    if not isinstance(value, dict):
        raise BadEvent("invalid_json", "the event is not a JSON object")
    return cast("dict[str, Any]", value)


def _unescaped(inside: str) -> str:
    """What a JSON string with `inside` between its quotes says: some writers escape slashes."""
    try:
        return str(from_json(f'"{inside}"'))
    except ValueError as error:
        raise BadEvent("invalid_json", "the event is not valid JSON") from error
