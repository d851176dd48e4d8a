"""The budget, on a clock that only moves when it is told to."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from lrkit import watch
from lrkit.gauges import pace, visits
from lrkit.gauges.catalogue import Gauge
from lrkit.gauges.evaluation import NotNow, Unavailable
from lrkit.gauges.pace import Pace


class Clock:
    """Stands for perf_counter."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    one = Clock()
    monkeypatch.setattr(pace, "perf_counter", one)
    monkeypatch.setattr(visits, "perf_counter", one)
    return one


def gauge(clock, name, cost, read=lambda: {}):
    """One that costs so many seconds, half before an update and half after it."""

    def generator(now):
        clock.now += cost() / 2
        yield
        clock.now += cost() / 2
        return read()

    generator.__name__ = name
    return generator


def go(clock, monkeypatch, gauges, updates, seconds=1.0, hook=None, **options):
    """(the watch, at which steps which gauge was read, the largest share of the training's time that was ever spent)"""
    seen, worst = {name: [] for name in gauges}, 0.0
    listed = []
    for name, (cost, share, guess, least) in gauges.items():

        def read(name=name):
            seen[name].append(w._step - 1)
            return {}

        listed.append(Gauge(gauge(clock, name, cost, read), share, guess, least))
    monkeypatch.setattr("lrkit.gauges.watch.GAUGES", tuple(listed))
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with watch(nn.Module(), optimizer, **options) as w:
        begun = clock.now
        for i in range(updates):
            clock.now += seconds(i) if callable(seconds) else seconds
            weight.grad = torch.ones(1)
            if hook is not None:
                hook(i, w, optimizer)
            optimizer.step()
            spent = sum(w._pace.spent.values())
            worst = max(worst, spent / (clock.now - begun - spent))
    return w, seen, worst


CHEAP, DEAR = (lambda: 0.1, 0.5, 0.1, 10), (lambda: 4.0, 0.5, 4.0, 10)


@pytest.mark.parametrize("budget", [0.02, 0.1, 0.5])
def test_the_budget_holds_at_any_time_and_is_used(clock, monkeypatch, budget):
    _, seen, worst = go(clock, monkeypatch, {"cheap": CHEAP, "dear": DEAR}, 3000, budget=budget)
    assert 0.2 * budget < worst <= budget
    assert len(seen["cheap"]) > len(seen["dear"]) >= 3


def test_also_where_updates_become_faster(clock, monkeypatch):
    _, seen, worst = go(
        clock, monkeypatch, {"cheap": CHEAP, "dear": DEAR}, 3000, seconds=lambda i: 1.0 if i < 500 else 0.01, budget=0.1
    )
    assert worst <= 0.1 and seen["dear"]


def test_also_where_a_visit_is_dearer_than_thought(clock, monkeypatch):
    costs = (lambda: 3.0, 0.5, 1.0, 10)
    _, seen, worst = go(clock, monkeypatch, {"cheap": CHEAP, "surprise": costs}, 3000, budget=0.1)
    assert worst <= 0.1 and len(seen["surprise"]) > 10


def test_intervals_stretch_when_a_gauge_becomes_dearer(clock, monkeypatch):
    cost = [0.1]
    gauges = {"one": (lambda: cost[0], 1.0, 0.1, 10)}

    def hook(i, w, optimizer):
        cost[0] = 0.1 if i < 500 else 1.0

    _, seen, _ = go(clock, monkeypatch, gauges, 2000, budget=0.01, hook=hook)
    apart = [b - a for a, b in pairwise(seen["one"])]
    assert apart[0] == 20 and apart[-1] >= 200


def test_a_share_that_is_not_used_goes_to_the_others(clock, monkeypatch):
    def missing():
        raise Unavailable("not in this training")

    alone = {"one": (lambda: 0.1, 0.25, 0.1, 1)}
    _, with_one, _ = go(clock, monkeypatch, alone, 500, budget=0.1)
    _, with_two, _ = go(clock, monkeypatch, alone | {"two": (lambda: 0.1, 0.75, 0.1, 1)}, 500, budget=0.1)
    w, with_none, _ = go(clock, monkeypatch, alone | {"gone": (missing, 0.75, 0.1, 1)}, 500, budget=0.1)
    assert w.gauges["gone"] == "not in this training"
    assert len(with_two["one"]) < 0.5 * len(with_one["one"]) and len(with_none["one"]) >= 0.9 * len(with_one["one"])


