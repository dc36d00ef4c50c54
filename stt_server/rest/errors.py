"""What goes wrong with a request, in OpenAI's words."""

import logging

from starlette.responses import Response

from stt_server.errors import Overloaded, TranscriptionError
from stt_server.files.errors import FileError, FileTooLong
from stt_server.refusals import error_body, http_error, unavailable

logger = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer that is an error; `docs/protocols/openai-rest.md` lists them."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        *,
        retry_s: int | None = None,
    ) -> None:
        """
        Args:
            retry_s: When it is worth another try; of 503 that is always said.
        """
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self._retry_s = retry_s

    def response(self) -> Response:
        """The whole answer."""
        if self.status == 503:
            return unavailable(str(self))
        response = http_error(self.status, self.code, str(self), param=self.param)
        if self._retry_s is not None:
            response.headers["Retry-After"] = str(self._retry_s)
        return response

    def body(self) -> dict[str, object]:
        """The object `error` of it, for streams that have begun."""
        return error_body(self.status, self.code, str(self), param=self.param)


def bad_value(param: str, message: str, *, code: str = "invalid_value") -> ApiError:
    """A field of the form has a value that cannot be honoured."""
    return ApiError(400, code, message, param)


def missing(message: str) -> ApiError:
    """There is no file, or no form that it could be in."""
    return ApiError(400, "missing_required_parameter", message, "file")


def too_large(message: str) -> ApiError:
    return ApiError(413, "file_too_large", message, "file")


def as_api_error(error: Exception) -> ApiError:
    """The answer for whatever happened; what should not happen is logged."""
    match error:
        case ApiError():
            return error
        case FileTooLong():
            return too_large(str(error))
        case FileError():
            return ApiError(400, "invalid_audio", str(error), "file")
        case Overloaded():
            return ApiError(503, "overloaded", str(error))
        case TranscriptionError():
            return ApiError(500, "internal_error", str(error))
        case _:
            logger.error("request.failed", exc_info=error)
            return ApiError(500, "internal_error", "something failed inside the server")
