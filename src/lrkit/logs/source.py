"""Source: the bytes of one log, and how to find them: a file, a compressed file, a folder. Knows no format's inside."""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lrkit.errors import FileError, reason
from lrkit.journal import FILE_NAME

LARGEST_FILE = 1 << 30  # bytes, unpacked
NAMES = (FILE_NAME, "trainer_state.json", "metrics.csv", "results.csv", "measurements.csv", "output.log")
EVENTS = "events.out.tfevents."
TRAINED, HELD_OUT = "train", "validation"  # folders of Keras' TensorBoard callback
_DEPTH, _MOST_FILES = 8, 10_000
_HEAD = 4096  # bytes or characters that tell what a file is
_BLANK = b" \t\r\n\xef\xbb\xbf"
_POINTER = b"version https://git-lfs.github.com/spec/"


class NoLogError(FileError):
    """There is no log in a folder."""


@dataclass(frozen=True)
class Source:
    """One log.

    Args:
        path: Of the file, or of the folder where a log is several files.
        data: Its bytes, unpacked; none for a folder.
        members: The files of a folder, each with its path.
        call: The call that reads it, for the messages.
    """

    path: Path
    data: bytes = b""
    members: tuple["Source", ...] = ()
    call: str = "read"

    @cached_property
    def text(self) -> str:
        """The bytes as text, with one kind of line end; empty for a folder and for what is binary."""
        # Windows' shells write logs in UTF-16, which begins with a mark of its own.
        wide = self.data[:2] in (b"\xff\xfe", b"\xfe\xff")
        if not wide and b"\0" in self.data[:_HEAD]:
            return ""
        text = self.data.decode("utf-16" if wide else "utf-8-sig", errors="replace")
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text

    @property
    def head(self) -> str:
        """The first characters of the text, from where it begins: a large text is not copied to look at them."""
        return self.text[:_HEAD].lstrip("\ufeff \t\n")

    @property
    def where(self) -> str:
        """The call on this file, as the messages begin."""
        return f"{self.call}({str(self.path)!r})"

    @classmethod
    def of(cls, path: Path, raw: bytes, call: str = "read") -> "Source":
        """A file's log, unpacked.

        Raises:
            FileError: If it is empty, a pointer to a file that git has not fetched, or packed and damaged.
        """
        where = f"{call}({str(path)!r})"
        data = _unpacked(where, raw) if raw[:2] == b"\x1f\x8b" else raw
        if data.startswith(_POINTER):
            raise FileError(f"{where}: it is a Git LFS pointer, not the log itself. Fetch the log: git lfs pull.")
        if not data[:_HEAD].strip(_BLANK) and not data.strip(_BLANK):
            raise FileError(f"{where}: the file is empty. Was the run ever started?")
        return cls(path, data, (), call)


def _unpacked(where: str, raw: bytes) -> bytes:
    """What gzip packed; a torn end is dropped."""
    parts: list[bytes] = []
    size = 0
    while raw[:2] == b"\x1f\x8b":
        unpacker = zlib.decompressobj(wbits=31)
        try:
            parts.append(unpacker.decompress(raw, LARGEST_FILE - size + 1))
        except zlib.error as error:
            raise FileError(f"{where}: it is packed by gzip and damaged: {error}. Copy it again.") from error
        size += len(parts[-1])
        if size > LARGEST_FILE:
            raise FileError(f"{where}: it unpacks to more than {LARGEST_FILE >> 20} MiB. Split it.")
        raw = unpacker.unused_data
    return b"".join(parts)


def sources(path: Path, call: str) -> Iterator[Source]:
    """Every log of a file or a folder, in sorted order.

    Raises:
        NoLogError: If there is none.
        FileError: If it cannot be read.
    """
    found = False
    try:
        for source in _logs(path, call, [_MOST_FILES], _DEPTH) if path.is_dir() else [_file(path, call)]:
            found = True
            yield source
    except FileError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"{call}({str(path)!r}): cannot be read: {reason(error)}. Check the path.") from error
    if not found:
        names = ", ".join(NAMES)
        raise NoLogError(
            f"{call}({str(path)!r}): there is no log in this folder; looked for {names}, {EVENTS}* and MLflow's metrics/. "
            "Name the log file itself."
        )


def _file(path: Path, call: str) -> Source:
    if path.exists() and not path.is_file():  # a pipe without a writer would be waited for, and a device never ends
        raise FileError(f"{call}({str(path)!r}): it is no file but a pipe or a device. Save the log to a file first.")
    if path.stat().st_size > LARGEST_FILE:
        raise FileError(f"{call}({str(path)!r}): it is larger than {LARGEST_FILE >> 20} MiB. Split it.")
    return Source.of(path, path.read_bytes(), call)


def _logs(folder: Path, call: str, budget: list[int], depth: int) -> Iterator[Source]:
    """The logs of a folder: its own, then those of the folders in it."""
    inside = sorted(folder.iterdir())
    budget[0] -= len(inside)
    if budget[0] < 0:
        raise FileError(f"{call}({str(folder)!r}): there are more than {_MOST_FILES} files below. Name a folder further in.")
    files = [one for one in inside if one.is_file()]
    yield from (_file(one, call) for one in files if one.name.removesuffix(".gz") in NAMES)
    if events := [one for one in files if one.name.startswith(EVENTS)]:
        yield _folder(folder, sorted(events, key=_time), call)
    metrics = folder / "metrics"
    if metrics.is_dir() and ((folder / "meta.yaml").exists() or (folder / "params").is_dir()):
        told = [one for name in ("metrics", "params", "tags") for one in sorted((folder / name).rglob("*")) if one.is_file()]
        yield _folder(folder, told[:_MOST_FILES], call)
        return
    folders = [one for one in inside if one.is_dir() and not one.is_symlink() and not one.name.startswith(".")]
    if not events and (both := _keras(folders)):
        yield _folder(folder, both, call)
        folders = [one for one in folders if one.name not in (TRAINED, HELD_OUT)]
    for one in _last_checkpoint(folders, files) if depth else ():
        yield from _logs(one, call, budget, depth - 1)


def _folder(folder: Path, files: list[Path], call: str) -> Source:
    if sum(one.stat().st_size for one in files) > LARGEST_FILE:
        raise FileError(f"{call}({str(folder)!r}): its files are larger than {LARGEST_FILE >> 20} MiB. Read them one by one.")
    return Source(folder, b"", tuple(Source(one, one.read_bytes(), (), call) for one in files), call)


def _keras(folders: list[Path]) -> list[Path]:
    """The event files of the two folders in which Keras' TensorBoard callback keeps the two losses of one run, or none."""
    found = [
        sorted((path for path in one.iterdir() if path.name.startswith(EVENTS) and path.is_file()), key=_time)
        for one in folders
        if one.name in (TRAINED, HELD_OUT)
    ]
    return [path for files in found for path in files] if len(found) == 2 and all(found) else []


def _time(events: Path) -> tuple[int, str]:
    """When an event file was begun, which its name holds."""
    stamp = re.match(r"\d{1,18}", events.name.removeprefix(EVENTS))
    return int(stamp[0]) if stamp else 0, events.name


def _last_checkpoint(folders: list[Path], files: list[Path]) -> list[Path]:
    """Without the checkpoints whose story a later one tells in full."""
    numbered = {one: int(match[1]) for one in folders if (match := re.fullmatch(r"checkpoint-(\d{1,18})", one.name))}
    told = any(one.name == "trainer_state.json" for one in files)
    last = None if told or not numbered else max(numbered, key=lambda one: numbered[one])
    return [one for one in folders if one not in numbered or one == last]
