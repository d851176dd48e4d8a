"""The rules of other libraries give what those libraries give, on the same raw losses, defects included."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrkit import Run
from lrkit.errors import InputError
from lrkit.finder import rules
from lrkit.finder.rules import RULES, NoAnswer

BY_NAME = {rule.name: rule for rule in RULES}


def losses_of(kind: str, rates: list[float]) -> list[float]:
    """A raw loss at each rate: a fall, a rise, and noise that is the same everywhere."""
    lg = np.log10(np.array(rates))
    noise = np.array([(i * i * 7919 + i * 104729) % 10007 / 10007 - 0.5 for i in range(len(rates))])
    usual = 2.3 - 1.5 / (1 + np.exp(-2 * (lg + 3))) + 10.0 ** np.minimum(4 * (lg + 0.8), 3)
    curve = {
        "usual": usual + 0.1 * noise,
        "noisy": usual + noise,
        "tenfold": 10 * (usual + 0.1 * noise),
        "nan": np.where(lg > -1.2, np.nan, usual + 0.1 * noise),
        "inf": np.where(lg > -1.2, np.inf, usual + 0.1 * noise),
        "falling": 2.3 - 0.02 * (lg - lg[0]) ** 2,
        "early": np.where(np.arange(len(rates)) > 6, 50.0, 1.0) + 0.1 * noise,
    }
    return curve[kind].tolist()


def ramp_of(rule: rules.Rule, kind: str) -> Run:
    """What a rule is given: its own ramp."""
    return Run({"loss": losses_of(kind, rule.ramp.rates), "lr": rule.ramp.rates})


def answer(rule: rules.Rule, run: Run) -> float | None:
    try:
        return rule.choose(run)
    except NoAnswer:
        return None


# What the libraries themselves answered when they were handed these losses batch by batch, in the order of RULES: fastai 2.8.12,
# pytorch-ignite 0.5.5, torch-lr-finder 0.2.2, lightning 2.6.6, pytorch-lightning 2.5.2, ktrain 0.41.4. None is an error, or None.
GOLDEN = {
    "usual": (
        0.000691831, 0.00436516, 0.0144544, 0.00436516, 0.00524807, 0.0048626, 0.000144544, 0.0120226, 0.000744648, 0.000839088,
        0.00611392,
    ),
    "noisy": (
        0.0017378, 0.00363078, 0.0120226, 0.00363078, 0.00524807, 0.0048626, 1.90546e-07, 0.0047863, 0.00913981, 1.20811e-07,
        0.00611392,
    ),
    "tenfold": (
        0.000691831, 0.00251189, 0.0144544, 0.00436516, 0.00524807, 0.0048626, 0.000144544, 0.0120226, 0.000744648, 0.000839088,
        0.00611392,
    ),
    "nan": (
        0.000398107, 0.00363078, 0.0057544, 0.00436516, 0.0691831, 0.0546228, 0.000144544, 0.0120226, 0.000744648, 0.000839088,
        0.00636217,
    ),
    "inf": (
        0.000331131, 0.0017378, 0.00275423, 0.00436516, 0.00524807, 0.0048626, 0.000144544, 0.0120226, 0.000744648, 0.000839088,
        0.00611392,
    ),
    "falling": (
        0.00120226, 0.20893, 0.331131, 2.75423, 10, 3.94421, 3.63078e-06, 0.831764, 0.000983896, 7.1822, 0.997385,
    ),
    "early": (None, None, None, None, None, None, None, None, 1e-07, None, 1e-08),
}  # fmt: skip


class TestTheLibrariesOwnAnswers:
    @pytest.mark.parametrize("kind", GOLDEN)
    @pytest.mark.parametrize("at", range(len(RULES)), ids=[rule.name for rule in RULES])
    def test_are_given(self, at, kind):
        rule, expected = RULES[at], GOLDEN[kind][at]
        came = answer(rule, ramp_of(rule, kind))
        assert came == (None if expected is None else pytest.approx(expected, rel=1e-5))

    def test_lightning_records_a_constant_loss_as_one_that_rises(self):
        assert rules.lightning_record(np.ones(5)) == pytest.approx([0.5051, 0.6734, 0.7575, 0.8080, 0.8416], abs=1e-4)

    def test_ignite_takes_a_nan_for_the_lowest_and_for_the_steepest_and_reports_the_next_rate(self):
        run = Run({"loss": [3, 2.5, 2, 1.5, 1.4, 1.3, math.nan], "lr": [1, 2, 3, 4, 5, 6, 7]})
        assert rules.ignite(run) == 7  # index 5 of what it recorded, where index 5 has the rate of the update after it

    def test_ktrains_index_is_32_too_low(self):
        """The curve falls most at update 100."""
        at = np.arange(400)
        run = Run({"loss": 2 - np.tanh((at - 100) / 5) + 0.01 * np.maximum(0, at - 200), "lr": 1e-6 * 1.01**at})
        recorded = rules.ktrain_record(run["loss"])
        steepest = int(np.argmin(np.gradient(recorded[: recorded.argmin()])))
        assert rules.ktrain_steep(run) == run["lr"][steepest - 32]

    def test_fastais_slide_depends_on_the_losss_scale(self):
        rule = BY_NAME["fastai slide"]
        assert answer(rule, ramp_of(rule, "usual")) != answer(rule, ramp_of(rule, "tenfold"))

    def test_fastais_valley_depends_on_where_the_ramp_begins(self):
        """The same curve, of which a longer flat part is shown."""
        answers = []
        for begin in (-8, -4):
            rates = 10.0 ** np.linspace(begin, 1, 100)
            answers.append(rules.valley(Run({"loss": losses_of("usual", rates), "lr": rates})))
        assert answers[1] > 2 * answers[0]

    def test_lightnings_answer_on_noise_is_near_where_the_ramp_begins(self):
        rule = BY_NAME["Lightning"]
        assert rule.choose(ramp_of(rule, "noisy")) < 30 * rule.ramp.start

    @pytest.mark.parametrize("name", ["fastai valley", "fastai minimum", "fastai steep", "Lightning", "Lightning before 2.5.3"])
    def test_but_a_scale_of_two_changes_none_of_these(self, name):
        rule = BY_NAME[name]
        run = ramp_of(rule, "usual")
        assert rule.choose(Run({"loss": 2 * run["loss"], "lr": run["lr"]})) == rule.choose(run)


class TestRecords:
    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
    def test_end_with_the_first_that_is_above_the_factor_times_the_lowest(self, rule):
        recorded = rule.ramp.record(ramp_of(rule, "usual")["loss"])
        assert len(recorded) < rule.ramp.steps
        assert recorded[-1] > rule.ramp.stop * recorded[:-1].min()
        assert all(recorded[t] <= rule.ramp.stop * recorded[:t].min() for t in range(1, len(recorded) - 1))

    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
    def test_a_nan_ends_none_of_them(self, rule):
        recorded = rule.ramp.record(ramp_of(rule, "nan")["loss"])
        assert len(recorded) == rule.ramp.steps and np.isnan(recorded[-1])

    def test_fastais_average_lags_by_two_decades(self):
        """A fall at 1e-3 is recorded as one whose middle is at 8e-2."""
        rates = np.array(BY_NAME["fastai valley"].ramp.rates)
        recorded = rules.fastai_record(np.where(rates < 1e-3, 2.0, 1.0))
        assert 0.05 < rates[np.argmax(recorded < 1.5)] < 0.2


class TestRamps:
    def test_are_as_the_libraries_run_them(self):
        ends = {rule.name: (rule.ramp.rates[0], rule.ramp.rates[-1], len(rule.ramp.rates)) for rule in RULES}
        last = 1e-7 * 1e8**0.99
        assert ends["fastai valley"] == (1e-7, pytest.approx(last), 100)
        assert ends["ignite"] == (pytest.approx(1e-7 * 1e8**0.01), pytest.approx(10), 101)
        assert ends["torch-lr-finder"] == (1e-7, pytest.approx(10), 100)
        assert ends["Lightning"] == (1e-8, pytest.approx(1), 100)
        assert ends["ktrain steep"] == (1e-7, pytest.approx(10, rel=0.01), 1852)

    def test_lightnings_first_step_is_a_double_one_and_ignites_first_rate_is_used_twice(self):
        lightning, ignite = np.log(BY_NAME["Lightning"].ramp.rates), BY_NAME["ignite"].ramp.rates
        assert lightning[1] - lightning[0] == pytest.approx(2 * (lightning[2] - lightning[1]))
        assert ignite[0] == ignite[1] < ignite[2]

    def test_ktrains_next_rate_would_be_above_10(self):
        rates = BY_NAME["ktrain steep"].ramp.rates
        assert rates[1] / rates[0] == pytest.approx(1.01) and rates[-1] <= 10 < 1.01 * rates[-1]

    def test_rules_of_one_library_share_theirs(self):
        assert len({id(rule.ramp) for rule in RULES}) == 5 and len(BY_NAME) == len(RULES)


numbers = st.one_of(st.floats(-10, 10, width=32), st.sampled_from([math.nan, math.inf, -math.inf, 1e30, 0.0]))


class TestEveryCurve:
    @settings(max_examples=150, deadline=None)
    @given(st.lists(numbers, max_size=70))
    def test_has_a_rate_of_the_ramp_for_an_answer_or_none_that_is_said(self, losses):
        rates = 1e-6 * 1.2 ** np.arange(len(losses))
        run = Run({"loss": losses, "lr": rates})
        for rule in RULES:
            came = answer(rule, run)
            tenth = rule.name.endswith("minimum")
            assert came is None or np.isclose(rates / 10 if tenth else rates, came, rtol=1e-12).any(), rule.name

    def test_that_is_too_short_is_named(self):
        run = Run({"loss": [1.0] * 12, "lr": [0.1] * 12})
        with pytest.raises(NoAnswer, match=r"slide\(run\): needs 16 points after trimming, got 0"):
            rules.slide(run)
        assert issubclass(NoAnswer, InputError)

    @pytest.mark.parametrize("run", [Run({"loss": [1.0]}), Run({"lr": [1.0]}), [1.0, 2.0]], ids=["no lr", "no loss", "a list"])
    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
    def test_needs_loss_and_lr(self, rule, run):
        with pytest.raises(InputError, match="needs a Run with loss and lr") as refusal:
            rule.choose(run)
        assert not isinstance(refusal.value, NoAnswer)

    @pytest.mark.parametrize("lr", [0.0, -1.0, math.nan, math.inf])
    def test_needs_a_rate_in_every_row(self, lr):
        with pytest.raises(InputError, match="every row needs a rate above 0"):
            rules.ignite(Run({"loss": [1.0] * 4, "lr": [0.1, 0.1, 0.1, lr]}))


@pytest.fixture(scope="module")
def suggest():
    from types import SimpleNamespace as Plain

    import torch
    from lightning.pytorch.tuner.lr_finder import _ExponentialLR, _LRCallback, _LRFinder

    def suggest(losses):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-8)
        scheduler, callback = _ExponentialLR(optimizer, 1, 100), _LRCallback(100, 4.0)
        trainer = Plain(
            fit_loop=Plain(batch_idx=0), accumulate_grad_batches=1, global_step=0, should_stop=False,
            lr_scheduler_configs=[Plain(scheduler=scheduler)], strategy=Plain(broadcast=lambda value: value),
        )  # fmt: skip
        for i, loss in enumerate(losses):
            callback.on_train_batch_start(trainer, None, None, i)
            optimizer.step()
            trainer.global_step += 1
            callback.on_train_batch_end(trainer, None, torch.tensor(loss, dtype=torch.float64), None, i)
            scheduler.step()
            if trainer.should_stop:
                break
        finder = _LRFinder("exponential", 1e-8, 1, 100)
        finder.results = {"lr": callback.lrs, "loss": callback.losses}
        return callback.lrs, callback.losses, finder.suggestion()

    return suggest


@pytest.mark.hosts
@pytest.mark.filterwarnings("default")
class TestLightningItself:
    """The callback that records and the class that suggests, fed with the same losses."""

    @pytest.mark.parametrize("seed", range(40))
    def test_records_and_suggests_the_same(self, suggest, seed):
        rng = np.random.default_rng(seed)
        rule = BY_NAME["Lightning"]
        power = np.log10(rule.ramp.rates)
        losses = rng.normal(2.3, 10 ** rng.uniform(-3, 0), 100) + 10 ** np.minimum(3 * (power + rng.uniform(0, 6)), 4)
        losses -= rng.uniform(0, 2) / (1 + np.exp(-3 * (power + rng.uniform(1, 6))))
        if seed % 4 == 0:
            losses[rng.integers(20, 100) :] = [math.nan, math.inf][seed % 8 // 4]
        rates, recorded, suggestion = suggest(losses.tolist())
        assert rule.ramp.rates[: len(rates)] == pytest.approx(rates, rel=1e-12)
        assert np.array_equal(rule.ramp.record(losses), recorded, equal_nan=True)
        came = answer(rule, Run({"loss": losses, "lr": rule.ramp.rates}))
        assert came == (None if suggestion is None else pytest.approx(suggestion, rel=1e-12))
