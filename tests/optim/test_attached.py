"""`attach`, controllers, `train`, `find`, `watch` and snapshots work on our optimizers as on torch's, and resume to the bit."""

import copy

import pytest
import torch
from torch import nn

import lrkit
from binding.test_attach import DATA, SCHEDULES, STEPS, through_a_file, train
from lrkit import attach, clip, controllers, optim, parse
from lrkit.errors import InputError, StateError
from lrkit.snapshot import preserved
from test_snapshot import Net, fingerprint, update
from test_snapshot import same as identical

OPTIMIZERS = {
    "momentum": ("SGD", {"momentum": 0.9, "weight_decay": 0.01}),
    "nesterov": ("Nesterov", {}),
    "rms": ("RMS", {}),
    "adagrad": ("Adagrad", {"lr_decay": 0.01}),
    "rmsprop_centered": ("RMSprop", {"centered": True, "momentum": 0.5}),
    "adam": ("Adam", {}),
    "adamw": ("AdamW", {"decay": "schedule"}),
    "amsgrad": ("AMSGrad", {}),
    "nadam": ("NAdam", {}),
    "radam": ("RAdam", {"betas": (0.9, 0.9)}),
    "lion": ("Lion", {"weight_decay": 0.1}),
    "adabelief": ("AdaBelief", {}),
    "adadelta": ("Adadelta", {}),
    "clipped": ("AdamW", {"clip": clip.norm(0.5)}),
}
ORDERS = pytest.mark.parametrize("order", ["attach then load", "load then attach"])
# What torch has, too: our name ↦ its options.
TWINS = {
    "momentum": ("SGD", {"momentum": 0.9, "weight_decay": 0.01}), "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "adagrad": OPTIMIZERS["adagrad"], "rmsprop_centered": OPTIMIZERS["rmsprop_centered"], "adam": OPTIMIZERS["adam"],
    "nadam": OPTIMIZERS["nadam"], "radam": OPTIMIZERS["radam"], "adadelta": OPTIMIZERS["adadelta"],
}  # fmt: skip


def build(name: str, lr: float = 0.1, **more):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    kind, options = OPTIMIZERS[name]
    return model, getattr(optim, kind)(model.parameters(), lr=lr, **(options | more))


def twin(name: str, lr: float = 0.1, **more):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    kind, options = TWINS[name]
    return model, getattr(torch.optim, kind)(model.parameters(), lr=lr, foreach=False, **(options | more))


def alike(model, other, tolerance=1e-5) -> None:
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=10 * tolerance, atol=tolerance)


