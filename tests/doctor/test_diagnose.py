"""The doctor names planted faults, with advice in numbers, and leaves healthy runs alone."""

import math

import numpy as np
import pytest

from lrkit import Run, diagnose, parse
from lrkit.errors import InputError

N = 400
T = np.arange(N)
WARM = np.array(parse("warmup 5% > cosine").resolve(total=N)(T))


def run(loss, lr=None, optimizer=None, **more) -> Run:
    lr = np.full(len(loss), 0.1) if lr is None else lr
    return Run({"step": np.arange(len(loss)), "loss": loss, "lr": lr, **more}, {"optimizer": optimizer} if optimizer else None)


def noise(seed: int, size: float = 0.02, n: int = N):
    return size * np.random.default_rng(seed).standard_normal(n)


def slide(tau: float, low: float = 0.1, high: float = 2.3):
    return low + (high - low) * np.exp(-T / tau)


# Planted faults: name → (seed → run, code, the word)
FAULTS = {
    "explodes to NaN": (lambda s: run(np.where(T < 250, slide(50) + noise(s), math.nan)), "diverged", "diverged"),
    "ends above its start": (lambda s: run(np.where(T < 100, slide(50), 5.0) + noise(s)), "diverged", "diverged"),
    "is NaN at once": (lambda s: run(np.full(N, math.nan)), "diverged", "diverged"),
    "rises at once and stays at chance": (
        lambda s: run(np.where(T < 3, 2.3, 2.31 + 3 * np.exp(-T / 12)) + noise(s, 0.01), 0.6 * WARM),
        "too_high_at_start", "too high",
    ),
    "is thrown up by one update and stays at chance": (
        lambda s: run(np.where(T == 1, 2.8, 2.3) + noise(s), 0.4 * WARM, optimizer="AdamW"), "too_high_at_start", "too high",
    ),
    "falls fast, then jitters on one level": (
        lambda s: run(1.2 + 1.1 * np.exp(-T / 8) + noise(s, 0.15), optimizer="AdamW"), "too_high_later", "too high",
    ),
    "is slow all along": (lambda s: run(2.3 - 1.0 * T / N + noise(s), np.full(N, 1e-5)), "too_low", "too low"),
    "is slow under a decaying rate": (
        lambda s: run(2.3 - 1.2 * np.cumsum(WARM) / WARM.sum() + noise(s), 1e-5 * WARM), "too_low", "too low",
    ),
    "has not moved": (lambda s: run(2.3 + noise(s)), "cannot_tell", "cannot tell"),
    "is too short": (lambda s: run(slide(50)[:12]), "cannot_tell", "cannot tell"),
}  # fmt: skip

HEALTHY = {
    "a green slide": lambda s: run(slide(60) + noise(s)),
    "a slide under warm-up and cosine": lambda s: run(slide(60) + noise(s, 0.05), WARM),
    "a plateau in the stable phase of warmup-stable-decay": lambda s: run(
        np.where(T < 300, 1.2 + 1.1 * np.exp(-T / 8), 1.2 - 0.5 * (T - 300) / 100) + noise(s, 0.15),
        5e-3 * np.array(parse("warmup 20 > hold 280 > 1-sqrt 100")(T)),
        optimizer="AdamW",
    ),
    "a catapult that comes back": lambda s: run(np.where(T < 12, 2.3 + 0.15 * T, slide(40)) + noise(s), WARM),
    "validation rows without a training loss": lambda s: run(
        np.where(T % 50 == 49, math.nan, slide(60) + noise(s)), val_loss=np.where(T % 50 == 49, 1.0, math.nan)
    ),
    "no rate in the log": lambda s: Run({"loss": slide(60) + noise(s)}),
}


@pytest.mark.parametrize("seed", range(5))
class TestPlanted:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_faults_are_named(self, fault, seed):
        make, code, word = FAULTS[fault]
        diagnosis = diagnose(make(seed))
        assert (diagnosis.findings[0].code, diagnosis.rate) == (code, word)
        assert not diagnosis.healthy and len(diagnosis.findings) <= 3

    @pytest.mark.parametrize("case", HEALTHY)
    def test_healthy_runs_are_left_alone(self, case, seed):
        diagnosis = diagnose(HEALTHY[case](seed))
        assert (diagnosis.healthy, diagnosis.rate, diagnosis.advised_lr) == (True, "ok", None), str(diagnosis)
        assert "healthy: the loss falls from" in str(diagnosis)

    @pytest.mark.parametrize("scale", [1e-3, 1e4])
    def test_the_verdict_does_not_depend_on_the_losss_scale(self, scale, seed):
        for make, code, _ in FAULTS.values():
            original = make(seed)
            scaled = Run({**{n: original[n] for n in original.columns}, "loss": scale * original["loss"]}, original.meta)
            assert diagnose(scaled).findings[0].code == code


