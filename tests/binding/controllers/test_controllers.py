"""Controllers: what is reported scales the rate, on top of any schedule, and survives a resume."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from binding.test_attach import DATA, STEPS, build, through_a_file, train
from lrkit import attach, find, report, watch
from lrkit.binding.controllers import Controller, DivergenceGuard, Greedy, Plateau
from lrkit.errors import InputError, StateError
from lrkit.run import Run

LOSSES = st.lists(st.one_of(st.floats(0.1, 2.0), st.sampled_from([1.0, math.nan, math.inf])), max_size=60)


def heard(controller, values):
    """The scale after each report."""
    state, scales = controller.start(), []
    for value in values:
        state = controller.heard(state, value)
        scales.append(state[0])
    return scales


def rates(twin, optimizer, values):
    """What another library's scheduler makes of a rate of 1, after each report."""
    out = []
    for value in values:
        twin.step(value)
        out.append(optimizer.param_groups[0]["lr"])
    return out


class TestPlateau:
    @settings(deadline=None)
    @given(
        losses=LOSSES,
        patience=st.integers(0, 4),
        cooldown=st.integers(0, 4),
        factor=st.floats(0.1, 0.9),
        threshold=st.sampled_from([0.0, 1e-4, 0.1]),
        relative=st.booleans(),
        mode=st.sampled_from(["min", "max"]),
    )
    def test_counts_as_torchs_does(self, losses, patience, cooldown, factor, threshold, relative, mode):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        twin = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode, factor, patience, threshold, "rel" if relative else "abs", cooldown, eps=0.0
        )
        ours = Plateau(
            factor=factor, patience=patience, cooldown=cooldown, threshold=threshold, relative=relative, mode=mode
        )  # fmt: skip
        assert heard(ours, losses) == rates(twin, optimizer, losses)

    def test_multiplies_any_schedule(self):
        model, optimizer = build("adam")
        attachment = attach(optimizer, lr="linear 10", controllers=Plateau(patience=0, factor=0.5))
        train(model, optimizer, 0, 4)
        for loss in (1.0, 1.0):
            assert attachment.report(loss=torch.tensor(loss)) is False
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.6 * 0.5)
        train(model, optimizer, 4, 5)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5 * 0.5)
        assert attachment.events == [{"step": 4, "by": "plateau", "what": "lr × 0.5"}]

    def test_never_falls_below_its_floor(self):
        assert heard(Plateau(patience=0, factor=0.1, floor=0.05), [1.0] * 5) == [1.0, 0.1, 0.05, 0.05, 0.05]

    def test_scales_absolute_values_too(self):
        _, optimizer = build("adam")
        attachment = attach(optimizer, lr="base 0.2 (linear 4)", controllers=Plateau(patience=0, factor=0.5))
        attachment.report(loss=1.0)
        attachment.report(loss=1.0)
        assert optimizer.param_groups[0]["lr"] == 0.1

    @pytest.mark.parametrize("order", ["attach then load", "load then attach"])
    @pytest.mark.parametrize("cut", range(1, 12))
    def test_goes_on_where_it_was(self, order, cut):
        """Its count, cut at every update, in both orders: rates and weights equal the uninterrupted run's to the bit."""
        losses = [1.0, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8, 0.7, 0.7, 0.7]

        def driven():
            model, optimizer = build("adamw")
            return model, optimizer

        def control(optimizer):
            both = [Plateau(patience=1, factor=0.5, cooldown=1), Greedy(patience=0, name="other", metric="val")]
            return attach(optimizer, lr="warmup 3 > cosine 9", controllers=both)

        def go(model, optimizer, attachment, start, stop):
            rates = []
            for t in range(start, stop):
                rates += train(model, optimizer, t, t + 1)
                attachment.report(loss=losses[t], val=losses[-t])
            return rates

        whole, optimizer = driven()
        reference = go(whole, optimizer, control(optimizer), 0, 12)
        first, before = driven()
        attachment = control(before)
        rates = go(first, before, attachment, 0, cut)
        saved = through_a_file({"model": first.state_dict(), "optimizer": before.state_dict()})
        model, resumed = driven()
        model.load_state_dict(saved["model"])
        if order == "attach then load":
            attachment = control(resumed)
            resumed.load_state_dict(saved["optimizer"])
        else:
            resumed.load_state_dict(saved["optimizer"])
            attachment = control(resumed)
        assert rates + go(model, resumed, attachment, cut, 12) == reference
        assert torch.equal(model.weight, whole.weight)

    def test_a_saved_state_stays_true_while_the_run_goes_on(self):
        _, optimizer = build("adam")
        attachment = attach(optimizer, lr="constant", controllers=Plateau(patience=0, factor=0.5))
        attachment.report(loss=1.0)
        saved = optimizer.state_dict()
        attachment.report(loss=1.0)
        assert float(saved["param_groups"][0]["lrkit_state_plateau"][0]) == 1.0