class TestResume:
    def check(self, name, text, order, cuts) -> None:
        model, optimizer = build(name)
        attach(optimizer, lr=text)
        rates = train(model, optimizer, 0, STEPS)
        assert rates == pytest.approx([0.1 * parse(text)(t) for t in range(STEPS)], rel=1e-12)
        for cut in cuts:
            first, driven = build(name)
            attach(driven, lr=text)
            before = train(first, driven, 0, cut)
            saved = through_a_file({"model": first.state_dict(), "optimizer": driven.state_dict()})
            again, resumed = build(name)
            again.load_state_dict(saved["model"])
            if order == "attach then load":
                attach(resumed, lr=text)
                resumed.load_state_dict(saved["optimizer"])
            else:
                resumed.load_state_dict(saved["optimizer"])
                attach(resumed, lr=text)
            assert before + train(again, resumed, cut, STEPS) == rates
            assert torch.equal(again.weight, model.weight) and torch.equal(again.bias, model.bias), cut

    @ORDERS
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_is_exact_where_the_run_was_cut(self, name, order):
        for text, cuts in (("warmup 2 > hold 6 > 1-sqrt 4", (0, 1, 7, 12)), ("repeat 3 (cosine 4) scale 0.8", (4,))):
            self.check(name, text, order, cuts)

    @pytest.mark.prove
    @ORDERS
    @pytest.mark.parametrize("text", SCHEDULES)
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_is_exact_wherever_the_run_was_cut(self, name, text, order):
        self.check(name, text, order, range(STEPS + 1))

    @ORDERS
    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_is_exact_in_other_types_too(self, name, dtype, order):
        def fresh():
            model, optimizer = build(name, lr=0.01)
            model.to(dtype)
            return model, optimizer

        def go(model, optimizer, start, stop):
            for t in range(start, stop):
                optimizer.zero_grad()
                model(DATA[t].to(dtype)).square().mean().backward()
                optimizer.step()

        model, optimizer = fresh()
        attach(optimizer, lr="warmup 3 > cosine 9")
        go(model, optimizer, 0, STEPS)
        first, driven = fresh()
        attach(driven, lr="warmup 3 > cosine 9")
        go(first, driven, 0, 5)
        saved = through_a_file({"model": first.state_dict(), "optimizer": driven.state_dict()})
        again, resumed = fresh()
        again.load_state_dict(saved["model"])
        if order == "attach then load":
            attach(resumed, lr="warmup 3 > cosine 9")
        resumed.load_state_dict(saved["optimizer"])
        if order == "load then attach":
            attach(resumed, lr="warmup 3 > cosine 9")
        go(again, resumed, 5, STEPS)
        assert torch.equal(again.weight, model.weight) and torch.equal(again.bias, model.bias)

    @pytest.mark.parametrize("name", ["momentum", "rms", "adamw", "nadam", "lion"])
    def test_through_distributed_checkpoints_is_exact(self, name):
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

        text = "warmup 3 > cosine 9"
        whole, driven = build(name)
        attach(driven, lr=text)
        reference = train(whole, driven, 0, STEPS)
        for cut in (1, 7):
            model, optimizer = build(name)
            attach(optimizer, lr=text)
            train(model, optimizer, 0, cut)
            state, weights = copy.deepcopy(get_optimizer_state_dict(model, optimizer)), copy.deepcopy(model.state_dict())
            model, optimizer = build(name)
            attachment = attach(optimizer, lr=text)
            model.load_state_dict(weights)
            set_optimizer_state_dict(model, optimizer, optim_state_dict=state)
            assert attachment.step == cut
            assert train(model, optimizer, cut, STEPS) == reference[cut:]
            assert torch.equal(model.weight, whole.weight)

    @pytest.mark.parametrize("name", ["momentum", "adam", "adamw", "lion", "adadelta"])
    def test_dry_steps_of_distributed_checkpoints_neither_count_nor_move(self, name):
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        model, optimizer = build(name)
        attachment = attach(optimizer, lr="warmup 3 > cosine 9")
        before = model.weight.detach().clone()
        get_optimizer_state_dict(model, optimizer)
        assert attachment.step == 0 and torch.equal(model.weight, before)
        twin_model, twin_optimizer = build(name)
        attach(twin_optimizer, lr="warmup 3 > cosine 9")
        assert train(model, optimizer, 0, 6) == train(twin_model, twin_optimizer, 0, 6)

    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_updates_without_a_record_are_refused_unless_their_number_is_said(self, name):
        model, optimizer = build(name)
        train(model, optimizer, 0, 3)
        with pytest.raises(StateError, match="updates were taken without lrkit's record"):
            attach(optimizer, lr="linear 10")
        assert attach(optimizer, lr="linear 10", step=3).step == 3

    @pytest.mark.parametrize("name", ["sgd", *OPTIMIZERS])
    def test_before_any_update_there_is_nothing_to_refuse(self, name):
        optimizer = optim.SGD([nn.Parameter(torch.ones(2))]) if name == "sgd" else build(name)[1]
        optimizer.step()
        repr(optimizer), lrkit.effective_lr(optimizer).quantiles()
        assert attach(optimizer, lr="linear 10").step == 0

    def test_torchs_checkpoint_with_a_record_is_taken_up_by_ours(self):
        for name in TWINS:
            model, optimizer = twin(name)
            attach(optimizer, lr="cosine 12")
            train(model, optimizer, 0, 5)
            again, ours = build(name)
            again.load_state_dict(model.state_dict())
            attachment = attach(ours, lr="cosine 12")
            ours.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            assert attachment.step == 5
            assert train(again, ours, 5, STEPS) == train(model, optimizer, 5, STEPS)
            alike(again, model)


