"""A live torch scheduler becomes a Schedule with its numbers."""

import warnings

import pytest

from lrkit.errors import InputError
from lrkit.schedules import from_torch

torch = pytest.importorskip("torch")
from torch.optim import lr_scheduler as theirs  # noqa: E402

MAKERS = {
    "StepLR": lambda o: theirs.StepLR(o, 7, 0.3),
    "MultiStepLR": lambda o: theirs.MultiStepLR(o, [5, 11, 11], 0.5),
    "ConstantLR": lambda o: theirs.ConstantLR(o, 0.25, 6),
    "LinearLR": lambda o: theirs.LinearLR(o, 0.1, 0.8, 9),
    "ExponentialLR": lambda o: theirs.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: theirs.PolynomialLR(o, 40, 0.9),
    "CosineAnnealingLR": lambda o: theirs.CosineAnnealingLR(o, 50, 0.001),
    "WarmRestarts": lambda o: theirs.CosineAnnealingWarmRestarts(o, 3, 2, 0.001),
    "LambdaLR": lambda o: theirs.LambdaLR(o, [lambda t: 0.9**t, lambda t: 0.8**t]),
    "MultiplicativeLR": lambda o: theirs.MultiplicativeLR(o, lambda t: 0.95),
    "OneCycleLR": lambda o: theirs.OneCycleLR(o, [0.5, 0.2], total_steps=41, pct_start=0.27),
    "OneCycleLR, linear, three phases": lambda o: theirs.OneCycleLR(
        o, 0.5, total_steps=41, anneal_strategy="linear", three_phase=True, pct_start=0.4, div_factor=10, final_div_factor=3
    ),
    "CyclicLR": lambda o: theirs.CyclicLR(o, 0.01, 0.1, step_size_up=3, step_size_down=5, mode="triangular2"),
    "CyclicLR, exp_range": lambda o: theirs.CyclicLR(o, 0.01, 0.1, step_size_up=4, mode="exp_range", gamma=0.97),
    "CyclicLR, own scale": lambda o: theirs.CyclicLR(o, 0.01, 0.1, step_size_up=4, scale_fn=lambda c: 1 / c),
    "SequentialLR": lambda o: theirs.SequentialLR(
        o, [theirs.LinearLR(o, 0.1, 1.0, 5), theirs.CosineAnnealingLR(o, 35), theirs.ConstantLR(o, 0.1, 100)], [5, 30]
    ),
    "ChainedScheduler": lambda o: theirs.ChainedScheduler([theirs.LinearLR(o, 0.1, 1.0, 5), theirs.ExponentialLR(o, 0.9)]),
}


def optimizer():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    return torch.optim.SGD([{"params": [weights[0]], "lr": 0.1}, {"params": [weights[1]], "lr": 0.02}], lr=0.1, momentum=0.9)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_gives_the_schedulers_own_numbers_for_every_group(make):
    live = optimizer()
    scheduler = make(live)
    read = [from_torch(scheduler, group) for group in range(2)]
    for step in range(40):
        for group, schedule in enumerate(read):
            assert schedule(step) == pytest.approx(live.param_groups[group]["lr"], rel=1e-9, abs=1e-15), f"group {group}, {step}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            live.step()
            scheduler.step()


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_reads_the_momentum_that_is_driven_too(name):
    live = optimizer()
    scheduler = MAKERS[name](live)
    schedule = from_torch(scheduler, quantity="momentum")
    for step in range(30):
        assert schedule(step) == pytest.approx(live.param_groups[0]["momentum"], rel=1e-9)
        live.step()
        scheduler.step()


def test_a_scheduler_that_is_under_way_is_read_from_its_beginning():
    live = optimizer()
    scheduler = theirs.StepLR(live, 3)
    live.step()
    for _ in range(5):
        scheduler.step()
    assert from_torch(scheduler)(0) == 0.1


def test_a_function_in_the_form_of_transformers_is_recognised_by_its_numbers():
    from functools import partial

    def _get_linear_schedule_with_warmup_lr_lambda(step, *, num_warmup_steps, num_training_steps):
        if step < num_warmup_steps:
            return step / max(1, num_warmup_steps)
        return max(0.0, (num_training_steps - step) / max(1, num_training_steps - num_warmup_steps))

    fn = partial(_get_linear_schedule_with_warmup_lr_lambda, num_warmup_steps=3, num_training_steps=20)
    schedule = from_torch(theirs.LambdaLR(optimizer(), fn))
    assert "linear" in str(schedule) and [schedule(t) for t in range(20)] == pytest.approx([0.1 * fn(t) for t in range(20)])


def test_a_wrapper_is_looked_into():
    class Wrapper:
        scheduler = theirs.ExponentialLR(optimizer(), 0.5)

    assert from_torch(Wrapper())(1) == 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_torch(3), "this is none that can be read. These can: StepLR"),
        (lambda: from_torch(theirs.StepLR(optimizer(), 3), group=2), "the optimizer has 2 groups. Count from 0"),
        (lambda: from_torch(theirs.StepLR(optimizer(), 3), quantity="momentum"), "StepLR drives lr"),
        (lambda: from_torch(theirs.ReduceLROnPlateau(optimizer())), "none that can be read"),
    ],
)
def test_what_cannot_be_read_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