class TestGreedy:
    def test_rises_while_it_improves_and_falls_where_it_does_not(self):
        scales = heard(Greedy(patience=1, factor=0.5, floor=0.5, ceiling=4.0), [5, 4, 3, 2, 1, 1, 1, 1, 1])
        assert scales == [1.0, 2.0, 2.0, 4.0, 4.0, 4.0, 2.0, 2.0, 1.0]

    def test_starts_anew_after_long_at_the_floor(self):
        scales = heard(Greedy(patience=0, factor=0.5, floor=0.5, reset=2), [1.0] * 4)
        assert scales == [2.0, 1.0, 0.5, 1.0]

    def test_cools_down_when_it_starts_anew(self):
        scales = heard(Greedy(patience=0, factor=0.5, floor=0.5, reset=1, cooldown=1), [1.0] * 6)
        assert scales == [2.0, 1.0, 1.0, 1.0, 1.0, 2.0]

    @pytest.mark.hosts
    @pytest.mark.filterwarnings("default")
    @settings(deadline=None, max_examples=2000)
    @given(
        losses=st.lists(st.sampled_from([0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]), max_size=80),
        patience=st.integers(0, 3),
        cooldown=st.integers(0, 3),
        warmup=st.integers(0, 3),
        reset=st.integers(1, 5),
        mode=st.sampled_from(["min", "max"]),
    )
    def test_counts_as_transformers_does(self, losses, patience, cooldown, warmup, reset, mode):
        from transformers.optimization import GreedyLR

        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        twin = GreedyLR(
            optimizer, mode=mode, factor=0.5, patience=patience, cooldown=cooldown, warmup=warmup, min_lr=0.125, max_lr=4.0,
            eps=0.0, reset_start=reset,
        )  # fmt: skip
        ours = Greedy(
            factor=0.5, patience=patience, cooldown=cooldown, warmup=warmup, floor=0.125, ceiling=4.0, reset=reset, mode=mode
        )  # fmt: skip
        assert heard(ours, losses) == rates(twin, optimizer, losses)


