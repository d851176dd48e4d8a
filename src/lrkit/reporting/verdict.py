"""What is said of a Diagnosis wherever it is shown: its words, its order of gravity, its form as JSON.

Knows no terminal and no page. Judges nothing: the doctor did.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrkit.doctor.diagnosis import Diagnosis
from lrkit.doctor.finding import Finding
from lrkit.run import Run

WORDS = ("too low", "ok", "too high", "diverged")  # as they lie on the axis of the rate


def percent(share: float) -> str:
    """A probability without false certainty.

    Examples:
        >>> percent(0.78), percent(0.998), percent(0.005)
        ('78 %', '> 99 %', '< 1 %')
    """
    return "> 99 %" if share >= 0.995 else "< 1 %" if share <= 0.005 else f"{100 * share:.0f} %"


def how_sure(finding: Finding) -> str:
    """E.g. ``likely 78 %``; nothing where no fault is named."""
    return f"{finding.sure} {percent(finding.confidence)}" if finding.accuses else ""


def family(finding: Finding) -> str:
    """The word of the rate whose colour a finding has; nothing where no fault is named.

    What asks for a higher rate looks like "too low", an explosion like itself, every other fault like "too high".
    """
    if not finding.accuses:
        return ""
    return "diverged" if finding.code == "diverged" else "too low" if finding.factor > 1 else "too high"


def tried(diagnosis: Diagnosis) -> str:
    """The rate to try, where a fault is at least likely; a mere possibility is no reason to change it."""
    return f"{diagnosis.advised_lr:.3g}" if diagnosis.serious and diagnosis.advised_lr is not None else ""


def gravity(diagnosis: Diagnosis) -> tuple[bool, bool, float]:
    """The graver, the greater: for sorting."""
    accused = [finding.confidence for finding in diagnosis.findings if finding.accuses]
    return diagnosis.serious, bool(accused), max(accused, default=0.0)


def probabilities(diagnosis: Diagnosis) -> dict[str, float]:
    """Word → calibrated probability, in the order of WORDS; nothing where the answer is that it cannot be told."""
    return {} if diagnosis.rate == "cannot tell" else {word: diagnosis.probabilities[word] for word in WORDS}


def label_of(run: Run) -> str:
    """What a run calls itself; empty where it has no name."""
    return next((str(run.meta[key]) for key in ("label", "run", "name") if run.meta.get(key) not in (None, "")), "")


def facts(run: Run) -> str:
    """Rows, steps and format of a run in a line."""
    span = f", steps {run.step[0]}–{run.step[-1]}" if len(run) else ""
    return f"{len(run)} row{'s' * (len(run) != 1)}{span}, {run.meta.get('format', 'lrkit')}"


def printable(text: str) -> str:
    """The text on one line, without what would steer a terminal or cannot be encoded.

    Examples:
        >>> printable("a\\x1b[31m\\nb")
        'a?[31m?b'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def run_name(source: str | Path, run: Run) -> str:
    """The file and, where the run has a name of its own, that."""
    label = label_of(run)
    return printable(f"{source} · {label}" if label and label not in Path(source).parts else str(source))


def without_common_folder(names: Sequence[str]) -> list[str]:
    """The paths from where they part.

    Examples:
        >>> without_common_folder(["runs/a/first", "runs/b/first"])
        ['a/first', 'b/first']
    """
    parts = [name.split("/") for name in names]
    shared = 0
    while parts and all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return ["/".join(one[shared:]) for one in parts]


def as_dict(diagnosis: Diagnosis) -> dict[str, Any]:
    """A Diagnosis as plain JSON values; numbers that are not finite become None.

    Returns:
        ``rate`` (ok, too low, too high, diverged or cannot tell), ``probabilities`` {word: number}, ``advised_lr`` (number or
        None), ``healthy`` and ``serious`` (bool), ``missing`` [name of a signal that is not in the log], and ``findings``, at
        most three, the surest first. Each of them has ``code``, ``sentence``, ``confidence`` (0 to 1), ``sure`` (certain, likely
        or possible), ``window`` [first step, last step], ``evidence`` [sentence], ``counter`` [sentence], ``advice``, ``verify``,
        ``factor`` (what the advice multiplies the rate with), ``restart`` (the step to go back to, or None) and ``probe`` (the
        step at which a probe would settle what is in doubt, or None).
    """
    names = (
        "code", "sentence", "confidence", "sure", "window", "evidence", "counter", "advice", "verify", "factor", "restart",
        "probe",
    )  # fmt: skip
    out = {
        "rate": diagnosis.rate,
        "probabilities": diagnosis.probabilities,
        "advised_lr": diagnosis.advised_lr,
        "healthy": diagnosis.healthy,
        "serious": diagnosis.serious,
        "findings": [{name: getattr(finding, name) for name in names} for finding in diagnosis.findings],
        "missing": diagnosis.missing,
    }
    plain: dict[str, Any] = _plain(out)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