DRIVEN = {
    "betas[0]": ("adam", {"betas[0]": "linear 12 to 0.2"}),
    "betas[1]": ("radam", {"betas[1]": "linear 12 to 0.5"}),
    "momentum": ("momentum", {"momentum": "linear 12 to 0.2", "lr": "cosine 12"}),
    "nesterov": ("nesterov", {"momentum": "linear 12 to 0.2"}),
    "weight_decay": ("momentum", {"weight_decay": "linear 12"}),
    "eps": ("adam", {"eps": "exponential 12 to 0.01"}),
    "alpha": ("rmsprop_centered", {"alpha": "linear 12 to 0.9", "momentum": "linear 12"}),
    "betas[0] of nadam": ("nadam", {"betas[0]": "linear 12 to 0.2", "momentum_decay": "linear 12"}),
    "lr_decay": ("adagrad", {"lr_decay": "linear 12"}),
    "rho": ("adadelta", {"rho": "linear 12 to 0.5", "lr": "cosine 12"}),
}


class TestDriving:
    @pytest.mark.parametrize("what", DRIVEN)
    def test_any_number_of_a_group_does_what_it_does_in_torch(self, what):
        name, given = DRIVEN[what]
        (model, ours), (other, theirs) = build(name), twin(name)
        for optimizer, net in ((ours, model), (theirs, other)):
            attachment = attach(optimizer, **given)
            train(net, optimizer, 0, STEPS)
            assert attachment.step == STEPS
        assert all(ours.param_groups[0][key.partition("[")[0]] == theirs.param_groups[0][key.partition("[")[0]] for key in given)
        alike(model, other)
        fixed, still = build(name)
        train(fixed, still, 0, STEPS)
        assert not torch.equal(fixed.weight, model.weight), "the schedule is felt"

    def test_decay_by_schedule_follows_the_schedules_factor_whatever_the_base(self):
        """``λ·η/η₀`` is λ times the factor, so an attached schedule decays alike at any base rate."""
        for base in (0.5, 0.001):
            weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
            optimizer = optim.AdamW([weight], lr=base, weight_decay=0.1, decay="schedule")
            attach(optimizer, lr="linear 10")
            expected = 1.0
            for t in range(5):
                weight.grad = torch.zeros_like(weight)
                optimizer.step()
                expected *= 1 - 0.1 * (1 - t / 10)
            assert weight.tolist() == pytest.approx([expected] * 3, rel=1e-12)

    def test_decay_by_schedule_goes_on_after_a_resume_without_an_attachment(self):
        def fresh(lr):
            weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
            weight.grad = torch.zeros_like(weight)
            return weight, optim.AdamW([weight], lr=lr, weight_decay=0.1, decay="schedule")

        weight, optimizer = fresh(0.5)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.25
        saved = through_a_file(optimizer.state_dict())
        optimizer.step()
        again, other = fresh(0.7)
        other.load_state_dict(saved)
        again.data.fill_(0.9)
        other.step()
        assert again.tolist() == pytest.approx(weight.tolist(), rel=1e-12)
        assert again.tolist() == pytest.approx([0.9 * 0.95] * 3)

    @pytest.mark.parametrize("name", TWINS)
    def test_groups_that_sleep_wake_up_as_in_torch(self, name):
        texts = {"body": "hold 4 at 0 > warmup 2 > cosine 6", "head": "warmup 2 > cosine 10"}
        results = []
        for home, (kind, options) in ((optim, OPTIMIZERS[name]), (torch.optim, TWINS[name])):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
            groups = [{"params": model[0].parameters(), "name": "body"}, {"params": model[2].parameters(), "name": "head"}]
            optimizer = getattr(home, kind)(groups, lr=0.1, **options)
            attach(optimizer, lr=texts)
            before = copy.deepcopy(model[0].state_dict())
            train(model, optimizer, 0, 4)
            assert all(torch.equal(before[key], value) for key, value in model[0].state_dict().items())
            if kind != "Adagrad":  # torch's makes its state at once
                assert not any(optimizer.state.get(p) for p in model[0].parameters()), "asleep it has no state"
            train(model, optimizer, 4, STEPS)
            results.append(model)
        alike(*results)

    @pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
    @pytest.mark.parametrize("name", ["momentum", "adam", "nadam"])
    def test_controllers_scale_the_rate_as_with_torch(self, name, tensor):
        results = []
        for make in (build, twin):
            model, optimizer = make(name, lr=torch.tensor(0.1) if tensor else 0.1)
            attachment = attach(optimizer, lr="constant", controllers=controllers.Plateau(patience=0, factor=0.5))
            rates = []
            for t in range(STEPS):
                rates += train(model, optimizer, t, t + 1)
                attachment.report(loss=1.0 if t < 6 else 0.5)
            results.append((rates, model))
        assert results[0][0] == results[1][0] and results[0][0][-1] < 0.05
        alike(results[0][1], results[1][1])

    def test_late_groups_join(self):
        model, optimizer = build("adam")
        attach(optimizer, lr="linear 10")
        train(model, optimizer, 0, 4)
        late = nn.Parameter(torch.zeros(1))
        optimizer.add_param_group({"params": [late], "lr": 1.0})
        late.grad = torch.ones(1)
        optimizer.step()
        assert optimizer.param_groups[1]["lr"] == pytest.approx(0.5)
        assert late.item() == pytest.approx(-0.6, rel=1e-5)

    def test_a_tensor_rate_is_written_in_place(self):
        model, optimizer = build("adamw", lr=torch.tensor(0.1))
        attach(optimizer, lr="linear 12")
        held = optimizer.param_groups[0]["lr"]
        other, floats = build("adamw")
        attach(floats, lr="linear 12")
        train(model, optimizer, 0, STEPS), train(other, floats, 0, STEPS)
        assert optimizer.param_groups[0]["lr"] is held
        alike(model, other)

    def test_an_update_that_the_scaler_skips_does_not_count(self):
        model, optimizer = build("clipped")
        attachment = attach(optimizer, lr="linear 10")
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        for bad in (False, True, False):
            optimizer.zero_grad()
            scaler.scale(model(DATA[0]).square().mean()).backward()
            if bad:
                model.weight.grad.fill_(float("inf"))
            scaler.step(optimizer)
            scaler.update()
        assert attachment.step == 2 and optimizer.param_groups[0]["lr"] == pytest.approx(0.08)

    def test_a_step_that_calls_its_parents_counts_once(self):
        class Careful(optim.AdamW):
            def step(self, closure=None):
                return super().step(closure)

        weight = nn.Parameter(torch.ones(2))
        optimizer = Careful([weight], lr=0.1)
        attachment = attach(optimizer, lr="linear 10")
        weight.grad = torch.ones(2)
        optimizer.step()
        assert attachment.step == 1

    def test_clip_on_is_refused_for_it_is_folded_in(self):
        with pytest.raises(InputError, match=r"it clips itself"):
            clip.on(build("adam")[1], clip.norm(1.0))


