"""From what is typed after ``lrkit doctor`` to diagnosed runs: globs, folders, columns. Prints nothing."""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrkit.doctor.diagnosis import Diagnosis, diagnose
from lrkit.errors import InputError, LrkitError
from lrkit.journal import FILE_NAME
from lrkit.logs.sniff import runs_in
from lrkit.logs.source import NoLogError, Source, sources
from lrkit.reporting.verdict import as_dict, label_of, run_name
from lrkit.run import Run

_DEPTH = 3  # folders below the one that was named
_LOGS = (".jsonl", ".csv", ".tsv", ".json", ".log", ".txt", ".gz")  # worth a look where a folder has no log of a known name


@dataclass(frozen=True)
class Case:
    """A run and what the doctor says of it.

    Args:
        source: The file or folder it was read from.
        diagnosis: Of the run.
    """

    source: str
    diagnosis: Diagnosis

    @property
    def name(self) -> str:
        """What to call it on a screen."""
        return run_name(self.source, self.diagnosis.run)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: ``source``, ``run`` (its own name, or None), then those of the diagnosis."""
        return {"source": self.source, "run": label_of(self.diagnosis.run) or None, **as_dict(self.diagnosis)}


def columns_of(pairs: Sequence[str]) -> dict[str, str]:
    """What `--column` says, as ours → theirs.

    Raises:
        InputError: If one is no pair, or names a column of ours twice.

    Examples:
        >>> columns_of(["loss=train/ce"])
        {'loss': 'train/ce'}
    """
    out: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and equals and theirs):
            raise InputError(f"--column wants ours=theirs, got {pair!r}. E.g. --column loss=train/ce.")
        if ours in out:
            raise InputError(f"--column names {ours!r} twice: {out[ours]!r} and {theirs!r}. Keep one of them.")
        out[ours] = theirs
    return out


def examine(paths: Sequence[str], columns: Mapping[str, str]) -> tuple[list[Case], list[str]]:
    """Read and diagnose all there is; what cannot be used does not stop the rest.

    Args:
        paths: Files, folders, globs.
        columns: Ours → theirs, over what the readers recognise.

    Returns:
        The cases, and a sentence for each input that cannot be used.
    """
    cases: list[Case] = []
    refused: list[str] = []
    for path in _expanded(paths, refused):
        try:
            runs = _read(path, columns, refused)
        except LrkitError as error:
            refused.append(str(error))
            continue
        for source, run in runs:
            try:
                cases.append(Case(source, diagnose(run)))
            except LrkitError as error:
                refused.append(f"{run_name(source, run)}: {error}")
    return cases, refused


def _expanded(paths: Sequence[str], refused: list[str]) -> list[str]:
    """The paths, each once, globs replaced by what they match."""
    out: dict[str, None] = {}
    for path in paths:
        if not path.strip():
            refused.append("a path is empty. Is a variable of the shell not set?")
            continue
        if not glob.has_magic(path) or _exists(path):
            out[path] = None
            continue
        found = sorted(glob.glob(str(Path(path).expanduser()), recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
        # Of "runs/**", which matches folders and what lies in them, the innermost.
        above = {str(folder) for one in found for folder in Path(one).parents}
        found = [one for one in found if str(Path(one)) not in above]
        out.update(dict.fromkeys(found))
        if not found:
            refused.append(f"no file matches {path!r}. Check the path.")
    return list(out)


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False  # reading it will say why


def _read(path: str, columns: Mapping[str, str], refused: list[str], depth: int = 0) -> list[tuple[str, Run]]:
    """The runs of a file or a folder. Where a folder cannot be read as a whole, what is in it is tried one by one.

    Raises:
        LrkitError: If there are none.
    """
    try:
        return [(_place(path, source), run) for source in sources(Path(path), "read_all") for run in runs_in(source, columns)]
    except LrkitError as error:
        found: list[tuple[str, Run]] = []
        lost = [] if isinstance(error, NoLogError) else [str(error)]
        for inside in _inside(path) if depth < _DEPTH else ():
            try:
                found += _read(inside, columns, lost, depth + 1)
            except LrkitError as other:  # a file of an unknown name need not be a log, nor need every folder hold one
                lost += [str(other)] if Path(inside).is_dir() and not isinstance(other, NoLogError) else []
        if not found:
            raise
        refused += [one for one in dict.fromkeys(lost) if one not in refused]
        return found


def _inside(path: str) -> list[str]:
    """The folders in a folder, and the files that may be logs; nothing of a file."""
    try:
        inside = [one for one in sorted(Path(path).iterdir()) if not one.name.startswith(".")]
        return [str(one) for one in inside if one.suffix.lower() in _LOGS or one.is_dir()]
    except (OSError, ValueError):
        return []


def _place(path: str, source: Source) -> str:
    """What was typed, where that is the log; else the file in that folder. A folder of lrkit's stands for its one file."""
    place = source.path
    if place != Path(path) and place.name == FILE_NAME:
        place = place.parent
    return path if place == Path(path) else str(place)
