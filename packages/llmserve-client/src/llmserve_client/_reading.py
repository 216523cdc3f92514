"""Reads an HTTP answer piece by piece, up to a number of bytes, and holds it once.

Answers may be compressed with gzip, the only coding that the client asks for. They are decompressed up to the same
number of bytes, so a small answer cannot become a large one.
"""

from __future__ import annotations

import zlib
from typing import Final

import httpx

from llmserve_client._exceptions import AnswerError
from llmserve_client._operations import HttpResponse

__all__ = ["CODING", "read_answer", "read_answer_async", "too_large"]

CODING: Final = "gzip"
"""The content coding that the client asks for."""
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_PIECE_BYTES: Final = 64 * 1024


def read_answer(response: httpx.Response, max_bytes: int) -> HttpResponse:
    """Read a response that httpx has not read yet; raises `AnswerError` if it has more than `max_bytes`."""
    body = _Body(response, max_bytes)
    if response.is_stream_consumed:  # a transport of the caller's may return a whole response
        body.add_decoded(response.content)
    else:
        for piece in response.iter_raw(_PIECE_BYTES):
            body.add(piece)
    return body.answer()


async def read_answer_async(response: httpx.Response, max_bytes: int) -> HttpResponse:
    """Read a response like `read_answer`."""
    body = _Body(response, max_bytes)
    if response.is_stream_consumed:
        body.add_decoded(response.content)
    else:
        async for piece in response.aiter_raw(_PIECE_BYTES):
            body.add(piece)
    return body.answer()


def too_large(max_bytes: int) -> AnswerError:
    """Return the error for an answer of more than `max_bytes`."""
    return AnswerError(f"the answer has more than max_answer_bytes={max_bytes} bytes: it was not read to its end")


class _Body:
    """Collects the pieces of one body."""

    def __init__(self, response: httpx.Response, max_bytes: int) -> None:
        self._response, self._max_bytes = response, max_bytes
        self._content = bytearray()
        coding = response.headers.get("content-encoding", "identity").lower()
        if coding not in {"identity", CODING}:
            raise AnswerError(f"the answer is coded as {coding!r}, which the client did not ask for")
        self._inflate = zlib.decompressobj(_GZIP_WINDOW) if coding == CODING else None

    def add(self, piece: bytes) -> None:
        """Add a piece as it was sent."""
        if self._inflate is not None:
            try:
                piece = self._inflate.decompress(piece, self._max_bytes - len(self._content) + 1)
            except zlib.error as error:
                raise AnswerError(f"the answer is no gzip: {error}") from None
        self.add_decoded(piece)

    def add_decoded(self, piece: bytes) -> None:
        """Add a piece of the decoded body."""
        if len(self._content) + len(piece) > self._max_bytes:
            raise too_large(self._max_bytes)
        self._content += piece

    def answer(self) -> HttpResponse:
        """Return the whole answer."""
        if self._inflate is not None and self._content and not self._inflate.eof:
            raise AnswerError("the answer's gzip ends too early")
        headers = {name.lower(): text for name, text in self._response.headers.items()}
        return HttpResponse(self._response.status_code, self._content, headers)
