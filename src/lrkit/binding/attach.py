"""`attach`: schedules drive any numeric key of any torch optimizer's param groups, and resume is exact.

The position lives in the groups themselves (see `record`), so loading the optimizer's checkpoint is all that resuming takes, in
either order of attach and load; only for distributed checkpoints attach first. Values are written absolutely, base × factor,
before and after each update, through torch's official hooks. Nothing is patched.

Knows schedules and torch's optimizers. Knows no loop, no epoch: a step is an update that really happened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lrkit.binding import record
from lrkit.errors import InputError, StateError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.template import Template, resolved
from lrkit.schedules.text import as_schedule

Spec = str | Schedule | Template
_FOREIGN = (
    "attach(optimizer): a torch scheduler has been made on it (its groups hold 'initial_lr'), and two cannot drive one rate. "
    "Remove that scheduler and build the optimizer anew."
)
Groups = list[dict[str, Any]]


def attach(
    optimizer: torch.optim.Optimizer,
    *,
    total: int | str | None = None,
    steps_per_epoch: int | None = None,
    tokens_per_step: float | None = None,
    samples_per_step: float | None = None,
    step: int | None = None,
    **keys: Spec | Mapping[str, Spec],
) -> Attachment:
    """Let schedules drive an optimizer: ``value = base × schedule(step)``, base being the group's value now.

    Args:
        optimizer: Any torch optimizer.
        total: Optimizer updates of the whole run, or its duration (``"90ep"``); what ``%`` and a stage without a duration
            need.
        steps_per_epoch: Optimizer updates of one epoch; what ``ep`` needs.
        tokens_per_step: Tokens of one update, over all processes; what ``tok`` needs.
        samples_per_step: Samples of one update, over all processes; what ``samples`` needs.
        step: Updates done already, where the optimizer has taken some without a schedule; usually left out, because a resumed
            optimizer carries its own count.
        **keys: ``lr=``, ``weight_decay=``, ``momentum=`` or any other numeric key: a text, a Schedule or a Template, or a
            mapping from a group's ``name`` to one (groups that it leaves out keep their value).

    Returns:
        The attachment: `.step`, `.values()`, `.rebase()`, `.detach()`.

    Raises:
        InputError: If a key or a group's name does not exist, a schedule cannot be resolved, or every base value is 0.
        StateError: If something is attached already, another scheduler drives the optimizer, the record on resume is of
            another schedule, or updates were taken without a record and `step` is not given.

    Examples:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> optimizer = torch.optim.AdamW([weight], lr=0.1)
        >>> attachment = attach(optimizer, lr="warmup 4 > cosine 4")
        >>> optimizer.param_groups[0]["lr"]
        0.025
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        inner = (
            "Attach to its .optimizer." if hasattr(optimizer, "optimizer") else "Attach to the optimizer that takes the steps."
        )
        raise InputError(f"attach({type(optimizer).__name__}): this is no torch optimizer. {inner}")
    if hasattr(optimizer, "optimizer") and isinstance(optimizer.optimizer, torch.optim.Optimizer):
        raise InputError(
            f"attach({type(optimizer).__name__}): this wraps another optimizer, whose updates it hides. Attach to its .optimizer."
        )
    if not keys:
        raise InputError("attach(optimizer): nothing to drive. Say which key, e.g. lr='warmup 5% > cosine', total=2000.")
    if attached(optimizer) is not None:
        raise StateError("attach(optimizer): schedules are attached already. Call .detach() on that attachment first.")
    clock = {
        "total": total, "steps_per_epoch": steps_per_epoch,
        "tokens_per_step": tokens_per_step, "samples_per_step": samples_per_step,
    }  # fmt: skip
    schedules = {key: _by_group(key, spec, clock) for key, spec in keys.items()}
    return Attachment(optimizer, schedules, None if step is None else whole("attach", "step", step, least=0))


def attached(optimizer: torch.optim.Optimizer) -> Attachment | None:
    """What is attached to this optimizer, if anything."""
    return next((owner for owner in record.owners(optimizer) if isinstance(owner, Attachment)), None)


def _by_group(key: str, spec: Spec | Mapping[str, Spec], clock: dict[str, Any]) -> dict[str | None, Schedule]:
    """Group's name → schedule; None stands for every group."""
    if isinstance(spec, Mapping) and not spec:
        raise InputError(f"attach({key}={{}}): the mapping is empty. Map a group's name to a schedule.")
    given: dict[str | None, Spec] = {None: spec} if not isinstance(spec, Mapping) else dict(spec.items())
    try:
        schedules = {name: resolved(as_schedule(one), **clock) for name, one in given.items()}
    except InputError as error:
        raise InputError(f"attach({key}=…): {error}") from error
    for schedule in schedules.values():
        if schedule.bounds[0] < 0:  # other libraries' absolute values can be
            raise InputError(f"attach({key}=…): {schedule} falls below 0, and a negative {key} climbs the loss. Raise its end.")
    return schedules