class Quadratic(nn.Module):
    """½ θ²: a rate above 2 diverges."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.ones(3))

    def forward(self):
        return 0.5 * self.theta.square().sum()


def descend(model, optimizer, attachment, steps, spoil=()):
    """Losses, as a training loop reports them after each update."""
    losses = []
    for t in range(steps):
        optimizer.zero_grad()
        loss = model()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()) if t not in spoil else math.nan)
        attachment.report(loss=losses[-1])
    return losses


class TestDivergenceGuard:
    def test_goes_back_and_lowers_the_rate_until_it_converges(self):
        model = Quadratic()
        optimizer = torch.optim.SGD(model.parameters(), lr=6.0)
        attachment = attach(optimizer, lr="constant", controllers=DivergenceGuard(model, every=5))
        losses = descend(model, optimizer, attachment, 80)
        assert max(losses) > losses[0] * 100 and losses[-1] < 1e-3
        assert attachment.events[0]["what"].endswith("step 0, lr × 0.3")
        assert optimizer.param_groups[0]["lr"] == pytest.approx(6.0 * 0.3 ** len(attachment.events))

    def test_a_loss_that_is_not_finite_needs_no_confirmation(self):
        model = Quadratic()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        attachment = attach(optimizer, lr="linear 100", controllers=DivergenceGuard(model, every=4))
        descend(model, optimizer, attachment, 20, spoil={17})
        (event,) = attachment.events
        assert (event["from"], event["back_to"]) == (18, 12), "the snapshot at 16 was not yet trusted"
        assert attachment.step == 14
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.86 * 0.3)

    def test_weights_state_and_buffers_go_back_to_the_bit(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        attachment = attach(optimizer, lr="constant", controllers=DivergenceGuard(model, every=2))
        seen = []
        for t in range(7):
            optimizer.zero_grad()
            model(torch.randn(8, 3)).square().mean().backward()
            optimizer.step()
            seen.append([p.detach().clone() for p in (*model.state_dict().values(), *optimizer.state[model[0].weight].values())])
            attachment.report(loss=1.0 / (t + 1) if t < 6 else math.nan)
        now = [*model.state_dict().values(), *optimizer.state[model[0].weight].values()]
        at = attachment.step
        assert at == 4 and all(torch.equal(a, b) for a, b in zip(now, seen[at - 1], strict=True))

    def test_is_bounded(self):
        model = Quadratic()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        attachment = attach(optimizer, lr="constant", controllers=DivergenceGuard(model, retries=2))
        descend(model, optimizer, attachment, 1)
        assert attachment.report(loss=math.nan) and attachment.report(loss=math.inf)
        with pytest.raises(StateError, match="the loss diverged again after going back 2 times"):
            attachment.report(loss=math.nan)

    def test_an_update_that_became_void_neither_counts_nor_moves(self):
        model = Quadratic()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        attachment = attach(optimizer, lr="linear 10", controllers=DivergenceGuard(model))
        descend(model, optimizer, attachment, 3)
        (model() * math.nan).backward()
        assert attachment.report(loss=math.nan)
        before = model.theta.detach().clone()
        optimizer.step()  # of a loop that does not look at what report answers
        assert attachment.step == 0 and torch.equal(before, model.theta)
        descend(model, optimizer, attachment, 1)
        assert attachment.step == 1

    def test_does_not_take_noise_or_a_slow_rise_at_first_for_divergence(self):
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(3000, generator=generator)
        losses = [2.3 * 0.999**t + 0.3 + 0.2 * float(n) for t, n in enumerate(noise)]
        guard = DivergenceGuard(Quadratic())
        state = guard.start()
        for loss in losses:
            state = guard.heard(state, loss)
        assert state[0] == 1.0

    def test_a_rebase_stays_when_the_run_goes_back(self):
        model = Quadratic()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        attachment = attach(optimizer, lr="constant", controllers=DivergenceGuard(model))
        descend(model, optimizer, attachment, 2)
        attachment.rebase(lr=0.05)
        attachment.report(loss=math.nan)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.015)

    def test_its_event_is_in_the_run_and_the_rows_that_were_undone_are_not(self, tmp_path):
        model = Quadratic()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        attachment = attach(optimizer, lr="constant", controllers=DivergenceGuard(model, every=4))
        with watch(model, optimizer, tmp_path / "run") as w:
            for t in range(14):
                loss = model()
                loss.backward()
                w.record(loss=loss)
                optimizer.step()
                optimizer.zero_grad()
                attachment.report(loss=math.nan if t == 10 else loss)
                w.amend(t=t)
        for run in (w.run, Run.load(tmp_path / "run")):
            assert "back from step 11 to step 4, lr × 0.3" in report(run, tmp_path / "report.html").read_text()
            assert run.meta["events"][0]["what"] == "back from step 11 to step 4, lr × 0.3"
            assert run.step.tolist() == [0, 1, 2, 3, 4, 5, 6]
            assert run["t"][4:].tolist() == [11, 12, 13]
            assert run["lr"].tolist() == pytest.approx([0.1] * 4 + [0.03] * 3)

    def test_what_another_controller_did_since_then_is_undone_and_marked(self):
        model = Quadratic()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        both = [Plateau(patience=0, factor=0.5), DivergenceGuard(model, every=4)]
        attachment = attach(optimizer, lr="constant", controllers=both)
        descend(model, optimizer, attachment, 10)
        attachment.report(loss=5.0)
        assert optimizer.param_groups[0]["lr"] == 0.05
        attachment.report(loss=math.nan)
        cut, _, back = attachment.events
        assert cut["undone"] is True and back["back_to"] == 4
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.03)

    def test_what_else_is_named_goes_back_too(self):
        class Average:
            def __init__(self):
                self.weights = torch.zeros(2)

        model, average = Quadratic(), Average()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        attachment = attach(optimizer, lr="constant", controllers=DivergenceGuard(model, also=average))
        descend(model, optimizer, attachment, 1)
        average.weights += 1
        attachment.report(loss=math.nan)
        assert average.weights.tolist() == [0, 0]

    def test_after_a_resume_it_goes_back_no_further_than_the_resume(self):
        model = Quadratic()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        attachment = attach(optimizer, lr="constant", controllers=DivergenceGuard(model))
        descend(model, optimizer, attachment, 3)
        saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        model = Quadratic()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        attachment = attach(optimizer, lr="constant", controllers=DivergenceGuard(model))
        optimizer.load_state_dict(saved["optimizer"])
        model.load_state_dict(saved["model"])
        descend(model, optimizer, attachment, 1)
        attachment.report(loss=math.nan)
        assert attachment.step == 3 and torch.equal(model.theta, saved["model"]["theta"])


class TestReport:
    @pytest.mark.parametrize("value", [torch.ones(2), "much", None])
    def test_takes_numbers_only(self, value):
        attachment = attach(build("adam")[1], lr="constant", controllers=Plateau())
        with pytest.raises(InputError, match=r"report\(loss=…\): must be one number"):
            attachment.report(loss=value)

    def test_refuses_what_nobody_listens_for(self):
        attachment = attach(build("adam")[1], lr="constant", controllers=Plateau(metric="val_loss"))
        with pytest.raises(InputError, match=r"report\(loss\): controllers listen for val_loss. Report that."):
            attachment.report(loss=1.0)
        with pytest.raises(InputError, match="no controller listens"):
            attach(build("adam")[1], lr="constant").report(loss=1.0)

    def test_one_that_gives_back_another_number_of_numbers_is_refused(self):
        class Broken(Controller):
            def start(self):
                return (1.0,)

            def heard(self, state, value):
                return (1.0, value)

        with pytest.raises(InputError, match=r"heard\(\) returned 2 numbers for 1"):
            attach(build("adam")[1], lr="constant", controllers=Broken()).report(loss=1.0)


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Plateau(factor=1.0), r"Plateau\(factor=1\): factor must be below 1"),
            (lambda: Plateau(patience=-1), r"Plateau\(patience=-1\): patience must be a number of reports, at least 0"),
            (lambda: Plateau(floor=1.0), "floor must be below 1"),
            (lambda: Plateau(mode="least"), "must be 'min' .* or 'max'"),
            (lambda: Plateau(metric="val loss"), "must be a name"),
            (lambda: Greedy(ceiling=0.5), "ceiling must be a finite number of at least 1"),
            (lambda: Greedy(floor=2.0), "the floor is a scale of at most 1"),
            (lambda: DivergenceGuard(None), "needs the torch module"),
            (lambda: DivergenceGuard(nn.Linear(1, 1), every=0), "every must be a whole number, at least 1"),
        ],
    )
    def test_a_setting_that_breaks_its_rule(self, make, message):
        with pytest.raises(InputError, match=message):
            make()

    def test_what_is_no_controller(self):
        with pytest.raises(InputError, match="is no controller"):
            attach(build("adam")[1], lr="constant", controllers=["plateau"])

    def test_a_key_that_is_not_driven(self):
        with pytest.raises(InputError, match="plateau scales 'weight_decay', which is not driven here"):
            attach(build("adam")[1], lr="constant", controllers=Plateau(key="weight_decay"))

    def test_two_of_one_name(self):
        with pytest.raises(InputError, match="two controllers are called 'plateau'"):
            attach(build("adam")[1], lr="constant", controllers=[Plateau(), Plateau(patience=3)])


class TestOnResume:
    def test_other_settings_are_refused_and_named(self):
        _, optimizer = build("adam")
        attach(optimizer, lr="constant", controllers=Plateau(patience=3)).report(loss=1.0)
        _, other = build("adam")
        attach(other, lr="constant", controllers=Plateau(patience=4))
        with pytest.raises(StateError, match=r"controller plateau was .*\"patience\": 3.* now it is .*\"patience\": 4"):
            other.load_state_dict(optimizer.state_dict())

    def test_the_recorded_settings_can_be_kept(self):
        _, optimizer = build("adam")
        attach(optimizer, lr="constant", controllers=Plateau(patience=0, factor=0.25)).report(loss=1.0)
        _, other = build("adam")
        attachment = attach(other, lr="constant", controllers=Plateau(patience=9), on_mismatch="keep")
        other.load_state_dict(optimizer.state_dict())
        attachment.report(loss=1.0)
        assert other.param_groups[0]["lr"] == pytest.approx(0.025)

    def test_one_that_is_gone_is_missed_before_the_first_update(self):
        model, optimizer = build("adam")
        attach(optimizer, lr="constant", controllers=Plateau())
        train(model, optimizer, 0, 1)
        model, other = build("adam")
        other.load_state_dict(optimizer.state_dict())
        attach(other, lr="constant")
        with pytest.raises(StateError, match=r"controller plateau was driven by .*, now nothing drives it"):
            train(model, other, 1, 2)


class TestHardCases:
    def test_what_was_added_or_set_since_the_snapshot_stays(self):
        model = Quadratic()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        attachment = attach(optimizer, lr="constant", controllers=DivergenceGuard(model))
        descend(model, optimizer, attachment, 3)
        late = nn.Parameter(torch.ones(1))
        optimizer.add_param_group({"params": [late], "lr": 0.5})
        handle = model.register_forward_hook(lambda *_: None)
        optimizer.param_groups[0]["weight_decay"] = 0.01
        late.grad = torch.ones(1)
        descend(model, optimizer, attachment, 1)
        late.grad = torch.ones(1)
        optimizer.step()
        attachment.report(loss=math.nan)
        assert attachment.step == 0 and len(optimizer.param_groups) == 2 and late in optimizer.state
        assert handle.id in model._forward_hooks and optimizer.param_groups[0]["weight_decay"] == 0.01
        assert attachment.values() == [{"lr": pytest.approx(0.03)}, {"lr": pytest.approx(0.15)}]

    def test_what_the_finder_tries_is_not_heard(self):
        model, optimizer = build("adam")
        attachment = attach(optimizer, lr="constant", controllers=Plateau(patience=0, factor=0.1))

        def one(model, batch, optimizer):
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            loss.backward()
            attachment.report(loss=loss)
            optimizer.step()
            return loss

        find(model, optimizer, lambda model, batch: None, [DATA[t] for t in range(STEPS)], steps=20, step=one, budget=2)
        assert attachment.events == [] and optimizer.param_groups[0]["lr"] == 0.1
        one(model, DATA[0], optimizer)
        assert optimizer.param_groups[0]["lr"] == 0.1

    def test_one_guard_for_two_optimizers_keeps_them_apart(self):
        model = Quadratic()
        first, second = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
        guard = DivergenceGuard(model)
        a, b = (attach(o, lr="constant", controllers=guard) for o in (first, second))
        descend(model, first, a, 5)
        descend(model, second, b, 3)
        a.report(loss=math.nan)
        assert (a.step, b.step) == (0, 3)

    def test_two_guards_are_refused(self):
        model = Quadratic()
        both = [DivergenceGuard(model, name="one"), DivergenceGuard(model, name="other", metric="val")]
        with pytest.raises(InputError, match="one and other would undo each other's work"):
            attach(torch.optim.SGD(model.parameters(), lr=0.1), lr="constant", controllers=both)

    def test_a_second_attachment_does_not_move_the_snapshot(self):
        model = Quadratic()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        attachment = attach(optimizer, lr="constant", controllers=DivergenceGuard(model))
        descend(model, optimizer, attachment, 2)
        attach(optimizer, weight_decay="linear 10")
        descend(model, optimizer, attachment, 1)
        attachment.report(loss=math.nan)
        assert attachment.step == 0

    @pytest.mark.parametrize("after", [(math.nan,), (-2.0,), (math.inf,), (), None, ("x",), 3])
    def test_a_state_that_is_none_is_refused(self, after):
        class Broken(Controller):
            def start(self):
                return (1.0,)

            def heard(self, state, value):
                return after

        _, optimizer = build("adam")
        attachment = attach(optimizer, lr="constant", controllers=Broken())
        with pytest.raises(InputError, match=r"broken: heard\(\) returned"):
            attachment.report(loss=1.0)
        assert attachment.values() == [{"lr": 0.1}]

    def test_a_beta_is_not_scaled(self):
        with pytest.raises(InputError, match="a beta must stay below 1"):
            attach(build("adam")[1], **{"betas[0]": "constant"}, controllers=Greedy(key="betas[0]"))

    def test_a_controller_named_like_a_key_keeps_its_scale_when_that_is_let_go(self):
        _, optimizer = build("adamw")
        attachment = attach(optimizer, lr="constant", controllers=Plateau(name="weight_decay", patience=0))
        decay = attach(optimizer, weight_decay="constant")
        attachment.report(loss=1.0)
        attachment.report(loss=1.0)
        decay.detach()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)

    @pytest.mark.parametrize("loss", ["0.5", True])
    def test_a_text_or_a_truth_is_no_loss(self, loss):
        with pytest.raises(InputError, match="must be one number"):
            attach(build("adam")[1], lr="constant", controllers=Plateau()).report(loss=loss)

    def test_what_has_no_state_cannot_go_back(self):
        with pytest.raises(InputError, match=r"DivergenceGuard\(also=5\): must be modules or objects with a state"):
            DivergenceGuard(Quadratic(), also=5)

    @pytest.mark.parametrize("growth", [0.05, 0.3])
    def test_an_exponential_rise_is_seen_before_it_overflows(self, growth):
        guard = DivergenceGuard(Quadratic())
        state = guard.start()
        noise = torch.randn(400, generator=torch.Generator().manual_seed(0))
        for t in range(400):
            state = guard.heard(state, (1.0 if t < 200 else (1 + growth) ** (t - 200)) + 0.05 * float(noise[t]))
            if state[0] < 1:
                break
        assert 200 < t < 280, "at 5 % a report when it is some twenty times its level"
