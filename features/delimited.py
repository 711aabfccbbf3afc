"""CSV files as streams of text: bounded memory, exact line numbers, hostile bytes kept apart.

pyarrow splits the fields. Around it stand the things it does not do: the encoding, a cap on what a
gzip file may unpack to, the delimiter, and the line in the file at which each record begins.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from features.errors import InputError

__all__ = ["BadLines", "Csv", "open_regular"]

BLOCK = 1 << 20  # bytes handed to the parser at a time; no record may be longer
HEADER = 1 << 20  # bytes in which the header line must end
DELIMITERS = (",", ";", "\t", "|")
BOMB_FREE = 32 << 20  # bytes that any gzip file may unpack to
BOMB_RATIO = 200  # beyond that, unpacked bytes for each packed one
BOMB_SIZE = 256 << 30  # bytes
MARK = "\0"  # stands where bytes were no text


def _marked(error: UnicodeError) -> tuple[str, int]:
    kinds = (UnicodeDecodeError, UnicodeEncodeError)  # bytes that are no text, lone surrogates
    return MARK, error.end if isinstance(error, kinds) else 0


codecs.register_error("clv_mark", _marked)


def open_regular(path: Path) -> io.FileIO:
    """Open a regular file for reading; never a device, a pipe or the end of a link.

    Raises
    ------
    InputError
        The path is something else, or cannot be read.
    """
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):  # where the system has them
        flags |= getattr(os, name, 0)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        reason = error.strerror or "cannot be opened"
        raise InputError(
            f"{path.name} must be a readable regular file. Got: {reason}. Copy the file itself."
        ) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(
            f"{path.name} must be a regular file. Got a device, pipe or folder. Copy the data "
            "into a file."
        )
    return io.FileIO(handle, "rb", closefd=True)


@dataclass
class BadLines:
    """Records that do not have the header's number of fields, by record number."""

    found: dict[int, str] = field(default_factory=dict)
    breaks: dict[int, int] = field(default_factory=dict)  # line breaks within the record

    def add(self, row: pacsv.InvalidRow) -> str:
        """Note one record for the parser, which then leaves it out."""
        text = row.text
        reason = f"{row.actual_columns} fields instead of {row.expected_columns}"
        self.found[row.number] = reason
        self.breaks[row.number] = text.count("\n") + text.count("\r") - text.count("\r\n")
        return "skip"


