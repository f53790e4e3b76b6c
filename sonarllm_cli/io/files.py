"""Texts in, results out: files and pipes, read line by line and never left half-written.

In: UTF-8 text or JSON Lines, plain or compressed (.gz .xz .bz2), from a path or from standard input ("-").
Out: `TextLine`s that know their line number; and files that take their name only once they are whole.

    python -c "from sonarllm_cli.io.files import read_lines; print(*read_lines('README.md'), sep='\\n')"
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import json
import lzma
import os
import re
import shlex
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, cast

from sonarllm_cli.errors import RunError, UserError, nearest, printable

PathName = str | os.PathLike[str]
JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
STALE = 600.0  # seconds after which what a process that is gone left half-written is swept
_DISK_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}


class TextLine(NamedTuple):
    """One text of a file: its 1-based line, and for JSON Lines its language and the whole record."""

    number: int
    text: str
    lang: str | None = None
    record: dict[str, Any] | None = None


# ---------------------------------------------------------------------------------------------- reading


def display_name(path: PathName) -> str:
    """What messages call an input: its path, or "standard input"."""
    return "standard input" if path == "-" else os.fspath(path)


def text_ending(path: PathName) -> str:
    """The ending that tells the format, in lower case and under any compression.

    >>> text_ending("news.JSONL.gz")
    '.jsonl'
    """
    return Path(uncompressed(path)).suffix.lower()


def uncompressed(path: PathName) -> str:
    """A file's name without the ending of a compression.

    >>> uncompressed("news/one.txt.gz")
    'news/one.txt'
    """
    stem, ending = os.path.splitext(path)
    return stem if ending.lower() in OPENERS else os.fspath(path)


@contextmanager
def read_errors(path: PathName) -> Iterator[None]:
    """Turn what goes wrong while `path` is opened and read into `UserError`s that name it."""
    name = display_name(path)
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"no such file: {name}", "check the path") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{name} is a folder, or lies in a file", "name a file") from error
    except PermissionError as error:
        raise UserError(f"no permission to read {name}", f"chmod u+r {shlex.quote(name)}") from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UserError(f"{name} is damaged or cut short: {error}", "compress or fetch it again") from error
    except OSError as error:
        if error.errno is None:  # how bz2 reports bad data
            raise UserError(f"{name} is damaged or cut short: {error}", "compress or fetch it again") from error
        if error.errno == errno.ENOMEM:
            raise MemoryError(f"cannot map {name}") from error
        raise UserError(f"cannot read {name}: {error.strerror or error}", "check the path") from error


def open_bytes(path: PathName) -> AbstractContextManager[BinaryIO]:
    """The bytes of a file, decompressed by its ending, or of standard input (which is left open).

    Raises UserError if there is no such file, it is a folder, or may not be read.
    """
    if path == "-":
        if not hasattr(sys.stdin, "buffer"):
            raise UserError("standard input is closed", "pipe something in, or name a file")
        return contextlib.nullcontext(cast(BinaryIO, sys.stdin.buffer))
    name = os.fspath(path)
    if "\0" in name:
        raise UserError(f"{name!r} is not a file name", "check the path")
    if os.path.isdir(name):  # opening it would say "no permission" on Windows
        raise UserError(f"{name} is a folder, not a file", "name a file in it")
    with read_errors(path):
        return cast(BinaryIO, OPENERS.get(Path(name).suffix.lower(), open)(name, "rb"))


def first_bytes(path: PathName, count: int = 16) -> bytes:
    """What a file, or standard input, begins with, which whoever reads it gets all the same; b"" of pipes with a name,
    and where nothing can be read."""
    if path == "-":
        peek = getattr(getattr(sys.stdin, "buffer", None), "peek", None)
        return bytes(peek(count)[:count]) if peek else b""
    with contextlib.suppress(OSError, ValueError):
        if os.path.isfile(path):
            with open(path, "rb") as stream:
                return stream.read(count)
    return b""


_SOUND = re.compile(
    rb"RIFF.{4}WAVE|RF64.{4}WAVE|riff\x2e\x91|fLaC[\x00\x80]|OggS\0|FORM.{4}AIF[FC]|\.snd\0|caff\0|ID3[\2-\4]"
    rb"|\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef]",  # a frame of MP3 without a tag before it
    re.S,
)


def begins_as_sound(data: bytes) -> bool:
    """Whether first bytes are those of a recording: WAV, FLAC, Ogg, AIFF, AU, CAF or MP3."""
    return bool(_SOUND.match(data))


def decode_text(data: bytes, path: PathName, *, line: int = 1, offset: int = 0) -> str:
    """`data`, which begins at this line and byte of the file, as text; a byte order mark is dropped."""
    name, command = display_name(path), "" if path == "-" else f" {shlex.quote(os.fspath(path))}"
    if offset == 0 and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{name}, line 1: UTF-16, not UTF-8, at byte 0", f"iconv -f utf-16 -t utf-8{command}")
    if offset == 0 and begins_as_sound(data):
        cure = "give it to a command that hears: embed, search, translate …"
        raise UserError(f"{name} is a recording, not text", cure)
    if (nul := data.find(b"\0")) >= 0:
        number = line + data.count(b"\n", 0, nul)
        raise UserError(f"{name}, line {number}: binary data (a NUL byte)", "give plain UTF-8 text")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = line + data.count(b"\n", 0, error.start)
        raise UserError(
            f"{name}, line {number}: not UTF-8 at byte {offset + error.start}", f"iconv -f cp1252 -t utf-8{command}"
        ) from error
    return text.removeprefix("\ufeff") if offset == 0 else text


def read_text(path: PathName) -> str:
    """The whole of a UTF-8 file or of standard input ("-").

    Raises UserError if it cannot be read, is not UTF-8 text, or is blank.
    """
    with read_errors(path), open_bytes(path) as stream:
        text = decode_text(stream.read(), path)
    if not text.strip():
        raise UserError(f"{display_name(path)} is empty", "give it some text")
    return text


def numbered_lines(
    stream: BinaryIO, path: PathName, *, max_chars: int, head: bytes = b"", blank: bool = False
) -> Iterator[tuple[int, str]]:
    """(1-based number, text) of each line, of blank ones only with `blank`; `head` is what was already taken off the
    stream.

    At most four bytes a character of one line are held. Raises UserError for text that is not UTF-8 or a line
    over `max_chars`.
    """
    limit = 4 * max_chars + 6  # UTF-8 has at most four bytes a character; a byte order mark and "\r\n" are free
    number = offset = 0
    with read_errors(path):
        while data := head if head.endswith(b"\n") else head + stream.readline(limit):
            number, head = number + 1, b""
            text = "" if len(data) >= limit else decode_text(data, path, line=number, offset=offset).rstrip("\r\n")
            if len(data) >= limit or len(text) > max_chars:
                raise UserError(
                    f"{display_name(path)}, line {number} is longer than {max_chars:,} characters",
                    "split it into sentences first, one a line",
                )
            offset += len(data)
            if blank or text.strip():
                yield number, text


def load_json(data: str | bytes, **options: Any) -> Any:
    """The JSON value of `data`. ValueError for anything else, of whatever depth."""
    try:
        return json.loads(data, **options)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_json(text: str, where: str, **options: Any) -> Any:
    """The JSON value of one line; `where` names the line in the UserError for one that is not JSON."""
    try:
        value = load_json(text, **options)
        if "\\u" in text:  # an escape may spell half a surrogate pair, which no UTF-8 output can hold
            json.dumps(value, ensure_ascii=False).encode()
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})", "give one JSON value a line (JSON Lines)") from error
    return value


def missing_field(where: str, field: str, record: dict[str, Any]) -> UserError:
    """The error for a record without `field`, naming the field that is most like it."""
    hit = nearest(field, list(record))
    cure = f'did you mean "{hit}"?' if hit else f"its fields are: {', '.join(list(record)[:8]) or 'none'}"
    return UserError(f'{where}: no field "{field}"', cure)


def read_lines(
    path: PathName, *, text_field: str | None = None, max_chars: int = 1_000_000, blank: bool = False
) -> Iterator[TextLine]:
    """The texts of a file or of standard input ("-"), one a line, without holding more than a line.

    Blank lines, and records whose text is blank, are skipped, or with `blank` are texts too (but not blank lines
    between records); line numbers stay those of the file. With `text_field`, or for a name that ends in .jsonl, .ndjson
    or .json ("text" is taken), lines are JSON objects; and so they are on standard input if its first is an object with
    a string "text".
    The file is opened at once. Raises UserError, now or on the way, for every input that cannot be read as texts.
    """
    field = "text" if text_field is None and text_ending(path) in JSON_ENDINGS else text_field
    return _text_lines(open_bytes(path), path, field, max_chars, blank)


def _text_lines(
    source: AbstractContextManager[BinaryIO], path: PathName, field: str | None, max_chars: int, blank: bool
) -> Iterator[TextLine]:
    found = False
    with source as stream:
        for number, text in numbered_lines(stream, path, max_chars=max_chars, blank=blank):
            line = TextLine(number, text)
            if path == "-" and field is None and not found and _holds_text(text):
                field = "text"  # records of a command before, as of segment --json
            if field is not None and not text.strip():
                continue
            if field is not None:
                line = _text_record(number, text, f"{display_name(path)}, line {number}", field)
            found = found or bool(line.text.strip())
            if blank or line.text.strip():
                yield line
    if not found:
        raise UserError(f"{display_name(path)} is empty", "give it some text")


def _holds_text(line: str) -> bool:
    """Whether a line is a JSON object with a string "text"."""
    if not line.lstrip().startswith("{"):
        return False
    try:
        record = load_json(line)
    except ValueError:
        return False
    return isinstance(record, dict) and isinstance(record.get("text"), str)


def _text_record(number: int, line: str, where: str, field: str) -> TextLine:
    record = parse_json(line, where)
    if not isinstance(record, dict):
        raise UserError(f"{where}: not a JSON object", f'give one object a line, as {{"{field}": "..."}}')
    if field not in record:
        raise missing_field(where, field, record)
    text, lang = record[field], record.get("lang")
    if not isinstance(text, str):
        raise UserError(f'{where}: the field "{field}" is not a string', "name the field that holds the text")
    if "\0" in text:
        raise UserError(f"{where}: binary data (a NUL character)", "give plain text")
    if not isinstance(lang, str | None):
        raise UserError(f'{where}: the field "lang" is not a string', 'give a language, as "en", or leave it out')
    return TextLine(number, text, lang, record)


# ---------------------------------------------------------------------------------------------- writing


_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # NumPy's words for a full disk, without a number


@contextmanager
def write_errors(name: PathName, scratch: Path | None = None) -> Iterator[None]:
    """Name `name` in the error for a full disk (RunError) or a `scratch` path that cannot be used (UserError).

    Every other error passes as it is: it belongs to the work, not to the writing.
    """
    try:
        yield
    except OSError as error:
        reason = f"cannot write {os.fspath(name)}: {error.strerror or error}"
        short = error.errno is None and _SHORT_WRITE.search(str(error))
        if short or error.errno in _DISK_ERRORS:
            raise RunError(reason, "free some space or choose another -o") from error
        if scratch is not None and str(error.filename or "").startswith(str(scratch)):
            raise UserError(reason, "choose another -o") from error
        raise


def check_target(path: PathName) -> Path:
    """Where `path` really lies, links followed. Raises UserError if its parent folder is missing."""
    name = os.fspath(path)
    if not name or "\0" in name:
        raise UserError(f"{name!r} is not a file name", "choose another -o")
    target = Path(os.path.realpath(name))
    if not target.parent.is_dir():
        parent = Path(name).parent
        raise UserError(f"cannot write {name}: no such folder: {parent}", f"mkdir -p {shlex.quote(str(parent))}")
    return target


def make_folder(path: PathName) -> None:
    """Make the folder `path`, and those above it, where there is none. UserError where it can't be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        name = os.fspath(path)
        if error.errno in _DISK_ERRORS:
            raise RunError(
                f"cannot make {name}: {error.strerror}", "free some space or choose another folder"
            ) from None
        reason = "it is a file, not a folder" if os.path.isfile(path) else error.strerror or error
        raise UserError(f"cannot make {name}: {reason}", "choose another folder") from None


