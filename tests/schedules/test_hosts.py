"""Inside JAX and transformers: schedules are traced, and live schedulers are read."""

import numpy as np
import pytest

from lrkit.schedules import from_torch, parse

pytestmark = pytest.mark.hosts

TEXTS = [
    "warmup 10 > cosine 90", "repeat (cosine 10) stretch 2", "repeat 3 (linear 10) scale 0.5", "points(cosine) 0:0.1 4.5:1 9:0",
    "tanh 50", "decay 0.5 every 10 stairs to 0.1", "inverse 0.1 power 0.5", "radam 0.99", "exponential 50 to 0.01",
    "hold 5 > rex 9", "between 0.2 and 1 (wave(2, k=2) 50)", "each 10 (cosine 9)", "(warmup 10 > cosine 90)[5:50]",
    "base 0.1 (warmup 5 * 1-sqrt 90)",
]  # fmt: skip


@pytest.mark.filterwarnings("default")
class TestJax:
    @pytest.mark.parametrize("text", TEXTS)
    def test_traces_a_schedule(self, text):
        import jax

        schedule, steps = parse(text), np.arange(120)
        traced = jax.jit(schedule)(jax.numpy.asarray(steps))
        close = 2e-4 if "radam" in text else 3e-5  # RAdam's formula subtracts what is nearly equal
        assert np.asarray(traced) == pytest.approx(schedule(steps), rel=close, abs=1e-6)
        one = jax.jit(schedule)(jax.numpy.asarray(7))
        assert float(one) == pytest.approx(schedule(7), rel=close, abs=1e-6)


WARM = {"num_warmup_steps": 5}
RUN = WARM | {"num_training_steps": 50}


@pytest.mark.filterwarnings("default")
class TestTransformers:
    @pytest.mark.parametrize(
        ("name", "given"),
        [
            ("get_constant_schedule_with_warmup", WARM),
            ("get_linear_schedule_with_warmup", RUN),
            ("get_cosine_schedule_with_warmup", RUN),
            ("get_cosine_with_hard_restarts_schedule_with_warmup", RUN | {"num_cycles": 3}),
            ("get_polynomial_decay_schedule_with_warmup", RUN | {"power": 2.0}),
            ("get_inverse_sqrt_schedule", WARM),
            ("get_cosine_with_min_lr_schedule_with_warmup", RUN | {"min_lr_rate": 0.1}),
            ("get_wsd_schedule", RUN | {"num_decay_steps": 10, "min_lr_ratio": 0.1}),
        ],
    )  # fmt: skip
    def test_a_live_scheduler_becomes_a_text(self, name, given):
        import torch
        import transformers

        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
        scheduler = getattr(transformers, name)(optimizer, **given)
        schedule = from_torch(scheduler)
        assert parse(str(schedule)) == schedule, "recognised, so it has a text"
        for step in range(50):
            assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-15)
            optimizer.step()
            scheduler.step()
