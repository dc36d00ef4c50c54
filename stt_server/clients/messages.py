"""Server messages as Python objects."""

import json
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, cast, get_args

from pydantic import TypeAdapter

from stt_server.clients.errors import UnreadableMessage
from stt_server.protocols.native_messages import (
    ErrorResponse,
    TranscriptionSegment,
    TypedServerMessage,
    WireModel,
)


class Numbers(WireModel):
    """What every message of a session that can be resumed carries."""

    message_id: int | None = None
    ack_samples: int | None = None

    @classmethod
    def of(cls, text: str) -> Self:
        """Those of one message.

        Raises:
            UnreadableMessage: they are no numbers.
        """
        try:
            return cls.model_validate_json(text)
        except ValueError as error:
            raise UnreadableMessage("the server sent a message that cannot be read") from error


@dataclass(frozen=True, slots=True)
class UnknownMessage:
    """A message of a newer server that this client has no type for."""

    type: str
    fields: dict[str, Any]


ServerMessage: TypeAlias = (
    TranscriptionSegment | ErrorResponse | TypedServerMessage | UnknownMessage
)
"""What iterating over a client gives."""

_TYPED: TypeAdapter[TypedServerMessage] = TypeAdapter(TypedServerMessage)


def _known_types() -> frozenset[str]:
    union = get_args(TypedServerMessage)[0]
    models = cast(tuple[type[WireModel], ...], get_args(union))
    return frozenset(model.model_fields["type"].default for model in models)


_KNOWN = _known_types()


def parse_message(text: str) -> ServerMessage:
    """One message of the server.

    Raises:
        UnreadableMessage: no JSON object, or fields that do not fit its type.
    """
    try:
        loaded: object = json.loads(text)
        if not isinstance(loaded, dict):
            raise UnreadableMessage("the server sent JSON that is no object")
        fields = cast(dict[str, Any], loaded)
        kind = fields.get("type")
        if kind in _KNOWN:
            return _TYPED.validate_python(fields)
        if kind == "error" or "error" in fields:
            return ErrorResponse.model_validate(fields)
        if kind is not None:
            return UnknownMessage(str(kind), fields)
        return TranscriptionSegment.model_validate(fields)
    except (ValueError, RecursionError) as error:  # also pydantic's, and a giant number's
        raise UnreadableMessage("the server sent a message that cannot be read") from error
