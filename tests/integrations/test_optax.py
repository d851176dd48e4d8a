"""`to_optax`: a schedule as a function of the count, also inside jit."""

import numpy as np
import pytest

from lrkit import parse
from lrkit.errors import InputError
from lrkit.integrations import to_optax

TEXTS = ["warmup 3 > cosine 9", "linear 12 to 0.1", "exponential 6 to 0.01", "hold 4 > decay 0.5 every 2 stairs", "1-sqrt 12"]


class TestTheFunction:
    @pytest.mark.parametrize("text", TEXTS)
    def test_is_base_times_factor(self, text):
        rate = to_optax(text, base=0.3)
        assert [rate(t) for t in range(15)] == [0.3 * parse(text)(t) for t in range(15)]

    @pytest.mark.parametrize("form", [str, parse, lambda text: parse(text).resolve(total=100)])
    def test_takes_every_form_of_a_schedule(self, form):
        rate = to_optax(form("warmup 5% > cosine"), base=0.1, total=100)
        assert rate(4) == 0.1 and rate(100) == 0.0

    def test_absolute_values_are_kept(self):
        rate = to_optax("base 0.2 (linear 10)")
        assert [rate(0), rate(5)] == [0.2, 0.1]

    def test_a_base_for_absolute_values_is_refused(self):
        with pytest.raises(InputError, match=r"has absolute values, so base has nothing to multiply\."):
            to_optax("base 0.2 (linear 10)", base=0.1)

    def test_a_template_without_its_total_is_refused(self):
        with pytest.raises(InputError, match=r"to_optax: resolve.*Pass total="):
            to_optax("warmup 5% > cosine", base=0.1)

    @pytest.mark.parametrize("base", [-1.0, float("nan"), "0.1", True])
    def test_what_is_no_rate_is_refused(self, base):
        with pytest.raises(InputError, match=r"to_optax\(base="):
            to_optax("linear 10", base=base)

    @pytest.mark.parametrize("schedule", [None, 3, "warmop 3"])
    def test_what_is_no_schedule_is_refused(self, schedule):
        with pytest.raises(InputError, match="to_optax: "):
            to_optax(schedule)


@pytest.mark.hosts
@pytest.mark.filterwarnings("default")
class TestInsideOptax:
    @pytest.mark.parametrize("text", TEXTS)
    def test_jitted_it_has_the_same_values(self, text):
        import jax

        rate = to_optax(text, base=0.3)
        traced = [float(jax.jit(rate)(jax.numpy.asarray(t))) for t in range(15)]
        assert traced == pytest.approx([rate(t) for t in range(15)], rel=3e-5, abs=1e-7)

    def test_a_jitted_adamw_takes_the_steps_of_one_whose_rates_are_told(self):
        """12 updates: the schedule inside the compiled step, against the rate given from outside."""
        import jax
        import optax

        rate = to_optax("warmup 3 > cosine 9", base=0.1)
        ours = optax.adamw(learning_rate=rate)
        told = optax.inject_hyperparams(optax.adamw)(learning_rate=0.0)
        data = jax.random.normal(jax.random.PRNGKey(0), (8, 3))

        def loss(w):
            return ((data @ w - 1.0) ** 2).mean()

        def updated(chain, w, state):
            updates, state = chain.update(jax.grad(loss)(w), state, w)
            return optax.apply_updates(w, updates), state

        inside = jax.jit(lambda w, state: updated(ours, w, state))
        outside = jax.jit(lambda w, state: updated(told, w, state))
        w = v = jax.numpy.ones(3)
        a, b = ours.init(w), told.init(v)
        for t in range(12):
            w, a = inside(w, a)
            b.hyperparams["learning_rate"] = jax.numpy.asarray(rate(t), jax.numpy.float32)
            v, b = outside(v, b)
            assert np.asarray(w) == pytest.approx(np.asarray(v), rel=1e-4, abs=1e-6), "a float32 schedule"
        assert not np.allclose(np.asarray(w), 1.0), "it moved"

    def test_a_restored_count_goes_on_where_it_was(self):
        import jax
        import optax

        chain = optax.adamw(learning_rate=to_optax("linear 12", base=0.1))
        gradient, w = jax.numpy.ones(2), jax.numpy.zeros(2)
        whole = []
        state = chain.init(w)
        kept = {}
        for t in range(12):
            kept[t] = jax.tree.map(np.asarray, state)  # as a checkpoint holds it
            updates, state = chain.update(gradient, state, w)
            whole.append(np.asarray(updates))
        for cut, saved in kept.items():
            state = jax.tree.map(jax.numpy.asarray, saved)
            for t in range(cut, 12):
                updates, state = chain.update(gradient, state, w)
                assert np.array_equal(np.asarray(updates), whole[t])