def loss(model, batch):
    return (model(batch).squeeze(1) - batch.sum(1)).square().mean()


X = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))


def task(optimizer) -> lrkit.Task:
    def model():
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    return lrkit.Task(model=model, loss=loss, batches=lambda: list(X.split(10)), optimizer=optimizer, steps=12)


class TestTheHouse:
    @pytest.mark.parametrize("name", TWINS)
    def test_train_gives_the_run_that_torchs_gives(self, name):
        runs = []
        for home, (kind, options) in ((optim, OPTIMIZERS[name]), (torch.optim, TWINS[name])):
            runs.append(
                lrkit.train(task(lambda p, home=home, kind=kind, options=options: getattr(home, kind)(p, lr=0.02, **options)))
            )
        assert runs[0]["lr"].tolist() == runs[1]["lr"].tolist() and len(runs[0]) == 12
        assert runs[0]["loss"] == pytest.approx(runs[1]["loss"], rel=1e-4)

    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_watch_changes_nothing_and_sees_what_moved(self, name):
        results = []
        for watched in (False, True):
            model, optimizer = build(name)
            attach(optimizer, lr="linear 12")
            if watched:
                with lrkit.watch(model, optimizer, every=1) as w:
                    train(model, optimizer, 0, STEPS)
                assert len(w.run) == STEPS and w.run["lr"] == pytest.approx([0.1 * (1 - t / 12) for t in range(STEPS)])
                assert (w.run["update_ratio"] > 0).all() and (w.run["grad_norm"] > 0).all()
            else:
                train(model, optimizer, 0, STEPS)
            results.append(model.weight.detach())
        assert torch.equal(*results)

    @pytest.mark.parametrize("started", [False, True], ids=["fresh", "in mid-run"])
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_find_leaves_no_trace(self, name, started):
        def ready():
            torch.manual_seed(0)
            model = nn.Linear(3, 1)
            kind, options = OPTIMIZERS[name]
            optimizer = getattr(optim, kind)(model.parameters(), lr=0.01, **options)
            attach(optimizer, lr="cosine 30")
            return model, optimizer, go(model, optimizer, 0, 3 if started else 0)

        def go(model, optimizer, start, stop):
            for t in range(start, stop):
                optimizer.zero_grad()
                loss(model, X[5 * t : 5 * t + 5]).backward()
                optimizer.step()

        (model, optimizer, _), (other, untouched, _) = ready(), ready()
        before, tally = traces(model, optimizer), told(optimizer)
        lrkit.find(model, optimizer, loss, list(X.split(10)), steps=30, budget=2.0)
        assert identical(traces(model, optimizer), before) and told(optimizer) == tally
        go(model, optimizer, 3, 8), go(other, untouched, 3, 8)
        assert torch.equal(model.weight, other.weight) and told(optimizer) == told(untouched)