def test_what_is_not_there_now_is_asked_for_again(clock, monkeypatch):
    there = [False]

    def later():
        if not there[0]:
            raise NotNow("not yet")
        return 0.1

    def hook(i, w, optimizer):
        if i == 400:
            assert w.gauges == {"later": "not yet"}
            there[0] = True

    w, seen, worst = go(clock, monkeypatch, {"later": (later, 1.0, 0.2, 10)}, 1000, budget=0.02, hook=hook)
    assert seen["later"][0] >= 400 and w.gauges["later"]["visits"] == len(seen["later"]) > 3
    assert worst <= 0.02


def test_a_budget_of_nothing_reads_nothing(clock, monkeypatch):
    w, seen, worst = go(clock, monkeypatch, {"cheap": CHEAP}, 100, budget=0)
    assert seen == {"cheap": []} and worst == 0 and w.gauges == {} and len(w.run) == 100


@pytest.mark.parametrize("every", [1, 3, 7])
def test_every_so_many_updates_are_exactly_these(clock, monkeypatch, every):
    _, seen, _ = go(clock, monkeypatch, {"cheap": CHEAP, "dear": DEAR}, 30, every=every)
    assert seen["cheap"] == seen["dear"] == list(range(0, 30, every))


@pytest.mark.parametrize("options", [{"every": 5}, {"budget": 0.5}])
def test_after_a_rewind_gauges_come_back(clock, monkeypatch, options):
    def hook(i, w, optimizer):
        if i == 203:
            w.note([{"step": 203, "by": "guard", "what": "back", "back_to": 50}])

    w, seen, worst = go(clock, monkeypatch, {"cheap": CHEAP, "dear": DEAR}, 600, hook=hook, **options)
    for steps in seen.values():
        back = next(i for i, (a, b) in enumerate(pairwise(steps)) if b < a)
        assert 50 <= steps[back + 1] < 120 and len(steps[back + 1 :]) > 5
    assert "every" in options or worst <= 0.5
    assert w.run.step.tolist() == list(range(447))


@pytest.mark.parametrize("options", [{"every": 5}, {"budget": 0.5}])
def test_skipped_updates_drop_what_is_under_way_and_gauges_come_back(clock, monkeypatch, options):
    closed = []

    def spanning(now):
        try:
            yield
            yield
            yield
        finally:
            closed.append(now.step)
        return {"spanned": 1.0}

    def hook(i, w, optimizer):
        optimizer.found_inf = torch.tensor(float(i % 50 == 6))

    monkeypatch.setattr("lrkit.gauges.watch.GAUGES", (Gauge(spanning, 1.0, 0.1, 5),))
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1, fused=True)
    with watch(nn.Module(), optimizer, **options) as w:
        for i in range(300):
            clock.now += 1.0
            weight.grad = torch.ones(1)
            hook(i, w, optimizer)
            optimizer.step()
    assert len(w.run) == 294 and w.run.observed("spanned")[0].size > 25
    assert len(closed) >= w.gauges["spanning"]["visits"]


class TestSeveralProcesses:
    """What decides the next visit is the same in all of them, though their clocks differ."""

    def test_are_due_at_the_same_steps(self, monkeypatch):
        now = [0.0, 0.0]
        current = [0]
        monkeypatch.setattr(pace, "perf_counter", lambda: now[current[0]])
        table, turn = {}, [0, 0]

        def agreed(rank):
            def mean(numbers):
                turn[rank] += 1
                table.setdefault(turn[rank], {})[rank] = list(numbers)
                return list(numbers) if rank == 0 else table[turn[rank]][0]  # the first decides, in place of the mean

            return mean

        paces = [Pace({"a": (0.5, 0.5, 3), "b": (0.5, 2.0, 5)}, 0.2, None, agreed(rank)) for rank in (0, 1)]
        for step in range(400):
            found = []
            for rank, one in enumerate(paces):
                current[0] = rank
                now[rank] += 1.0 + 0.5 * rank + 0.01 * (step % 7)
                one.beat()
                due = one.due(step) if step >= one.soonest else []
                for name in due:
                    one.charge(name, 0.4 + rank)
                    if step % 3 == 2:
                        one.postpone(name, step)
                    else:
                        one.visited(name, 0.4 + rank, step)
                if step == 200:
                    one.rewind(step)
                found.append((due, one.soonest))
            assert found[0] == found[1]
        assert min(paces[0].visits) and turn[0] == turn[1] > 10

    def test_what_fails_in_one_is_left_out_in_all(self):
        one = Pace({"a": (1.0, 0.5, 3)}, 0.2, 1, lambda numbers: [*numbers[:2], numbers[2] / 2 + 0.5])
        assert one.due(0) == ["a"]
        assert one.visited("a", 0.1, 0) and one.due(1) == []
