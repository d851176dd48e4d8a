"""Driver: counts the updates that an optimizer really makes, and writes what each driven key is to be in the next.

One a driven optimizer, however many attachments; it is found through its hooks. The state lies in the groups (see `record`), here
are only copies of it: whatever finds the groups other than as they were left is answered by reading them anew. Values are
written absolutely, base × factor × scales, before and after each update.

Knows schedules, controllers and torch's optimizers. Knows no loop, no epoch: a step is an update that really happened.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling

from lrkit.binding import hooks, record
from lrkit.binding.controllers.base import Controller, checked
from lrkit.binding.controllers.memory import Memory
from lrkit.binding.course import Course
from lrkit.binding.hooks import compiler
from lrkit.binding.plan import Plan
from lrkit.binding.record import STEP, ParamGroups
from lrkit.binding.resume import Kept, OnMismatch, check_foreign, check_known
from lrkit.binding.sleep import Sleepers
from lrkit.binding.slots import slot, unshare
from lrkit.binding.values import Values
from lrkit.errors import InputError, StateError


class Driver(hooks.Owner):
    """Everything that drives one optimizer. Made by `attach`."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.plan = Plan()
        self.attachments: list[Any] = []  # whose keys these are
        self.events: list[dict[str, Any]] = []  # what controllers did, and who was overruled
        self._memory = Memory()
        self._sleepers = Sleepers()
        self._count = 0
        self._cell = record.StepCell(0)  # whose tensor is in every group
        self._values = Values()
        self._kept: list[Kept] = []  # of a checkpoint that is being loaded
        self._armed = self._void = self._settled = False
        self._begun: set[str] = set()  # controllers that have seen the first update
        self._watchful = True  # whether the next update has something rare to see to
        self._handles: list[Any] = []

    @property
    def active(self) -> bool:
        """Whether its hooks are in place."""
        return bool(self._handles)

    @property
    def step(self) -> int:
        """Updates done; the next update is number `step`."""
        return next(record.steps(self.optimizer.param_groups), 0)

    def values(self, step: int | None = None) -> list[dict[str, float]]:
        """What each group's driven keys are at a step (None: the next), one dict a group; the controllers as they stand."""
        groups: ParamGroups = self.optimizer.param_groups
        if len(groups) != len(self._values):
            self.sync()
        return self._values.at(self.step if step is None else step)

    # -- what drives -----------------------------------------------------------------------------------------------------

    def take(self, courses: dict[str, Course], controllers: list[Controller], step: int | None, mode: OnMismatch) -> None:
        """Drive these keys, too; nothing is changed before everything is checked.

        Args:
            courses: key → what drives it.
            controllers: What scales them.
            step: Updates done, as the user says.
            mode: What happens where the record differs.
        """
        groups: ParamGroups = self.optimizer.param_groups
        wanted = self.plan.joined_by(courses, controllers, mode)
        for key, course in courses.items():
            course.check_names(groups, f"attach({key}=…)")
            course.check_bases(groups, "attach")
        if "lr" in courses:
            check_foreign(self.optimizer, step)
        if self.active and step is not None and step != self.step:
            raise StateError(f"attach(step={step}): what is attached already has counted {self.step} updates. Leave step out.")
        meant = wanted  # who says the step means what is attached now, whatever is on record
        if step is None:
            check_known(groups, self.optimizer.state, "attach(optimizer)")
            step = self.step
        elif any(done != step for done in record.steps(groups)):
            raise StateError(
                f"attach(step={step}): the optimizer's own record says {self.step} updates. Leave step out: it is for a "
                "checkpoint from before lrkit. To begin elsewhere, attach, detach, and attach again."
            )
        elif mode == "refuse":
            meant = self.plan.joined_by(courses, controllers, "replace")
        there = {key for group in groups for key in record.read_spec(group)}
        own = [*courses, *(record.CONTROLLER + str(one.name) for one in controllers)]
        kept = meant.reconciled(groups, "attach", own) if there & set(own) else []  # else they join a run that went without
        for key in (key for key in courses if key not in there):
            courses[key].check_length(step, "attach")
        self.plan = wanted.with_kept(kept)
        for group in groups if "lr" in courses else ():
            if "initial_lr" in group:  # left by a scheduler that is gone: it is the base that its rates came from
                slot("lr").put(group, group.pop("initial_lr"))
        self._settled = False
        self.sync(step)
        self.open()

    def change(self, courses: dict[str, Course]) -> None:
        """Let other schedules drive keys that are driven already; checked by the caller."""
        self.plan = replace(self.plan, courses=self.plan.courses | courses)
        for group in self.optimizer.param_groups:
            gone = [key for key, course in courses.items() if course.schedule_of(group) is None]
            if record.STEP in group:
                record.write_spec(group, {k: text for k, text in record.read_spec(group).items() if k not in gone})
            for key in gone:
                if record.BASE + key in group:
                    slot(key).put(group, group.pop(record.BASE + key))
        self.sync()

    def rebase(self, bases: Mapping[str, Sequence[float | None]]) -> None:
        """Change base values: key → one a group; None, and a group that is not driven, stay as they are.

        Raises:
            InputError: If a key has absolute values, or could not be attached with these bases.
        """
        groups: ParamGroups = self.optimizer.param_groups
        for key, values in bases.items():
            for schedule in self.plan.courses[key].by_name.values():
                if schedule.base is not None:
                    raise InputError(
                        f"rebase({key}=…): {str(schedule)!r} has absolute values, which no base multiplies. Use replace."
                    )
            trial = [group if v is None else {**group, record.BASE + key: v} for group, v in zip(groups, values, strict=True)]
            self.plan.courses[key].check_bases(trial, "rebase")
        for key, values in bases.items():
            for group, value in zip(self.optimizer.param_groups, values, strict=True):
                if value is not None and record.BASE + key in group:
                    group[record.BASE + key] = value
        self.sync()

    def release(self, keys: Iterable[str], controllers: Iterable[str]) -> None:
        """No longer drive these keys; they go back to their base values. With the last one, hooks and record go too."""
        keys, controllers = list(keys), list(controllers)
        for key in (*keys, *(record.CONTROLLER + name for name in controllers)):
            self._drop(key)
        for name in controllers:
            self.plan.controllers[name].end(self.optimizer)
            self._begun.discard(name)
        self.plan = self.plan.without(keys, controllers)
        if self.plan.courses:
            self.sync()
            return
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._sleepers.wake()
        for group in self.optimizer.param_groups:
            record.forget(group)

    # -- the record -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Put the hooks in place, once."""
        if not self._handles:
            optimizer = self.optimizer
            self._handles = [
                optimizer.register_step_pre_hook(self._before),
                optimizer.register_step_post_hook(self._after),
                optimizer.register_state_dict_post_hook(_own_record),
                optimizer.register_load_state_dict_pre_hook(self._before_load),
                optimizer.register_load_state_dict_post_hook(self._after_load),
            ]
            weakref.finalize(optimizer, self._sleepers.wake).atexit = False  # whoever drives the model next finds it awake
        self._watchful = True

    def sync(self, step: int | None = None) -> None:
        """Read the record anew, complete it in the groups that lack one, and write the values.

        Args:
            step: Updates done, where the record is not to be asked.
        """
        groups: ParamGroups = self.optimizer.param_groups
        for key in self.plan.courses:
            unshare(self.optimizer, key)
        self._count = next(record.steps(groups), self._count) if step is None else step
        self._cell = record.StepCell(self._count)
        self._memory.read(self.plan.controllers, groups)
        for i, group in enumerate(groups):
            for key, course in self.plan.courses.items():
                if course.schedule_of(group) is not None and record.BASE + key not in group:
                    group[record.BASE + key] = course.slot.number(group, "attach", i)
            group[record.STEP] = self._cell.tensor  # a host may have moved it to a device, or made it an int
            record.write_spec(group, record.read_spec(group) | self.plan.spec_of(group))
        scales = {key: self._memory.scale_of(key, self.plan.controllers) for key in self.plan.courses}
        self._values.arrange(groups, self.plan.courses, scales)
        self._sleepers.arrange(groups, [self.plan.schedule_of("lr", group) for group in groups])
        self._values.write(groups, self._count)
        self._sleepers.tuck(groups, self._count, self._paused)
        self._watchful = True

    def _settle_rest(self, groups: ParamGroups) -> None:
        """Deal with what is on record and nothing drives, now that everything is attached."""
        kept = self.plan.reconciled(groups, "step")
        there = {key for group in groups for key in record.read_spec(group)}
        here = {key for group in groups for key in self.plan.spec_of(group)} | {key for key, _ in kept}
        for key in there - here:
            self._drop(key)
        if kept:
            self.plan = self.plan.with_kept(kept)
            self.sync()

    def _drop(self, key: str) -> None:
        """Take one key, or one controller, out of the record; the key goes back to its base value."""
        for group in self.optimizer.param_groups:
            spec = record.read_spec(group)
            if spec.pop(key, None) is not None:
                record.write_spec(group, spec)
            if record.BASE + key in group:
                slot(key).put(group, group.pop(record.BASE + key))
            if key.startswith(record.CONTROLLER):
                group.pop(record.STATE + key.removeprefix(record.CONTROLLER), None)

    # -- the hooks ------------------------------------------------------------------------------------------------------

    def _before(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See that the values are in force, and arm."""
        if is_dynamo_compiling() or compiler() is not None:
            from lrkit.apart import apart

            apart(self._before, optimizer, args, kwargs)
            return
        self._armed = False  # an update that raised in its closure left it set
        if self._paused:
            return
        groups: ParamGroups = optimizer.param_groups
        cell = self._cell
        if groups[0].get(STEP) is not cell.tensor or cell.number[0] != self._count or not self._values.untouched(groups):
            if self._dry(groups):
                return
            if "lr" in self.plan.courses:
                check_foreign(optimizer)
            if groups[0].get(STEP) is cell.tensor and cell.number[0] == self._count:
                self._note_overruled(groups)
            self.sync()
        self._armed = not self._watchful or self._prepare(groups, any(one is not None for one in (*args[1:], *kwargs.values())))

    def _note_overruled(self, groups: ParamGroups) -> None:
        """Remember, once a key, that somebody else wrote what is driven here."""
        for key, there, wanted in self._values.overruled(groups):
            what = f"{key} was set to {there:g} by somebody else; its schedule overrules that with {wanted:g}"
            if not any(one["by"] == key for one in self.events):
                self._note({"step": self._count, "by": key, "what": what})

    def _prepare(self, groups: ParamGroups, closure: bool) -> bool:
        """See to what is rare: the first update after a change, one that has become void, groups that sleep.

        Args:
            groups: The optimizer's.
            closure: Whether the gradients are yet to come.

        Returns:
            Whether there is an update to be made.
        """
        if not self._settled:
            self._settle_rest(groups)
            self._settled = True
        for name, controller in self.plan.controllers.items():
            if name not in self._begun:
                controller.begin(self.optimizer)
                self._begun.add(name)
        void, self._void = self._void, False
        self._watchful = bool(self._sleepers)
        if void and not closure and hooks.without_gradient(self.optimizer):
            return False  # the run went back between backward and step: this step has nothing to apply
        self._sleepers.drop_gradients(groups)
        return True

    def _after(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count the update if it happened, and write the values of the next one."""
        if is_dynamo_compiling() or compiler() is not None:
            from lrkit.apart import apart

            apart(self._after, optimizer, args, kwargs)
            return
        if not self._armed:
            return  # a subclass's step() that calls super().step() comes here twice
        self._armed = False
        if getattr(optimizer, "found_inf", None) is not None and hooks.skipped(optimizer):
            return
        self._count = self._cell.number[0] = self._count + 1
        self._values.write(optimizer.param_groups, self._count)
        if self._watchful:
            self._sleepers.tuck(optimizer.param_groups, self._count, self._paused)

    def _before_load(self, _optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint that would lose the place: afterwards would be too late."""
        if "param_groups" in state_dict:  # without, torch's own loading says what is missing
            groups = state_dict["param_groups"]
            check_known(groups, state_dict.get("state", {}), "load_state_dict")
            for key, course in self.plan.courses.items():
                course.check_names(groups, f"load_state_dict({key}=…)")
            self._kept = self.plan.reconciled(groups, "load_state_dict")

    def _after_load(self, _optimizer: torch.optim.Optimizer) -> None:
        """Take up what was kept of the record, bring it into its form, complete it, and write the values."""
        self.plan, self._kept = self.plan.with_kept(self._kept), []
        self._settled, self._watchful = False, True
        self._begun.clear()
        self._count = 0  # where the checkpoint holds no record
        self.sync()
        lost = self._sleepers.without_state(groups := self.optimizer.param_groups, self.optimizer.state, self._count)
        if lost:
            names = ", ".join(repr(groups[i].get("name", i)) for i in lost)
            raise StateError(
                f"load_state_dict: group {names} is awake at step {self._count}, and its optimizer state was not loaded: a "
                "distributed checkpoint passes over what is frozen when it is read. Load it inside `with attachment.paused():`."
            )

    def _dry(self, groups: ParamGroups) -> bool:
        """Whether this is the step with all rates at 0 by which torch's distributed checkpoints create missing state."""
        zeros = [group["lr"] for group in groups if "lr" in group]
        return (
            len(zeros) == len(groups) == len(self._values)
            and all(self._values.rate_left(i) is not zero for i, zero in enumerate(zeros))
            and all(float(zero) == 0.0 for zero in zeros)
            and hooks.without_gradient(self.optimizer)
        )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, nothing is counted or written, and no group sleeps: someone else drives."""
        try:
            with super().paused():
                self._sleepers.wake()
                yield
        finally:
            if not self._paused and self.active:
                self._sleepers.tuck(self.optimizer.param_groups, self._count, False)

    # -- the closed loop ------------------------------------------------------------------------------------------------

    def hear(self, names: list[str], metrics: Mapping[str, float]) -> bool:
        """Let these controllers hear what was measured.

        Returns:
            Whether one of them took the run back to a snapshot.
        """
        back = False
        if self._paused:
            return back  # what the finder tries is none of theirs
        groups: ParamGroups = self.optimizer.param_groups
        if not self._memory.holds(names, groups):
            self.sync()  # somebody has put an earlier state back
        for name in names:
            controller = self.plan.controllers[name]
            if controller.metric not in metrics:
                continue
            before = self._memory[name]
            after = checked(name, before, controller.heard(before, metrics[controller.metric]))
            event = controller.act(before, after, self.optimizer)
            self._memory.keep(name, after, groups)
            if event is not None:
                back = back or "back_to" in event
                self.sync()
                self._note({"step": self.step, "by": name, **event})
        self._void = self._void or back
        self._watchful = self._watchful or back
        return back

    def _note(self, event: dict[str, Any]) -> None:
        """Remember what happened; what lay after the step that the run went back to is undone."""
        for one in self.events if "back_to" in event else ():
            if one["step"] > event["back_to"] and "back_to" not in one:
                one["undone"] = True
        self.events.append(event)
        for owner in hooks.owners(self.optimizer):
            owner.note(self.events)


def _own_record(_optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    """Give a state dict a step of its own: the groups' is counted on."""
    for group in state_dict["param_groups"]:
        step = record.read_step(group)
        if step is not None:
            group[record.STEP] = record.step_tensor(step)
            group.pop(record.ASLEEP, None)


def driver_of(optimizer: torch.optim.Optimizer) -> Driver | None:
    """What drives this optimizer, if anything."""
    return next((owner for owner in hooks.owners(optimizer) if isinstance(owner, Driver)), None)