def traces(model, optimizer):
    """Every number, and the identity of every tensor that others may hold."""
    model.last, model.calls, model.history = torch.zeros(1), 0, []
    return fingerprint(model, optimizer)


def told(optimizer):
    """What the clip has counted."""
    return None if optimizer.clip is None else optimizer.tally.as_dict()


SNAPSHOT = {**OPTIMIZERS, "tensor_lr": ("Adam", {"lr": torch.tensor(0.1)}), "sgd": ("SGD", {})}


@pytest.mark.parametrize("started", [False, True], ids=["fresh", "in mid-run"])
@pytest.mark.parametrize("name", SNAPSHOT)
class TestSnapshot:
    def ready(self, name, started):
        torch.manual_seed(0)
        model = Net()
        kind, options = SNAPSHOT[name]
        optimizer = getattr(optim, kind)(model.parameters(), **({"lr": 0.1} | copy.deepcopy(options)))
        if started:
            for _ in range(3):
                update(model, optimizer, torch.randn(8, 4))
        return model, optimizer

    def disturb(self, model, optimizer) -> None:
        """All that makes buckets anew: missing gradients, other numbers, a loaded state, cleared state."""
        for _ in range(3):
            update(model, optimizer, torch.randn(8, 4))
        model.a.weight.grad = None
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 5.0
        for p in model.parameters():
            p.data = p.data.clone()
        update(model, optimizer, torch.randn(8, 4))
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        update(model, optimizer, torch.randn(8, 4))
        optimizer.state.clear()
        update(model, optimizer, torch.randn(8, 4))

    @pytest.mark.parametrize("error", [None, KeyboardInterrupt])
    def test_everything_is_as_before(self, name, started, error):
        model, optimizer = self.ready(name, started)
        before, tally = fingerprint(model, optimizer), told(optimizer)
        try:
            with preserved(model, optimizer):
                for _ in range(3):
                    update(model, optimizer, torch.randn(8, 4))
                optimizer.param_groups[0]["new"] = 1
                if error is not None:
                    raise error("in the middle")
        except KeyboardInterrupt:
            pass
        assert identical(fingerprint(model, optimizer), before)
        assert told(optimizer) == tally

    def test_training_goes_on_as_if_nothing_had_happened(self, name, started):
        (model, optimizer), (other, untouched) = self.ready(name, started), self.ready(name, started)
        torch.manual_seed(3)
        with preserved(model, optimizer):
            self.disturb(model, optimizer)
        for m, o in ((model, optimizer), (other, untouched)):
            torch.manual_seed(3)
            for _ in range(3):
                update(m, o, torch.randn(8, 4))
        assert torch.equal(model.a.weight, other.a.weight) and torch.equal(model.norm.weight, other.norm.weight)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            mine, its = optimizer.state.get(p, {}), untouched.state.get(q, {})
            assert list(mine) == list(its) and all(torch.equal(mine[key], its[key]) for key in mine)
