"""`attach`: schedules drive any numeric key of any torch optimizer's param groups, and resume is exact.

The position lives in the groups themselves (see `record`), so loading the optimizer's checkpoint is all that resuming takes, in
either order of attach and load; only for distributed checkpoints attach first. Values are written absolutely, base × factor,
before and after each update, through torch's official hooks (see `driver`). Nothing is patched.

Knows schedules and torch's optimizers. Knows no loop, no epoch: a step is an update that really happened.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from lrkit.binding.controllers.base import Controller
from lrkit.binding.course import Course
from lrkit.binding.driver import Driver, driver_of
from lrkit.binding.processes import agreed
from lrkit.binding.resume import OnMismatch, check_mode
from lrkit.binding.slots import slot
from lrkit.errors import InputError, StateError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.parts import Hold
from lrkit.schedules.template import Template, resolved
from lrkit.schedules.text import as_schedule

Spec = str | Schedule | Template


def attach(
    optimizer: torch.optim.Optimizer,
    *,
    total: int | str | None = None,
    steps_per_epoch: int | None = None,
    tokens_per_step: float | None = None,
    samples_per_step: float | None = None,
    step: int | None = None,
    on_mismatch: OnMismatch = "refuse",
    controllers: Controller | Sequence[Controller] = (),
    **keys: Spec | Mapping[str, Spec],
) -> Attachment:
    """Let schedules drive an optimizer: ``value = base × schedule(step)``, base being the group's value now.

    Several attachments may drive one optimizer, each its own keys; they share the step. Groups that are added later join at the
    next update with their own base.

    Args:
        optimizer: Any torch optimizer.
        total: Optimizer updates of the whole run, or its duration (``"90ep"``); what ``%`` and a stage without a duration
            need.
        steps_per_epoch: Optimizer updates of one epoch; what ``ep`` needs.
        tokens_per_step: Tokens of one update, over all processes; what ``tok`` needs.
        samples_per_step: Samples of one update, over all processes; what ``samples`` needs.
        step: Updates done already, where the optimizer has taken some without a schedule; usually left out, because a resumed
            optimizer carries its own count.
        on_mismatch: What happens where a resumed optimizer's record is of other schedules: ``"refuse"``, ``"keep"`` (the
            recorded ones go on), ``"replace"`` (the new ones take over at the recorded step, on the recorded bases).
        controllers: What scales the rate by what `Attachment.report` hears: `Plateau`, `Greedy`, `DivergenceGuard`.
        **keys: ``lr=``, ``weight_decay=``, ``momentum=``, ``**{"betas[0]": …}`` or any other numeric key: a text, a Schedule or
            a Template, or a mapping from a group's ``name`` to one (it drives ``name/…`` too; groups that it leaves out keep
            their value). A group whose rate begins with a hold at 0 sleeps until then, and costs nothing.

    Returns:
        The attachment: `.step`, `.values()`, `.rebase()`, `.replace()`, `.report()`, `.detach()`.

    Raises:
        InputError: If a key or a group's name does not exist, a schedule cannot be resolved or is shorter than the updates done,
            or a base value is 0.
        StateError: If a key is driven already, another scheduler drives the optimizer, the record on resume is of another
            schedule, or updates were taken without a record and `step` is not given.

    Examples:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> optimizer = torch.optim.AdamW([weight], lr=0.1)
        >>> attachment = attach(optimizer, lr="warmup 4 > cosine 4")
        >>> optimizer.param_groups[0]["lr"]
        0.025
    """
    _check_optimizer(optimizer)
    if not keys:
        raise InputError("attach(optimizer): nothing to drive. Say which key, e.g. lr='warmup 5% > cosine', total=2000.")
    clock = {
        "total": total, "steps_per_epoch": steps_per_epoch,
        "tokens_per_step": tokens_per_step, "samples_per_step": samples_per_step,
    }  # fmt: skip
    courses = {slot(key).key: Course(slot(key), _by_group("attach", key, spec, clock)) for key, spec in keys.items()}
    mode, listening = check_mode(on_mismatch), _checked(controllers, courses)
    step = None if step is None else whole("attach", "step", step, least=0)
    driver = driver_of(optimizer) or Driver(optimizer)
    driver.take(courses, listening, step, mode)
    attachment = Attachment(driver, courses, [str(one.name) for one in listening], clock)
    driver.attachments.append(attachment)
    return attachment


def attached(optimizer: torch.optim.Optimizer) -> list[Attachment]:
    """What is attached to this optimizer, in order."""
    driver = driver_of(optimizer)
    return [] if driver is None else list(driver.attachments)


def _check_optimizer(optimizer: object) -> None:
    """Refuse what takes no steps of its own, and name what does."""
    kind = type(optimizer).__name__
    if not isinstance(optimizer, torch.optim.Optimizer):
        inner = (
            "Attach to its .optimizer." if hasattr(optimizer, "optimizer") else "Attach to the optimizer that takes the steps."
        )
        raise InputError(f"attach({kind}): this is no torch optimizer. {inner}")
    if kind != "ZeroRedundancyOptimizer":  # its own groups are the ones that count
        for name, value in vars(optimizer).items():
            if isinstance(value, torch.optim.Optimizer):
                raise InputError(f"attach({kind}): this wraps another optimizer, whose updates it hides. Attach to its .{name}.")
    if "torch.distributed.optim.zero_redundancy_optimizer" in sys.modules and any(
        isinstance(one, dict) and one.get("optim") is optimizer and "_zero_stage" not in one and "_optim_constructor" in one
        for one in gc.get_referrers(optimizer)
    ):
        raise InputError(f"attach({kind}): this is the inner part of a ZeroRedundancyOptimizer. Attach to that one.")
    if not optimizer.param_groups:
        raise InputError(f"attach({kind}): it has no param groups, so there is nothing to drive. Give it parameters first.")


def _checked(controllers: Controller | Sequence[Controller], courses: Mapping[str, Course]) -> list[Controller]:
    """The controllers as a list; refused where one is none, or scales what this call does not drive."""
    listed: list[Any] = list(controllers) if isinstance(controllers, list | tuple) else [controllers]
    for one in listed:
        if not isinstance(one, Controller):
            raise InputError(f"attach(controllers=…): {one!r} is no controller. Pass Plateau(), for example.")
        if one.key.startswith("betas"):
            raise InputError(
                f"attach(controllers=…): {one.name} would scale {one.key!r}, and a beta must stay below 1. Scale lr."
            )
        if one.key not in courses:
            raise InputError(
                f"attach(controllers=…): {one.name} scales {one.key!r}, which is not driven here. Say {one.key}='constant'."
            )
    return listed


def _by_group(call: str, key: str, spec: Spec | Mapping[str, Spec], clock: dict[str, Any]) -> dict[str | None, Schedule]:
    """Group's name → schedule; None stands for every group."""
    if isinstance(spec, Mapping) and not spec:
        raise InputError(f"{call}({key}={{}}): the mapping is empty. Map a group's name to a schedule.")
    given: dict[str | None, Spec] = {None: spec} if not isinstance(spec, Mapping) else dict(spec.items())
    try:
        schedules = {name: resolved(as_schedule(one), **clock) for name, one in given.items()}
    except InputError as error:
        raise InputError(f"{call}({key}=…): {error}") from error
    for schedule in schedules.values():
        if schedule.bounds[0] < 0:  # other libraries' absolute values can be
            raise InputError(f"{call}({key}=…): {schedule} falls below 0, and a negative {key} climbs the loss. Raise its end.")
    return schedules