class Bytes(io.RawIOBase):
    """The file's text as UTF-8 bytes; what is no text became NUL. Counts the bytes of the file."""

    def __init__(self, path: Path, encoding: str) -> None:
        self.path, self.encoding = path, encoding
        self._file = open_regular(path)
        self.before = os.fstat(self._file.fileno())
        self.packed = self.unpacked = 0
        self._zip = zlib.decompressobj(31) if path.suffix == ".gz" else None
        self._ready = bytearray()
        self._decoder: codecs.IncrementalDecoder | None = None
        self.saw_mark = False
        self._as_utf8 = [0, 0]  # chunks beyond ASCII that are valid UTF-8, and that are not
        self._begin()

    def _begin(self) -> None:
        head = self._chunk()
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or _wide(head):
            if self.encoding != "utf-16":
                raise self._refused("UTF-16", "utf-16")
        elif head.startswith(codecs.BOM_UTF8):
            head, self.encoding = head[3:], "utf-8"
        elif self.encoding == "utf-16":
            raise InputError(
                f"{self.path.name} must be UTF-16 as [orders] encoding says. Got no byte order "
                "mark. Remove that setting or save the file as UTF-16 with a mark."
            )
        if self.encoding != "utf-8":
            self._decoder = codecs.getincrementaldecoder(self.encoding)("clv_mark")
        self._take(head)

    def _refused(self, found: str, setting: str) -> InputError:
        return InputError(
            f"{self.path.name} must be UTF-8. Got {found}. Save it as UTF-8, or set "
            f'[orders] encoding = "{setting}" in clv.toml.'
        )

    def _chunk(self) -> bytes:
        while True:
            raw = self._file.read(1 << 16 if self._zip else BLOCK)
            self.packed += len(raw)
            if self._zip is None:
                self.unpacked += len(raw)
                return raw
            if not raw:
                if not self._zip.eof:
                    raise InputError(
                        f"{self.path.name} must be a whole gzip file. Got one that ends early. "
                        "Copy it again."
                    )
                return b""
            data = self._unpack(raw)
            if data:
                return data

    def _unpack(self, raw: bytes) -> bytes:
        out = bytearray()
        try:
            while raw:
                if self._zip is None or self._zip.eof:  # one gzip file may have several members
                    self._zip = zlib.decompressobj(31)
                piece = self._zip.decompress(raw, BLOCK)
                raw = self._zip.unconsumed_tail or self._zip.unused_data
                out += piece
                self.unpacked += len(piece)
                self._check_bomb()
        except zlib.error:
            raise InputError(
                f"{self.path.name} must be a gzip file. Got damaged or other data. Copy it again."
            ) from None
        return bytes(out)

    def _check_bomb(self) -> None:
        most = max(BOMB_FREE, BOMB_RATIO * self.packed)
        if self.unpacked > min(most, BOMB_SIZE):
            raise InputError(
                f"{self.path.name} must not unpack to more than {BOMB_RATIO} times its size. Got "
                f"{self.unpacked} bytes from {self.packed}. Unpack it yourself if you trust it."
            )

    def _take(self, chunk: bytes, final: bool = False) -> None:
        if self._decoder is None and chunk.isascii():
            self.saw_mark = self.saw_mark or b"\0" in chunk
            self._ready += chunk
            return
        if self._decoder is None:
            self._decoder = codecs.getincrementaldecoder("utf-8")("clv_mark")
        if self.encoding == "latin-1" and not chunk.isascii():
            self._as_utf8[0 if _is_utf8(chunk) else 1] += 1
        text = self._decoder.decode(chunk, final).encode("utf-8", "clv_mark")
        self.saw_mark = self.saw_mark or b"\0" in text
        self._ready += text

    def head(self, size: int) -> bytes:
        """Up to `size` bytes from the present place, without taking them."""
        while len(self._ready) < size:
            if not self._more():
                break
        return bytes(self._ready[:size])

    def _more(self) -> bool:
        if self._file.closed:
            return False
        chunk = self._chunk()
        self._take(chunk, final=not chunk)
        if not chunk:
            self._end()
        return True

    def _end(self) -> None:
        after = os.fstat(self._file.fileno())
        self._file.close()
        before = self.before
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise InputError(
                f"{self.path.name} must not change while it is read. Its size or time changed. "
                "Wait until it is written to the end."
            )
        if self._as_utf8[0] and not self._as_utf8[1]:
            raise InputError(
                f"{self.path.name} must be Latin-1 as [orders] encoding says. Got UTF-8. Remove "
                "that setting."
            )

    def readable(self) -> bool:
        """True: the parser asks."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        wanted = size if size >= 0 else 1 << 62
        while len(self._ready) < wanted and self._more():
            pass
        out = bytes(self._ready[:wanted])
        del self._ready[:wanted]
        return out

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()


def _wide(head: bytes) -> bool:
    sample = head[:4096]
    return len(sample) >= 16 and sample.count(0) > 0.3 * len(sample)


def _is_utf8(chunk: bytes) -> bool:
    while chunk and 0x80 <= chunk[0] < 0xC0:
        chunk = chunk[1:]
    try:
        codecs.getincrementaldecoder("utf-8")().decode(chunk)
    except UnicodeDecodeError:
        return False
    return True


class Csv:
    """One CSV file, plain or gzip: its columns, then its records as text.

    Raises
    ------
    InputError
        Empty file, no header, an encoding other than the one set, a gzip bomb, a file that changes
        while it is read, a quote that is never closed.
    """

    def __init__(self, path: Path, name: str, encoding: str) -> None:
        self.name = name
        self.source = Bytes(path, encoding)
        self.columns, self._lines = self._header()
        self.blank = 0  # empty lines, which are no records

    @property
    def share(self) -> float:
        """Part of the file that was read, 0 to 1."""
        return self.source.packed / max(self.source.before.st_size, 1)

    def _header(self) -> tuple[tuple[str, ...], int]:
        head = self.source.head(HEADER)
        body = head.lstrip(b"\r\n")
        if not body:
            raise InputError(
                f"{self.name} must hold a header line and data. Got an empty file. Export it again."
            )
        size = _record_end(body)
        lead = len(head) - len(body)
        text = body[:size].decode("utf-8").rstrip("\r\n")
        if MARK in text or (size == len(body) and len(head) == HEADER):
            raise InputError(
                f"{self.name} must begin with a header line of text. Got bytes that are none. "
                "Export it again as CSV in UTF-8."
            )
        self.source.read(lead + size)
        self.delimiter = _delimiter(text)
        columns = next(csv.reader([text], delimiter=self.delimiter))
        return tuple(columns), _breaks(head[: lead + size])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Records as text columns ``c0, c1, ...`` with ``line`` (in the file) and ``bad``."""
        if not self.source.head(1):
            return
        bad = BadLines()
        number, line = 1, self._lines + 1  # the next record, and the line where it begins
        try:
            for batch in self._parser(bad):
                table, number, line = self._placed(batch, bad, number, line)
                yield from table
            if bad.found:
                yield self._misfits(bad, [(n, line + n - number) for n in sorted(bad.found)])
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{self.name} near line {line} must be CSV. Got: {_reason(error)}. Look for a "
                "quote that is not closed."
            ) from None
        finally:
            self.source.close()

    def _parser(self, bad: BadLines) -> Iterator[pa.RecordBatch]:
        names = [f"c{i}" for i in range(len(self.columns))]
        stream = pa.PythonFile(self.source, mode="r")
        # One thread: only then does the parser give numbers to the records it refuses.
        reader = pacsv.open_csv(
            stream,
            pacsv.ReadOptions(use_threads=False, block_size=BLOCK, column_names=names),
            pacsv.ParseOptions(
                delimiter=self.delimiter,
                newlines_in_values=True,
                ignore_empty_lines=False,
                invalid_row_handler=bad.add,
            ),
            pacsv.ConvertOptions(
                check_utf8=False,
                strings_can_be_null=False,
                column_types={name: pa.string() for name in names},
            ),
        )
        yield from reader

    def _placed(
        self, batch: pa.RecordBatch, bad: BadLines, number: int, line: int
    ) -> tuple[list[pa.RecordBatch], int, int]:
        """The batch with its lines, the misfits among it, and where the next record begins."""
        rows = batch.num_rows
        numbers = np.arange(number, number + rows, dtype=np.int64)
        inner = _inner_breaks(batch)
        misfits = sorted(bad.found)
        extra: list[tuple[int, int]] = []
        if not misfits and inner is None:
            lines = line + numbers - number
            following = line + rows
        else:
            numbers, misfits = _numbers(number, rows, misfits)
            width = np.ones(rows + len(misfits), np.int64)
            width[numbers - number] += 0 if inner is None else inner
            for n in misfits:
                width[n - number] += bad.breaks[n]
            starts = line + np.concatenate([[0], np.cumsum(width)])
            lines, following = starts[numbers - number], int(starts[-1])
            extra = [(n, int(starts[n - number])) for n in misfits]
        out = [self._kept(batch, lines)]
        if extra:
            out.append(self._misfits(bad, extra))
        return out, number + rows + len(extra), following

    def _kept(self, batch: pa.RecordBatch, lines: np.ndarray) -> pa.RecordBatch:
        empty = pa.nulls(batch.num_rows, pa.string())
        marks = _marks(batch) if self.source.saw_mark else None
        text = "holds bytes that are not UTF-8 text, or NUL"
        bad = empty if marks is None else pc.if_else(marks, text, pa.scalar(None, pa.string()))
        arrays = [*batch.columns, pa.array(lines), bad]
        names = [*batch.schema.names, "line", "bad"]
        out = pa.RecordBatch.from_arrays(arrays, names=names)
        blank = _blank(batch)
        if blank is None:
            return out
        self.blank += int(blank.sum())
        return out.filter(pa.array(~blank))

    def _misfits(self, bad: BadLines, places: list[tuple[int, int]]) -> pa.RecordBatch:
        reasons = pa.array([bad.found.pop(n) for n, _ in places], pa.string())
        lines = pa.array([line for _, line in places], pa.int64())
        names = [f"c{i}" for i in range(len(self.columns))]
        arrays = [pa.nulls(len(places), pa.string())] * len(names) + [lines, reasons]
        return pa.RecordBatch.from_arrays(arrays, names=[*names, "line", "bad"])


