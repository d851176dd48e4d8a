"""Finding: one thing the doctor saw."""

from dataclasses import dataclass

# What exists, about the rate first. The last come with gauges.
CODES = (
    "too_high_at_start", "too_high_later", "too_low", "diverged", "late_spikes", "warmup_too_short", "warmup_too_long",
    "decay_too_early", "decay_too_late", "saddle", "overfitting", "cannot_tell",
    "oscillation", "floor", "spike_due", "vanishing", "clipping",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What, since when, how sure, by what evidence, and what to do, with numbers.

    Args:
        code: The illness, one of CODES.
        sentence: What was seen, in plain words.
        confidence: Share of such findings that were right on labelled runs (see ``docs/doctor.md``), 0 to 1.
        window: (first, last) step that it is about.
        evidence: What speaks for it, in numbers.
        counter: What speaks against it, or what could not be seen.
        advice: What to do, with numbers.
        verify: How to see that it helped.
        factor: What the advice multiplies the rate with; 1 where it leaves it.
        restart: The step to go back to; None where nothing is to be redone.
        probe: The step at which `lrkit.probe` would settle what is in doubt; None where nothing is, or it could not.
    """

    code: str
    sentence: str
    confidence: float
    window: tuple[int, int]
    evidence: tuple[str, ...]
    counter: tuple[str, ...]
    advice: str
    verify: str
    factor: float = 1.0
    restart: int | None = None
    probe: int | None = None

    @property
    def title(self) -> str:
        """The illness in words a person reads: ``too high later``."""
        return self.code.replace("_", " ")

    @property
    def settles(self) -> str:
        """How to settle what is in doubt; nothing where there is no doubt, or no probe would settle it."""
        if self.probe is None:
            return ""
        return f"lrkit.probe(model, optimizer, loss, batches) at step {self.probe}, or lrkit train --probe"

    @property
    def sure(self) -> str:
        """The confidence in a word: certain, likely or possible."""
        return "certain" if self.confidence >= 0.95 else "likely" if self.confidence >= 0.6 else "possible"

    @property
    def accuses(self) -> bool:
        """Whether it names a fault; "cannot tell" does not, and a floor is none."""
        return self.code not in ("cannot_tell", "floor")

    def __str__(self) -> str:
        sure = f" ({self.sure}, {self.confidence:.0%})" if self.code != "cannot_tell" else ""
        lines = [f"{self.code}{sure}: {self.sentence}"]
        lines += [f"  for:     {line}" for line in self.evidence]
        lines += [f"  against: {line}" for line in self.counter]
        lines += [f"  do:      {self.advice}", f"  verify:  {self.verify}"]
        lines += [f"  settle:  {self.settles}"] if self.settles else []
        return "\n".join(lines)