class Attachment:
    """Schedules that drive some keys of an optimizer. Made by `attach`; the state is in the optimizer's groups, not here.

    Attributes:
        optimizer: What is driven.
        events: What controllers did in this process, and who was overruled: dicts of ``step``, ``by`` and ``what``; with
            ``undone`` where the run has gone back beyond it.
    """

    def __init__(self, driver: Driver, keys: Iterable[str], controllers: Iterable[str], clock: dict[str, Any]) -> None:
        self.optimizer = driver.optimizer
        self.events = driver.events
        self._driver, self._clock = driver, clock
        self._keys, self._controllers = list(keys), list(controllers)
        self._attached = True

    # -- asking ---------------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Updates done; the next update is number `step`."""
        return self._driver.step

    @property
    def schedules(self) -> dict[str, dict[str | None, Schedule]]:
        """key → {group's name, or None for all: Schedule}."""
        self._check_attached("schedules")
        return {key: dict(self._driver.plan.courses[key].by_name) for key in self._keys}

    def values(self, step: int | None = None) -> list[dict[str, float]]:
        """What each group's driven keys are at a step, one dict a group; controllers as they stand now.

        Args:
            step: The update asked about; None is the next one.
        """
        self._check_attached("values")
        return [{key: v for key, v in one.items() if key in self._keys} for one in self._driver.values(step)]

    def schedule_of(self, key: str, group: Mapping[str, Any]) -> Schedule | None:
        """The schedule that drives this key of this group, if one does."""
        return self._driver.plan.schedule_of(key, group) if key in self._keys else None

    def __repr__(self) -> str:
        if not self._attached:
            return "Attachment(detached)"
        texts = (f"{key}={_text(by_name)}" for key, by_name in self.schedules.items())
        return f"Attachment(step {self.step}; {', '.join((*texts, *self._controllers))})"

    # -- changing -------------------------------------------------------------------------------------------------------

    def rebase(self, **bases: float | Sequence[float] | Mapping[str, float]) -> None:
        """Change base values in mid-run; the position stays.

        Args:
            **bases: key → the new base of every group, one a group, or a mapping from groups' names.

        Raises:
            InputError: If a key is not driven, a group does not exist, the number of bases differs from the number of groups, or
                all are 0.
        """
        self._check_attached("rebase")
        self._driver.sync()  # late groups, too, have bases
        groups = self.optimizer.param_groups
        self._driver.rebase({key: self._checked_bases(key, base, groups) for key, base in bases.items()})

    def _checked_bases(
        self, key: str, base: float | Sequence[float] | Mapping[str, float], groups: list[dict[str, Any]]
    ) -> list[float | None]:
        """One base a group; None where it stays."""
        self._check_driven("rebase", key)
        course = self._driver.plan.courses[key]
        if isinstance(base, Mapping):
            Course(course.slot, dict.fromkeys(base, Hold())).check_names(groups, f"rebase({key}=…)")
            under = Course(course.slot, dict.fromkeys(base, Hold()))
            each: list[Any] = [base.get(str(under.name_of(group))) for group in groups]
            for one, group in zip(each, groups, strict=True):
                if one is not None and course.schedule_of(group) is None:
                    raise InputError(f"rebase({key}=…): nothing drives {key} of group {group['name']!r}. Set it in the group.")
        else:
            each = list(base) if isinstance(base, list | tuple) else [base] * len(groups)
        if len(each) != len(groups):
            raise InputError(f"rebase({key}=…): got {len(each)} bases for {len(groups)} groups. Give one a group.")
        return [None if one is None and isinstance(base, Mapping) else real("rebase", key, one, least=0.0) for one in each]

    def replace(
        self,
        *,
        total: int | str | None = None,
        steps_per_epoch: int | None = None,
        tokens_per_step: float | None = None,
        samples_per_step: float | None = None,
        **keys: Spec | Mapping[str, Spec],
    ) -> None:
        """Let other schedules take over in mid-run; position and base values stay.

        Args:
            total: As for `attach`; what is left out is as it was there.
            steps_per_epoch: As for `attach`.
            tokens_per_step: As for `attach`.
            samples_per_step: As for `attach`.
            **keys: key → the new schedule, or a mapping from groups' names.

        Raises:
            InputError: If a key is not driven, a group does not exist, or a schedule is shorter than the updates done.
        """
        self._check_attached("replace")
        given = {
            "total": total, "steps_per_epoch": steps_per_epoch,
            "tokens_per_step": tokens_per_step, "samples_per_step": samples_per_step,
        }  # fmt: skip
        clock = self._clock | {unit: value for unit, value in given.items() if value is not None}
        courses = {}
        for key, spec in keys.items():
            self._check_driven("replace", key)
            courses[key] = Course(slot(key), _by_group("replace", key, spec, clock))
            courses[key].check_names(self.optimizer.param_groups, f"replace({key}=…)")
            courses[key].check_bases(self.optimizer.param_groups, "replace")
            courses[key].check_length(self.step, "replace")
        self._driver.change(courses)
        self._clock = clock

    def detach(self) -> None:
        """Let go: every driven key goes back to its base value; hooks and record are removed with the last attachment."""
        self._check_attached("detach")
        self._driver.release(self._keys, self._controllers)
        self._driver.attachments.remove(self)
        self._attached = False

    def report(self, **metrics: float | Tensor) -> bool:
        """Say what was measured; controllers that listen for it change the scale of what they drive.

        Where several processes train together, the mean over them counts, and every process must report.

        Args:
            **metrics: ``loss=…``, or whatever name a controller listens for: numbers, or tensors of one number; NaN and
                infinity are reported as they are.

        Returns:
            Whether the run went back to a snapshot: what belongs to the batch at hand is then void, skip its update.

        Raises:
            InputError: If no controller listens for any of them, or one is no number.
            StateError: From a DivergenceGuard that has gone back too often.
        """
        self._check_attached("report")
        wanted = {self._driver.plan.controllers[name].metric for name in self._controllers}
        if not wanted:
            raise InputError("report: no controller listens. Say attach(…, controllers=[Plateau()]).")
        heard = sorted(wanted & metrics.keys())
        if not heard:
            raise InputError(f"report({', '.join(metrics)}): controllers listen for {', '.join(sorted(wanted))}. Report that.")
        numbers = agreed([_measured(name, metrics[name]) for name in heard])
        return self._driver.hear(self._controllers, dict(zip(heard, numbers, strict=True)))

    def paused(self) -> AbstractContextManager[None]:
        """Inside, nothing is counted or written: someone else drives."""
        return self._driver.paused()

    def _check_attached(self, call: str) -> None:
        if not self._attached:
            raise StateError(f"{call}: this attachment has been detached. Attach again.")

    def _check_driven(self, call: str, key: str) -> None:
        if key not in self._keys:
            raise InputError(f"{call}({key}=…): {key!r} is not driven here; driven are {', '.join(self._keys)}.")


def _measured(name: str, value: object) -> float:
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value.detach() if isinstance(value, Tensor) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        came = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:60]
        raise InputError(f"report({name}=…): must be one number, got {came}. Take its mean.") from None


def _text(by_name: Mapping[str | None, Schedule]) -> str:
    if len(by_name) == 1 and None in by_name:
        return repr(str(by_name[None]))
    return "{" + ", ".join(f"{name!r}: {str(schedule)!r}" for name, schedule in by_name.items()) + "}"