class Attachment(record.Pausable):
    """Schedules that drive an optimizer. Made by `attach`; the state is in the optimizer's groups, not here.

    Attributes:
        schedules: key → {group's name, or None for all: Schedule}.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, schedules: dict[str, dict[str | None, Schedule]], step: int | None
    ) -> None:
        self.schedules = schedules
        self._optimizer = optimizer
        self._armed = False
        self._written: list[Any] = []
        groups: Groups = optimizer.param_groups
        self._check_keys(groups)
        self._check_history(groups, step)
        for key in schedules:
            record.unshare(optimizer, key)
        if step is not None:
            for group in groups:
                group.pop(record.STEP, None)
        self._adopt(groups, step if step is not None else record.read_step(groups[0]) or 0)
        self._write(groups)
        self._handles = [
            optimizer.register_step_pre_hook(record.owned(self, self._before)),
            optimizer.register_step_post_hook(record.owned(self, self._after)),
            optimizer.register_load_state_dict_pre_hook(self._before_load),
            optimizer.register_load_state_dict_post_hook(self._after_load),
        ]

    # -- asking ---------------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Updates done; the next update is number `step`."""
        return record.read_step(self._optimizer.param_groups[0]) or 0

    def values(self, step: int | None = None) -> list[dict[str, float]]:
        """What each group's driven keys are at a step, one dict a group.

        Args:
            step: The update asked about; None is the next one.
        """
        self._check_attached("values")
        self._take_late(self._optimizer.param_groups)
        at = self.step if step is None else step
        return [self._targets(group, at) for group in self._optimizer.param_groups]

    def schedule_of(self, key: str, group: Mapping[str, Any]) -> Schedule | None:
        """The schedule that drives this key of this group, if one does."""
        by_name = self.schedules.get(key, {})
        return by_name.get(None) or by_name.get(group.get("name"))

    def __repr__(self) -> str:
        texts = (f"{key}={_text(by_name)}" for key, by_name in self.schedules.items())
        return f"Attachment(step {self.step}; {', '.join(texts)})"

    # -- changing -------------------------------------------------------------------------------------------------------

    def rebase(self, **bases: float | list[float]) -> None:
        """Change base values in mid-run; the position stays.

        Args:
            **bases: key → the new base of every group, or one a group.

        Raises:
            InputError: If a key is not driven, or the number of bases differs from the number of groups.
        """
        self._check_attached("rebase")
        groups: Groups = self._optimizer.param_groups
        self._take_late(groups)
        checked: dict[str, list[float]] = {}
        for key, base in bases.items():
            if key not in self.schedules:
                driven = ", ".join(self.schedules)
                raise InputError(f"rebase({key}=…): {key!r} is not driven here; driven are {driven}.")
            each = list(base) if isinstance(base, list | tuple) else [base] * len(groups)
            if len(each) != len(groups):
                raise InputError(f"rebase({key}=…): got {len(each)} bases for {len(groups)} groups. Give one a group.")
            checked[key] = [real("rebase", key, value, least=0.0) for value in each]
        for key, values in checked.items():
            for group, value in zip(groups, values, strict=True):
                if record.BASE + key in group:
                    group[record.BASE + key] = value
        self._write(groups)

    def detach(self) -> None:
        """Let go: the hooks and the record are removed, every driven key goes back to its base value."""
        self._check_attached("detach")
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for group in self._optimizer.param_groups:
            for key in self.schedules:
                if record.BASE + key in group:
                    record.write(group, key, group.pop(record.BASE + key))
            group.pop(record.STEP, None)
            group.pop(record.SPEC, None)

    def _check_attached(self, call: str) -> None:
        if not self._handles:
            raise StateError(f"{call}: this attachment has been detached. Attach again.")

    # -- the hooks ------------------------------------------------------------------------------------------------------

    def _before(self, optimizer: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
        """Adopt late groups, write the rates, arm."""
        self._armed = False  # an update that raised in its closure left it set
        groups: Groups = optimizer.param_groups
        if self._paused or self._dry(groups):
            return
        if "lr" in self.schedules and any("initial_lr" in group for group in groups):
            raise StateError(_FOREIGN)
        self._take_late(groups)
        self._write(groups)
        self._armed = True

    def _after(self, optimizer: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
        """Count the update if it happened, and write the rates of the next one."""
        if not self._armed:
            return  # a subclass's step() that calls super().step() comes here twice
        self._armed = False
        if record.skipped(optimizer):
            return
        groups: Groups = optimizer.param_groups
        done = record.step_tensor(self.step + 1)
        for group in groups:
            group[record.STEP] = done
        self._write(groups)

    def _before_load(self, _optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint that would lose the place: afterwards would be too late."""
        if "param_groups" in state_dict:  # without, torch's own loading says what is missing
            self._check_record(state_dict["param_groups"], record.has_updates(state_dict.get("state", {})), "load_state_dict")

    def _after_load(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring the loaded record into its form, complete it, and write the rates."""
        groups: Groups = optimizer.param_groups
        for key in self.schedules:
            record.unshare(optimizer, key)
        step = record.read_step(groups[0]) or 0
        done = record.step_tensor(step)
        for group in groups:
            if record.STEP in group:
                group[record.STEP] = done  # a host may have moved it to a device, or made it an int
        self._adopt(groups, step)
        self._write(groups)

    def _dry(self, groups: Groups) -> bool:
        """Whether this is the step with all rates at 0 by which torch's distributed checkpoints create missing state."""
        zeros = [group["lr"] for group in groups if "lr" in group]
        return (
            len(zeros) == len(groups) == len(self._written)
            and all(w is not z for w, z in zip(self._written, zeros, strict=True))
            and all(float(z) == 0.0 for z in zeros)
            and record.without_gradient(self._optimizer)
        )

    # -- the record -----------------------------------------------------------------------------------------------------

    def _targets(self, group: Mapping[str, Any], step: int) -> dict[str, float]:
        """key → value of this group at a step."""
        out = {}
        for key in self.schedules:
            schedule = self.schedule_of(key, group)
            if schedule is not None:
                out[key] = schedule(step) * (1.0 if schedule.base is not None else group[record.BASE + key])
        return out

    def _write(self, groups: Groups) -> None:
        step = self.step
        self._written = []
        for group in groups:
            for key, value in self._targets(group, step).items():
                record.write(group, key, value)
            self._written.append(group.get("lr"))  # by its identity a dry step is told from a rate that is 0

    def _take_late(self, groups: Groups) -> None:
        """Adopt groups that were added after attaching: their present values are their bases."""
        if any(record.STEP not in group for group in groups):
            for key in self.schedules:
                record.unshare(self._optimizer, key)
            self._adopt(groups, self.step)

    def _adopt(self, groups: Groups, step: int) -> None:
        """Put a record into the groups that lack one; their present values become their bases."""
        done = record.step_tensor(step)
        for group in groups:
            for key in self.schedules:
                if self.schedule_of(key, group) is not None and record.BASE + key not in group:
                    group[record.BASE + key] = record.number_in(group, key)
            group.setdefault(record.STEP, done)
            group[record.SPEC] = self._spec(group)

    def _spec(self, group: Mapping[str, Any]) -> str:
        """The text of what drives a group, by which a resumed record is recognised."""
        driven = ((key, self.schedule_of(key, group)) for key in self.schedules)
        return "; ".join(f"{key}: {schedule}" for key, schedule in driven if schedule is not None)

    def _check_keys(self, groups: Groups) -> None:
        names = [group.get("name") for group in groups]
        for key, by_name in self.schedules.items():
            for name in by_name:
                if name is not None and name not in names:
                    have = ", ".join(repr(n) for n in names if n is not None) or "no named group; give groups a 'name'"
                    raise InputError(f"attach({key}=…): there is no group {name!r}; the optimizer has {have}.")
            driven = [group for group in groups if self.schedule_of(key, group) is not None]
            recorded = [self._number(key, i, group) for i, group in enumerate(driven)]
            if driven and not any(recorded) and all(s.base is None for s in by_name.values()):
                raise InputError(
                    f"attach({key}=…): {key} is 0 in every group, and 0 × a factor stays 0. Set {key} in the optimizer first."
                )

    def _number(self, key: str, i: int, group: Mapping[str, Any]) -> float:
        """The base on record, or the present value, of a group's key; refused where it is no finite number of at least 0."""
        value = group.get(key)
        numeric = [k for k, v in group.items() if isinstance(v, Real) and not isinstance(v, bool)]
        if isinstance(value, bool) or not (isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)):
            raise InputError(f"attach({key}=…): group {i} has no number {key!r}; it has {', '.join(numeric)}.")
        base = float(group.get(record.BASE + key, value))
        if not math.isfinite(base) or base < 0:
            raise InputError(f"attach({key}=…): {key} of group {i} must be finite and at least 0, got {base}. Set it first.")
        return base

    def _check_history(self, groups: Groups, step: int | None) -> None:
        if "lr" in self.schedules and any("initial_lr" in group for group in groups):
            raise StateError(_FOREIGN)
        if step is None:
            self._check_record(groups, record.has_updates(self._optimizer.state), "attach(optimizer)")

    def _check_record(self, groups: Groups, updates: bool, call: str) -> None:
        """Refuse a record of another schedule, and updates without any record."""
        for group in groups:
            there, here = group.get(record.SPEC), self._spec(group)
            if there is not None and there != here:
                raise StateError(
                    f"{call}: the optimizer's record is of another schedule. It was {there!r}, now it is {here!r}. Attach the "
                    "first one, or say attach(…, step=updates done) to go on with the new one."
                )
        if updates and groups and record.STEP not in groups[0]:
            raise StateError(
                f"{call}: updates were taken without lrkit's record, so the position is unknown. Load such a checkpoint before "
                "you attach, then say attach(…, step=number of updates done)."
            )


def _text(by_name: Mapping[str | None, Schedule]) -> str:
    if None in by_name:
        return repr(str(by_name[None]))
    return "{" + ", ".join(f"{name!r}: {str(schedule)!r}" for name, schedule in by_name.items()) + "}"