def _numbers(number: int, rows: int, misfits: list[int]) -> tuple[np.ndarray, list[int]]:
    """Record numbers of a batch's rows when some records before or between them were left out."""
    inside: list[int] = []
    for n in misfits:  # in order, so each one inside moves the end by one
        if n < number + rows + len(inside):
            inside.append(n)
    every = np.arange(number, number + rows + len(inside), dtype=np.int64)
    return np.setdiff1d(every, inside, assume_unique=True), inside


def _inner_breaks(batch: pa.RecordBatch) -> np.ndarray | None:
    """Line breaks within the quoted values of each row; None when there are none."""
    total = None
    for column in batch.columns:
        data = column.buffers()[2]
        if data is None or not _has(data, b"\n\r"):
            continue
        parts = [pc.count_substring(column, mark) for mark in ("\n", "\r", "\r\n")]
        n, r, both = (part.to_numpy(zero_copy_only=False).astype(np.int64) for part in parts)
        total = n + r - both if total is None else total + n + r - both
    return total


def _marks(batch: pa.RecordBatch) -> pa.Array | None:
    found = None
    for column in batch.columns:
        data = column.buffers()[2]
        if data is not None and _has(data, b"\0"):
            hit = pc.match_substring(column, MARK)
            found = hit if found is None else pc.or_(found, hit)
    return found