class TestFindings:
    @pytest.mark.parametrize("fault", [f for f in FAULTS if FAULTS[f][1] != "cannot_tell"])
    def test_say_what_since_when_how_sure_and_what_to_do(self, fault):
        finding = diagnose(FAULTS[fault][0](0)).findings[0]
        assert 0.4 < finding.confidence <= 1 and finding.sure in ("certain", "likely", "possible")
        assert finding.evidence and finding.advice and finding.verify
        assert 0 <= finding.window[0] <= finding.window[1] <= N
        assert finding.code in str(finding) and "do:" in str(finding)

    def test_advise_a_rate_in_numbers(self):
        diagnosis = diagnose(FAULTS["is slow all along"][0](0))
        assert diagnosis.advised_lr is not None and 3e-5 < diagnosis.advised_lr < 1e-2
        assert f"change the rate from 1e-05 to {diagnosis.advised_lr:.3g} and restart" in diagnosis.findings[0].advice

    def test_name_the_step_to_go_back_to(self):
        finding = diagnose(FAULTS["explodes to NaN"][0](0)).findings[0]
        assert finding.restart is not None and 200 <= finding.restart < 250
        assert f"go back to step {finding.restart}" in finding.advice

    def test_say_that_the_rate_is_missing(self):
        diagnosis = diagnose(Run({"loss": 2.3 - 1.0 * T / N + noise(0)}))
        assert diagnosis.missing == ("lr",) and diagnosis.advised_lr is None
        assert "not in the log: lr" in str(diagnosis)
        assert "multiply the rate by" in diagnosis.findings[0].advice

    def test_a_nan_from_the_first_row_is_not_blamed_on_the_rate(self):
        finding = diagnose(FAULTS["is NaN at once"][0](0)).findings[0]
        assert "leave the rate" in finding.advice and finding.factor == 1.0


class TestPlot:
    @pytest.mark.parametrize("case", ["is slow all along", "explodes to NaN"])
    def test_shades_the_window(self, case):
        diagnosis = diagnose(FAULTS[case][0](0))
        assert len(diagnosis.plot().patches) == 1
        assert diagnosis._repr_html_().startswith("<svg")

    def test_a_run_without_a_finite_loss_still_shows_its_text(self):
        assert diagnose(FAULTS["is NaN at once"][0](0))._repr_html_().startswith("<pre>")


def test_a_run_without_a_loss_is_refused():
    with pytest.raises(InputError, match=r"diagnose\(run\): there is no loss to read; columns are step, lr"):
        diagnose(Run({"lr": [0.1]}))
    with pytest.raises(InputError, match="there is no loss to read"):
        diagnose(Run({"loss": []}))


class TestHardCases:
    @pytest.mark.parametrize(
        "last",
        [
            '{"step":300,"train_runtime":12,"train_loss":0.5}',
            '{"step":300,"eval_accuracy":0.9}',
            '{"step":300,"learning_rate":0.0}',
        ],
    )
    def test_a_summary_row_at_the_end_of_a_log_is_no_explosion(self, last, tmp_path):
        from lrkit import read

        rows = [f'{{"step":{t},"loss":{0.1 + 2 * math.exp(-t / 40)},"lr":0.1}}' for t in range(300)]
        (tmp_path / "log.jsonl").write_text("\n".join([*rows, last]))
        assert diagnose(read(tmp_path / "log.jsonl")).rate == "ok"

    def test_rates_that_are_logged_now_and_then_are_held(self):
        slow = FAULTS["is slow all along"][0](0)
        sparse = np.where(T % 10 == 0, slow["lr"], math.nan)
        assert diagnose(run(slow["loss"], sparse)).advised_lr == pytest.approx(diagnose(slow).advised_lr)

    @pytest.mark.parametrize("lr", [-0.1, math.inf, math.nan, 0.0])
    def test_rates_that_are_none_are_not_advised_upon(self, lr):
        diagnosis = diagnose(run(FAULTS["is slow all along"][0](0)["loss"], np.full(N, lr)))
        assert diagnosis.advised_lr is None and "usable lr" in diagnosis.missing[0]

    @pytest.mark.parametrize("what", [None, {"loss": [1]}, "runs/x"])
    def test_what_is_no_run_is_refused(self, what):
        with pytest.raises(InputError, match="needs a Run"):
            diagnose(what)

    @pytest.mark.parametrize("rows", [1000, 10_000, 50_000])
    def test_flat_noise_is_not_accused_however_long_the_log(self, rows):
        wrong = 0
        for seed in range(40):
            flat = Run({"loss": 2.3 + noise(seed, 0.1, rows), "lr": np.full(rows, 0.1)})
            wrong += diagnose(flat).rate in ("diverged", "too high")
        assert wrong <= 1, f"{wrong} of 40"

    def test_a_loss_that_is_logged_now_and_then_does_not_explode_between(self):
        sparse = np.where(T % 10 == 0, slide(60) + noise(0), math.nan)
        assert diagnose(run(sparse)).rate in ("ok", "cannot tell")

    def test_steps_are_counted_from_where_the_log_begins(self):
        late = Run({"step": 90_000 + T, "loss": np.where(T < 20, 2.0, math.nan), "lr": np.full(N, 0.1)})
        finding = diagnose(late).findings[0]
        assert finding.restart == 90_000 and finding.factor == 0.1

    def test_the_advice_names_a_rate_that_was_used(self):
        slow = FAULTS["is slow all along"][0](0)["loss"]
        cyclic = np.where(T % 4 == 0, 0.1, 0.01)
        diagnosis = diagnose(run(slow, cyclic))
        assert diagnosis.advised_lr == pytest.approx(0.1 * diagnosis.findings[0].factor)

    def test_a_range_test_is_refused(self):
        with pytest.raises(InputError, match="this is a range test"):
            diagnose(Run({"loss": [1.0] * 50}, {"kind": "range_test"}))


@pytest.mark.parametrize("column", ["loss", "val_loss", "lr", "grad_norm"])
def test_a_number_whose_square_overflows_counts_as_infinite(column):
    columns = {"loss": slide(50) + noise(0), "lr": np.full(N, 0.1), column: np.where(T < 200, 1.0, 1.7e308)}
    assert diagnose(Run(columns)).rate == ("diverged" if column == "loss" else "ok")


def test_many_losses_on_few_steps_are_not_called_few_losses():
    text = str(diagnose(Run({"step": T // 200, "loss": slide(50)})))
    assert "400 losses on 2 steps are too few" in text and "at least 30 different steps" in text