def check_file(path: PathName) -> Path:
    """`check_target` of what is to be a file: UserError for a folder, too."""
    target = check_target(path)
    if target.is_dir():
        raise UserError(f"cannot write {os.fspath(path)}: it is a folder", "name a file in it")
    return target


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{os.getpid()}")


def _sweep(target: Path) -> None:
    """Put away what writers of `target` that were killed have left beside it. A folder that one of them had moved away,
    to put another in its place, and that is all there is, goes back."""
    for kind in ("old", "tmp"):
        prefix = f".{target.name}.{kind}-"
        for left in target.parent.glob(f"{_literal(prefix)}*"):
            with contextlib.suppress(OSError):  # another's, or gone by now
                pid = left.name.removeprefix(prefix)
                if not pid.isdecimal() or time.time() - left.lstat().st_mtime < STALE or _alive(int(pid)):
                    continue
                if kind == "old" and not target.exists():
                    os.replace(left, target)
                elif left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left)
                else:
                    left.unlink()


def _literal(name: str) -> str:
    """`name` as a pattern that matches itself alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _alive(pid: int) -> bool:
    if os.name != "posix":  # where a file that is open can't be deleted, and signal 0 is Ctrl-C
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _sync(file: Path) -> None:
    with open(file, "rb" if os.name == "posix" else "rb+") as stream:  # Windows syncs only what it may write
        os.fsync(stream.fileno())


@contextmanager
def atomic_file(path: PathName) -> Iterator[Path]:
    """A temporary name to fill; after a clean end `path` is that file, after an exception it is as it was.

    Devices and named pipes are not replaced but written to: for them the name given is their own.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        with write_errors(path, Path(path)):
            yield Path(path)
        return
    target = check_file(path)
    _sweep(target)
    temporary = _beside(target, "tmp")
    try:
        with write_errors(path, temporary):
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def atomic_write(path: PathName, data: bytes | str) -> None:
    """Make `data` (text as UTF-8) the content of `path`, all of it or nothing."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_folder(path: PathName, *, marker: str = "") -> Iterator[Path]:
    """A temporary folder to fill; after a clean end `path` is that folder, after an exception it is as it was.

    A folder that is already there is replaced, but never one that holds the home or the current folder, nor,
    if `marker` is given, one that holds things and no file of that name.
    """
    target = check_target(path)
    _sweep(target)
    _check_replaceable(target, os.fspath(path), marker)
    temporary, old = _beside(target, "tmp"), _beside(target, "old")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with write_errors(path, temporary):
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    _sync(file)
            _swap(temporary, target, old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(target: Path, name: str, marker: str) -> None:
    if target.exists() and not target.is_dir():
        raise UserError(f"cannot write {name}: it is a file, not a folder", "choose another -o")
    if any(Path(os.path.realpath(os.path.expanduser(folder))).is_relative_to(target) for folder in (".", "~")):
        raise UserError(f"cannot replace {name}: it holds your home or current folder", "choose another -o")
    if marker and target.exists() and any(target.iterdir()) and not (target / marker).exists():
        raise UserError(f"will not replace {name}: it holds other things and no {marker}", "choose another -o")


def _swap(new: Path, target: Path, old: Path) -> None:
    """Put `new` in the place of `target`; what was there goes only once the new one stands."""
    if not target.exists():
        os.replace(new, target)
        return
    shutil.rmtree(old, ignore_errors=True)
    os.replace(target, old)
    try:
        os.replace(new, target)
    except BaseException:
        os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


class _Screen:
    """Standard output where it is a terminal: what a text holds is shown, not obeyed."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(printable(text))

    def flush(self) -> None:
        self.stream.flush()


@contextmanager
def open_output(path: str | None) -> Iterator[TextIO]:
    """A stream for UTF-8 text: standard output for None and "-" (on a terminal without the control characters of the
    text), else a file that appears when it is whole."""
    if path is None or path == "-":
        if (sys.stdout.encoding or "utf-8").lower() != "utf-8" and hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8")  # data out is UTF-8 in every locale
        with write_errors("standard output"):
            yield cast(TextIO, _Screen(sys.stdout)) if sys.stdout.isatty() else sys.stdout
            sys.stdout.flush()
        return
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as stream:
        yield stream


@contextmanager
def locked(path: PathName, message: str, cure: str) -> Iterator[None]:
    """The lock file `path`, held by one process at a time, at the latest until it ends; UserError where another holds
    it. The file stays: whether it is held is the system's knowledge."""
    from filelock import FileLock, Timeout

    try:
        lock = FileLock(path, timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(message, cure) from None
    except NotImplementedError:  # a file system that knows no locks
        yield
        return
    try:
        yield
    finally:
        lock.release()