def _has(data: pa.Buffer, wanted: bytes) -> bool:
    content = data.to_pybytes()
    return any(bytes([byte]) in content for byte in wanted)


def _blank(batch: pa.RecordBatch) -> np.ndarray | None:
    """Rows with nothing in any field: blank lines, which the parser pads."""
    blank = None
    for column in batch.columns:
        empty = pc.equal(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
        blank = empty if blank is None else blank & empty
        if not blank.any():
            return None
    return blank


def _record_end(body: bytes) -> int:
    """Length of the first record with its line break; quoted line breaks do not end it."""
    quoted = False
    for place, byte in enumerate(body):
        if byte == 0x22:
            quoted = not quoted
        elif byte in (0x0A, 0x0D) and not quoted:
            pair = body[place : place + 2] == b"\r\n"
            return place + (2 if pair else 1)
    return len(body)


def _breaks(text: bytes) -> int:
    return text.count(b"\n") + text.count(b"\r") - text.count(b"\r\n")


def _delimiter(header: str) -> str:
    counts = {mark: len(next(csv.reader([header], delimiter=mark))) for mark in DELIMITERS}
    return max(DELIMITERS, key=lambda mark: counts[mark])


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0]
    if "straddling" in text:
        return f"a record longer than {BLOCK >> 20} MB"
    return text.split(": Row #")[0][:120]
