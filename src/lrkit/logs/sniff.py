"""`read`: any training log → Run. Tries each reader in turn and names them all where none knows the file."""

from pathlib import Path

from lrkit.errors import FileError, reason
from lrkit.logs.readers import Reader, jsonl, lrkit_run, table
from lrkit.run import FILE_NAME, Run

READERS: tuple[Reader, ...] = (lrkit_run, jsonl, table)


def read(path: str | Path) -> Run:
    """Read one training log.

    Args:
        path: A run that lrkit wrote (the folder or the file), a JSONL file with one object a row, or a CSV table with a
            header. Usual column names are recognised (`train/loss`, `learning_rate`, `global_step` …).

    Returns:
        The run, its columns under lrkit's names where their meaning is known.

    Raises:
        FileError: If the file is missing, empty, has no loss column, or no reader knows it.
    """
    file = Path(path)
    try:
        if file.is_dir():
            if not (file / FILE_NAME).exists():
                raise FileError(f"read({str(path)!r}): there is no {FILE_NAME} in this folder. Name the log file itself.")
            file = file / FILE_NAME
        raw = file.read_bytes()
    except FileError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"read({str(path)!r}): cannot be read: {reason(error)}. Check the path.") from error
    # Windows' shells write logs in UTF-16, which begins with a mark of its own.
    text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="replace")
    if not text.strip():
        raise FileError(f"read({str(path)!r}): the file is empty. Was the run ever started?")
    for reader in READERS:
        run = reader(file, text)
        if run is not None:
            return run
    names = ", ".join(reader.__name__ for reader in READERS)
    first = text.strip().splitlines()[0][:60]
    raise FileError(
        f"read({str(path)!r}): no reader knows this file; tried {names}. Its first line is {first!r}. "
        "Write it as CSV with a header, e.g. step,loss,lr."
    )
