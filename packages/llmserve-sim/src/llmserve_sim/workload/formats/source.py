"""The bytes of a trace file as lines of text, or as the rows of a parquet table: read as a stream, never held whole.

Compression is known by the first bytes, not by the name: gzip, and Zstandard with the extra `files` (or Python 3.14).
"""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, Any, Final, Protocol

from llmserve_sim.errors import InvalidInputError, MissingExtraError

__all__ = ["STANDARD_INPUT", "Bounds", "TextLines", "open_trace", "parquet_columns", "parquet_rows"]

STANDARD_INPUT: Final = Path("-")
"""The path of standard input."""
_BOM: Final = b"\xef\xbb\xbf"
_OTHER: Final = {
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or export it as CSV",
    b"BZh": "bzip2: unpack it with bunzip2",
    b"\xfd7zXZ\x00": "xz: unpack it with unxz",
}
_BATCH_ROWS: Final = 8192


class Bounds(Protocol):
    """How much of a file is read."""

    @property
    def file_bytes(self) -> int:
        """Most bytes up to the end of the cut."""

    @property
    def line_bytes(self) -> int:
        """Longest line."""

    @property
    def document_bytes(self) -> int:
        """Longest single JSON object."""


class TextLines:
    """The lines of a file with their numbers, decoded."""

    def __init__(self, file: IO[bytes], name: str, bounds: Bounds) -> None:
        self._file, self._name, self._bounds = file, name, bounds
        self._number, self._size = 0, 0

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Yield (line number from 1, text)."""
        while True:
            raw = self._read(self._bounds.line_bytes + 1)
            if not raw:
                return
            self._number += 1
            if len(raw) > self._bounds.line_bytes and not self._is_document(raw):
                raise InvalidInputError(
                    f"{self._name}:line {self._number}", f"must be at most {self._bounds.line_bytes} bytes long"
                )
            yield self._number, self._decoded(raw)

    def document(self, begun: str) -> str:
        """Return the whole file, of which `begun` has been read; it is one JSON object."""
        most = self._bounds.document_bytes
        rest = self._file.read(most - len(begun) + 1)
        if len(begun) + len(rest) > most:
            raise InvalidInputError(self._name, f"must be at most {most} bytes long, as one JSON object")
        try:
            return begun + rest.decode()
        except UnicodeDecodeError as error:
            raise InvalidInputError(self._name, f"must be UTF-8 text ({error.reason})") from error

    def _is_document(self, raw: bytes) -> bool:
        return self._number == 1 and raw.removeprefix(_BOM).lstrip().startswith(b"{")

    def _read(self, size: int) -> bytes:
        try:
            raw = self._file.readline(size)
        except (EOFError, OSError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise InvalidInputError(
                f"{self._name}:line {self._number + 1}", f"must be whole: the compressed file is damaged ({error})"
            ) from error
        self._size += len(raw)
        most = self._bounds.file_bytes
        if self._size > most:
            raise InvalidInputError(
                self._name, f"must be at most {most} bytes up to the cut: shorten it with duration_s or limit"
            )
        return raw

    def _decoded(self, raw: bytes) -> str:
        where = f"{self._name}:line {self._number}"
        if self._number == 1 and _is_utf16(raw):
            raise InvalidInputError(where, "must be UTF-8 text, is UTF-16: convert it with iconv -f UTF-16 -t UTF-8")
        try:
            return raw.removeprefix(_BOM if self._number == 1 else b"").decode()
        except UnicodeDecodeError as error:
            # A long first line is cut anywhere, perhaps within a letter: a document reads on from there.
            if len(raw) > self._bounds.line_bytes and error.end == len(raw):
                more = self._file.read(1)
                return self._decoded(raw + more) if more else raw.decode(errors="replace")
            raise InvalidInputError(where, f"must be UTF-8 text ({error.reason})") from error


@contextmanager
def open_trace(path: Path, name: str) -> Iterator[IO[bytes] | Any]:
    """Open a file, or standard input for ``-``: decompressed bytes, or a `pyarrow.parquet.ParquetFile`.

    Raises:
        InvalidInputError: the file cannot be read, or is compressed otherwise.
        MissingExtraError: its kind needs the extra `files`.
    """
    piped = path == STANDARD_INPUT
    try:
        with _raw(path) as raw:
            head = raw.peek(8)[:8]
            for magic, what in _OTHER.items():
                if head.startswith(magic):
                    raise InvalidInputError(name, f"must be text, gzip, zstd or parquet; this is {what}")
            if head.startswith(b"PAR1"):
                if piped:
                    raise InvalidInputError(name, "must be a file: parquet is not read from a pipe")
                with _parquet(path, name) as table:
                    yield table
            elif head.startswith(b"\x1f\x8b"):
                with gzip.open(raw) as file:
                    yield file
            elif head.startswith(b"\x28\xb5\x2f\xfd"):
                with _zstd(raw) as file:
                    yield file
            else:
                yield raw
    except OSError as error:
        raise InvalidInputError(str(path), f"must be a readable file ({error.strerror or error})") from error


def parquet_columns(table: Any) -> list[str]:
    """Return the names of a parquet file's columns."""
    return [str(name) for name in table.schema_arrow.names]


def parquet_rows(table: Any, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (row number from 1, values of `columns` under the names that these map to)."""
    import pyarrow as pa

    number = 0
    for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
        values = []
        for at in range(batch.num_columns):
            column = batch.column(at)
            if pa.types.is_timestamp(column.type):
                column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
            values.append(column.to_pylist())
        names = [columns[name] for name in batch.schema.names]
        for cells in zip(*values, strict=True):
            number += 1
            yield number, dict(zip(names, cells, strict=True))


def _raw(path: Path) -> BufferedReader:
    if path == STANDARD_INPUT:
        return open(0, "rb", closefd=False)
    return path.open("rb")


@contextmanager
def _parquet(path: Path, name: str) -> Iterator[Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingExtraError("files", "a parquet file") from error
    try:
        with pq.ParquetFile(path) as table:
            yield table
    except pa.ArrowException as error:
        raise InvalidInputError(name, f"must be a whole parquet file ({str(error).splitlines()[0]})") from error


def _zstd(raw: BufferedReader) -> Any:
    """Return a reader of a Zstandard stream."""
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.open(raw)
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise MissingExtraError("files", "a .zst file") from error
    return BufferedReader(_Arrow(pa.CompressedInputStream(raw, "zstd")))


def _is_utf16(raw: bytes) -> bool:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    start = raw[:8]
    return len(start) == 8 and (
        (not any(start[::2]) and all(start[1::2])) or (not any(start[1::2]) and all(start[::2]))
    )


class _Arrow(RawIOBase):
    """A stream of pyarrow's as one of Python's; it has no `readline` of its own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, into: Any) -> int:
        """Fill `into`; a damaged stream is an error without an errno, like gzip's."""
        try:
            data = self._stream.read(len(into))
        except OSError as error:
            raise EOFError(str(error)) from error
        into[: len(data)] = data
        return len(data)
