"""`POST /v1/audio/transcriptions`."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stt_server.engine.base import StreamOptions
from stt_server.files.transcription import Files, FileTranscription
from stt_server.refusals import not_ready_refusal, unavailable
from stt_server.rest import formats, sse
from stt_server.rest.errors import ApiError, as_api_error, too_large
from stt_server.rest.form import MAX_OTHER_BYTES, Form, received_form
from stt_server.rest.parameters import Parameters, parse_parameters
from stt_server.rest.results import FileTranscript
from stt_server.service import Service
from stt_server.stages.recognition import end_tasks

logger = logging.getLogger(__name__)

GONE = 499
"""Of requests whose client went away, in logs and metrics."""


class Transcriptions:
    """Answers requests; an ASGI app."""

    def __init__(self, service: Service, files: Files) -> None:
        self._service = service
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        reply = _Reply(scope, receive, send)
        refusal = not_ready_refusal(service) or self._full()
        if refusal is not None:
            await reply.whole(refusal)
            return
        work = asyncio.create_task(self._serve(Request(scope, receive), reply))
        # What ends the server waits for these, and cancels them in the end.
        service.requests.add(work)
        try:
            with service.metrics.file_requests.track_inprogress():
                await asyncio.wait([work])
                if work.cancelled():
                    await reply.fail(ApiError(503, "overloaded", "the server is shutting down"))
                else:
                    work.result()
        finally:
            service.requests.discard(work)
            await end_tasks(work)
            service.metrics.file_answers.labels(str(reply.status)).inc()

    def _full(self) -> Response | None:
        if len(self._service.requests) < self._service.settings.uploads.max_requests:
            return None
        self._service.metrics.refusals.labels("files").inc()
        return unavailable("too many files are waiting, try again later")

    async def _serve(self, request: Request, reply: "_Reply") -> None:
        uploads = self._service.settings.uploads
        most = uploads.max_mb * 2**20
        try:
            if int(request.headers.get("content-length", 0)) > most + MAX_OTHER_BYTES:
                raise too_large(f"the file is larger than {uploads.max_mb} MiB")
            async with (
                aclosing(request.stream()) as chunks,
                received_form(
                    chunks,
                    request.headers.get("content-type"),
                    max_file_bytes=most,
                    receive_s=uploads.receive_s,
                ) as form,
            ):
                asked = parse_parameters(form.fields)
                work = self._transcribe(form, asked, self._owner(request), reply)
                await _until_gone(request, work)
        except ClientDisconnect:
            reply.status = GONE
            logger.info("file.client_gone")
        except Exception as error:  # the request's boundary
            await reply.fail(as_api_error(error))

    async def _transcribe(self, form: Form, asked: Parameters, owner: str, reply: "_Reply") -> None:
        began = time.monotonic()
        options = StreamOptions(language=asked.language, vocabulary=asked.vocabulary)
        async with self._files.open(
            form.file, options, size_bytes=form.file_bytes, owner=owner
        ) as file:
            if asked.stream:
                await self._send_events(file, reply)
            else:
                transcript = await _gathered(file)
                await reply.whole(formats.answer(transcript, asked, samples=file.samples))
        self._service.metrics.file_audio_seconds.inc(file.seconds)
        logger.info(
            "file.transcribed",
            extra={
                "audio_s": file.seconds,
                "bytes": form.file_bytes,
                "took_s": round(time.monotonic() - began, 3),
                "streamed": asked.stream,
            },
        )

    async def _send_events(self, file: FileTranscription, reply: "_Reply") -> None:
        transcript = FileTranscript()
        await reply.begin_events()
        async with aclosing(file.heard()) as news:
            async for heard in news:
                for event in sse.deltas(heard.words, is_first=not transcript.words):
                    await reply.event(event)
                transcript.add(heard)
        for event in sse.done(transcript):
            await reply.event(event)
        await reply.end_events()

    def _owner(self, request: Request) -> str:
        """Whose request it is, for who comes when: that of a key, else of an address."""
        key = request.headers.get("authorization") or request.headers.get("api-key")
        if self._service.authenticator.required and key:
            return key
        return request.client.host if request.client else ""


async def _gathered(file: FileTranscription) -> FileTranscript:
    transcript = FileTranscript()
    async with aclosing(file.heard()) as news:
        async for heard in news:
            transcript.add(heard)
    return transcript


async def _until_gone(request: Request, work: Coroutine[Any, Any, None]) -> None:
    """Do `work` unless the client goes away. To be called when the whole body has come.

    Raises:
        ClientDisconnect: it did; the work has been cancelled.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        task.result()
    finally:
        await end_tasks(task, gone)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Reply:
    """The answer to one request: whole, or as events that may end in an error."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._has_events = False
        self.status = 0
        """0 until the answer begins."""

    async def whole(self, response: Response) -> None:
        self.status = response.status_code
        await response(self._scope, self._receive, self._send)

    async def begin_events(self) -> None:
        self._has_events = True
        self.status = 200
        head = Response(headers=sse.HEADERS, media_type=sse.MEDIA_TYPE)
        del head.headers["content-length"]
        await self._send(
            {"type": "http.response.start", "status": 200, "headers": head.raw_headers}
        )

    async def event(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_events(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def fail(self, error: ApiError) -> None:
        """Say what went wrong, in the form that is still possible."""
        if not self.status:
            await self.whole(error.response())
        elif self._has_events:
            await self.event(sse.event({"type": "error", **error.body()}))
            await self.end_events()
