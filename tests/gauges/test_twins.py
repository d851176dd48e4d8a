"""Every gauge equals its naive twin: plain autograd and plain sums in float64."""

import copy
import math

import pytest
import torch
from torch import nn

from lrkit import clip, optim, watch

X = torch.randn(12, 8, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(12, 8, 2, generator=torch.Generator().manual_seed(1))
DATA = list(zip(X, Y, strict=True))
LAYERS = {"0": (0, 1), "2": (2, 3)}  # layer → which parameters


def build(middle=nn.Tanh, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), middle(), nn.Linear(8, 2)).to(dtype)


def mse(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()


def norm(tensors):
    return math.sqrt(sum(float(one.detach().double().square().sum()) for one in tensors))


def dot(left, right):
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(left, right, strict=True))


def copies(tensors):
    return [one.detach().clone() for one in tensors]


def gradients(model, batch, loss=mse):
    """In float64, by plain autograd."""
    twin = copy.deepcopy(model).double()
    value = loss(twin, tuple(one.double() for one in batch))
    return float(value.detach()), list(torch.autograd.grad(value, list(twin.parameters())))


def by_layer(name, quantity, values):
    """{column: value} over all and over each layer, of lists of tensors."""
    seen = {name: quantity(*values)}
    for layer, which in LAYERS.items():
        seen[f"{name}/{layer}"] = quantity(*([some[i] for i in which] for some in values))
    return seen


def update(model, optimizer, batch):
    optimizer.zero_grad()
    loss = mse(model, batch)
    loss.backward()
    return loss


def seen(run, expected, rel=1e-4, absolute=1e-9):
    """Each expected row is in the run; a row's None: not there."""
    for step, row in enumerate(expected):
        for name, value in row.items():
            there = float(run[name][step]) if name in run else math.nan
            if value is None:
                assert math.isnan(there), (step, name, there)
            else:
                assert there == pytest.approx(value, rel=rel, abs=absolute), (step, name)


PLAIN = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "tensor rate": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01)),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "ours adamw": lambda p: optim.AdamW(p, lr=0.01),
    "ours clipped": lambda p: optim.AdamW(p, lr=0.01, clip=clip.norm(0.1)),
    "ours rms": lambda p: optim.RMS(p, lr=0.01),
    "ours lion": lambda p: optim.Lion(p, lr=0.001),
}


@pytest.mark.parametrize("name", PLAIN)
def test_sizes_and_directions(name):
    model = build()
    optimizer = PLAIN[name](model.parameters())
    expected, last = [], None
    with watch(model, optimizer, every=1) as w:
        for batch in DATA[:6]:
            update(model, optimizer, batch)
            g, before = copies(p.grad for p in model.parameters()), copies(model.parameters())
            optimizer.step()
            moved = [p.detach().double() - b.double() for p, b in zip(model.parameters(), before, strict=True)]
            row = by_layer("grad_norm", norm, [g])
            row |= by_layer("update_ratio", lambda u, b: norm(u) / norm(b), [moved, before])
            if last is not None:
                row |= by_layer("grad_cosine", lambda a, b: dot(a, b) / norm(a) / norm(b), [last, g])
            expected.append(row)
            last = g
    seen(w.run, expected)
    assert set(w.run.meta["gauges"]) >= {"gradient_norm", "update_ratio", "gradient_cosine"}


ADAMS = ("adamw", "foreach", "fused", "tensor rate", "amsgrad", "ours adamw", "ours clipped")


@pytest.mark.parametrize("name", ADAMS)
def test_adams_state(name):
    model = build()
    optimizer = PLAIN[name](model.parameters())
    expected = []
    with watch(model, optimizer, every=1) as w:
        for t, batch in enumerate(DATA[:6], 1):
            update(model, optimizer, batch)
            g = [p.grad.double() for p in model.parameters()]
            share = min(1.0, 0.1 / norm(g)) if name == "ours clipped" else 1.0
            optimizer.step()
            state = [optimizer.state[p] for p in model.parameters()]
            m = [one["exp_avg"].double() / (1 - 0.9**t) for one in state]
            v = [one["exp_avg_sq"].double() / (1 - 0.999**t) for one in state]
            late = [share * a / b.sqrt().clamp(min=1e-8) for a, b in zip(g, v, strict=True)]
            row = by_layer("coherence", lambda m, v: norm(m) / norm([one.sqrt() for one in v]), [m, v])
            row |= by_layer("rms_t", lambda some: norm(some) / math.sqrt(sum(one.numel() for one in some)), [late])
            scale = [one["max_exp_avg_sq"].double() / (1 - 0.999**t) for one in state] if name == "amsgrad" else v
            for layer, which in LAYERS.items():
                rates = torch.cat([(0.01 / (scale[i].sqrt() + 1e-8)).flatten() for i in which])
                for q in (0.01, 0.5, 0.99):
                    row[f"effective_lr/{layer}/q{100 * q:g}"] = float(torch.quantile(rates, q))
            expected.append(row)
    seen(w.run, expected, rel=1e-3)


def test_rates_are_those_of_each_group():
    model = build()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.1}, {"params": []}]
    optimizer = torch.optim.RMSprop(groups, lr=0.01)
    with watch(model, optimizer, every=1) as w:
        for batch in DATA[:3]:
            update(model, optimizer, batch)
            optimizer.step()
    for layer, lr in (("0", 0.01), ("2", 0.1)):
        v = torch.cat([optimizer.state[p]["square_avg"].double().flatten() for p in model[int(layer)].parameters()])
        assert w.run[f"effective_lr/{layer}/q50"][-1] == pytest.approx(float((lr / (v.sqrt() + 1e-8)).quantile(0.5)), rel=1e-3)


def test_what_an_optimizer_does_not_have_is_left_out():
    reasons = {}
    for name in ("sgd", "rmsprop", "nadam", "ours lion"):
        model = build()
        optimizer = PLAIN[name](model.parameters())
        with watch(model, optimizer, every=1) as w:
            for batch in DATA[:3]:
                update(model, optimizer, batch)
                optimizer.step()
        reasons[name] = {gauge: why for gauge, why in w.run.meta["gauges"].items() if isinstance(why, str)}
        assert not any(column.startswith("coherence") for column in w.run)
    assert {"coherence", "out_of_date", "rates"} <= set(reasons["sgd"]) and "out_of_date" not in reasons["rmsprop"]


def test_radams_first_updates_have_no_scale():
    model = build()
    optimizer = torch.optim.RAdam(model.parameters(), lr=0.01)
    with watch(model, optimizer, every=1) as w:
        for batch in DATA[:8]:
            update(model, optimizer, batch)
            optimizer.step()
    assert w.run.observed("rms_t")[0].tolist() == w.run.observed("coherence")[0].tolist() == [5, 6, 7]


class TestGain:
    @pytest.mark.parametrize("name", ["sgd", "momentum", "adamw", "ours clipped"])
    def test_equals_its_twin(self, name):
        model = build()
        optimizer = PLAIN[name](model.parameters())
        expected = []
        with watch(model, optimizer, loss=mse, every=1) as w:
            for batch in DATA[:5]:
                update(model, optimizer, batch)
                w.record(batch=batch)
                start, g = gradients(model, batch)
                before = copies(model.parameters())
                optimizer.step()
                promised = dot([b - p.detach() for b, p in zip(before, model.parameters(), strict=True)], g)
                gain = start - gradients(model, batch)[0]
                expected.append({"gain": gain, "gain_ratio": gain / promised if promised > 0 else None})
        seen(w.run, expected, rel=2e-3, absolute=2e-7)

    def test_of_a_sum_and_of_batch_norm_is_that_of_the_whole_batch(self):
        def loss(model, batch):
            return 8 * mse(model, batch)

        model = build(lambda: nn.BatchNorm1d(8), torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        expected = []
        with watch(model, optimizer, loss=loss, every=1) as w:
            for batch in DATA[:4]:
                batch = tuple(one.double() for one in batch)
                optimizer.zero_grad()
                start = loss(model, batch)
                start.backward()
                w.record(batch=batch)
                before, g = copies(model.parameters()), copies(p.grad for p in model.parameters())
                optimizer.step()
                promised = dot([b - p.detach() for b, p in zip(before, model.parameters(), strict=True)], g)
                gain = start.item() - loss(copy.deepcopy(model), batch).item()
                expected.append({"gain": gain, "gain_ratio": gain / promised})
        seen(w.run, expected, rel=1e-6)

    @pytest.mark.parametrize("rows", [8, 7])
    def test_noise_from_halves(self, rows):
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        expected = []
        with watch(model, optimizer, loss=lambda m, b: mse(m, (b["x"], b["y"][0])), every=1) as w:
            for x, y in DATA[:5]:
                update(model, optimizer, (x[:rows], y[:rows]))
                cut = rows // 2
                a, b = (gradients(model, (x[part], y[part]))[1] for part in (slice(cut), slice(cut, rows)))
                w.record(batch={"x": x[:rows], "y": [y[:rows], None]})
                optimizer.step()
                product = dot(a, b)
                noise = ((norm(a) ** 2 + norm(b) ** 2) / 2 - product) / 2
                scale = rows * noise / product if product > 0 else None
                expected.append({"half_product": product, "grad_noise": noise, "noise_scale": scale})
        seen(w.run, expected, rel=1e-3)

    def test_dropout_is_noise_and_its_masks_are_the_same_before_and_after(self):
        """The two halves must not share a mask; the loss before and after must."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 1, bias=False))
        model[1].weight.data.zero_()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        x = torch.ones(2, 64)
        with watch(model, optimizer, loss=lambda m, b: m(b).mean(), every=1) as w:
            for _ in range(20):
                optimizer.zero_grad()
                model(x).mean().backward()
                w.record(batch=x)
                optimizer.step()
        # each entry of a half's gradient is 0 or 2: of independent masks the product is 64 on average, of the same one 128
        assert w.run["half_product"].mean() == pytest.approx(64.0, rel=0.15)
        assert w.run["gain_ratio"] == pytest.approx(1.0, rel=0.35)  # −gᵀu is of another mask only by what u is


class TestAccumulation:
    @pytest.mark.parametrize("scaled", [False, True])
    @pytest.mark.parametrize("loss", [None, mse])
    def test_noise_costs_nothing(self, loss, scaled):
        """With and without a scaler, whose factor is in what the backward passes give."""
        model = build()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        expected = []
        with watch(model, optimizer, loss=loss, every=1) as w:
            for k in range(4):
                batches = DATA[3 * k : 3 * k + 3]
                parts = [gradients(model, batch)[1] for batch in batches]
                optimizer.zero_grad()
                for batch in batches:
                    scaler.scale(mse(model, batch) / 3).backward()
                    w.record(batch=batch)
                scaler.step(optimizer)
                scaler.update()
                pairs = [dot(parts[i], parts[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
                signal = sum(pairs) / 3
                noise = (sum(norm(part) ** 2 for part in parts) / 3 - signal) / 3
                whole = norm([sum(same) / 3 for same in zip(*parts, strict=True)])
                scale = 24 * noise / signal if signal > 0 else None
                expected.append({"half_product": signal, "grad_noise": noise, "noise_scale": scale, "grad_norm": whole})
        if loss is None:  # what happens in the backward passes of the first update has not been seen
            expected[0] = {name: value if name == "grad_norm" else None for name, value in expected[0].items()}
        seen(w.run, expected, rel=1e-3)
        assert isinstance(w.run.meta["gauges"]["parts"], dict)

    def test_gain_is_of_all_batches(self):
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watch(model, optimizer, loss=mse, every=1) as w:
            optimizer.zero_grad()
            for batch in DATA[:3]:
                (mse(model, batch) / 3).backward()
                w.record(batch=batch)
            before = sum(gradients(model, batch)[0] for batch in DATA[:3]) / 3
            optimizer.step()
            after = sum(gradients(model, batch)[0] for batch in DATA[:3]) / 3
        assert w.run["gain"][0] == pytest.approx(before - after, rel=1e-4)

    def test_two_losses_of_one_batch_are_none(self):
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watch(model, optimizer, every=1) as w:
            for batch in DATA[:3]:
                optimizer.zero_grad()
                for _ in range(2):
                    mse(model, batch).backward()
                w.record(batch=batch)
                optimizer.step()
        assert "several gradients of one batch" in w.run.meta["gauges"]["parts"] and "half_product" not in w.run


def test_norms_under_a_scaler_are_of_unscaled_gradients():
    for fused in (False, True):
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
        with watch(model, optimizer, every=1) as w:
            norms = []
            for batch in DATA[:3]:
                norms.append(norm(gradients(model, batch)[1]))
                optimizer.zero_grad()
                scaler.scale(mse(model, batch)).backward()
                scaler.step(optimizer)
                scaler.update()
        assert w.run["grad_norm"] == pytest.approx(norms, rel=1e-4)


def test_a_recorded_norm_gives_what_a_clip_left():
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, every=1) as w:
        for batch in DATA[:3]:
            update(model, optimizer, batch)
            w.record(grad_norm=nn.utils.clip_grad_norm_(model.parameters(), 0.1))
            optimizer.step()
    assert w.run["clip_factor"] == pytest.approx(0.1 / w.run["grad_norm"], rel=1e-4)


def test_an_early_read_of_a_closures_gradients_is_not_taken():
    """LBFGS evaluates many gradients within one step."""
    model = build()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=5)
    with watch(model, optimizer, loss=mse, every=1) as w:
        for batch in DATA[:4]:

            def closure(batch=batch):
                return update(model, optimizer, batch)

            w.record(batch=batch)
            optimizer.step(closure)
    norms = [norm(gradients(model, DATA[3])[1])]
    assert "a closure makes it" in w.run.meta["gauges"]["parts"]
    assert w.run["grad_norm"][-1] == pytest.approx(norms[0], rel=0.5), "of one of the last evaluations"
    assert (w.run["gain"] > 0).all()


class TestHalfPrecisionAndOthers:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_dtypes(self, dtype):
        model = build(dtype=dtype)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        with watch(model, optimizer, loss=mse, every=1) as w:
            for x, y in DATA[:3]:
                batch = x.to(dtype), y.to(dtype)
                update(model, optimizer, batch)
                w.record(batch=batch)
                expected = norm(p.grad for p in model.parameters())
                optimizer.step()
        assert w.run["grad_norm"][-1] == pytest.approx(expected, rel=1e-5)
        assert {"gain", "half_product", "coherence", "rms_t", "update_ratio"} <= set(w.run)

    def test_complex_numbers(self):
        torch.manual_seed(0)
        layer = nn.Linear(4, 4, dtype=torch.complex64)
        model = nn.Sequential(layer)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

        def loss(model, batch):
            return model(batch).abs().square().mean()

        with watch(model, optimizer, loss=loss, every=1) as w:
            for x, _ in DATA[:3]:
                optimizer.zero_grad()
                loss(model, x.to(torch.complex64)).backward()
                w.record(batch=x.to(torch.complex64))
                g = [torch.view_as_real(p.grad) for p in model.parameters()]
                optimizer.step()
        assert w.run["grad_norm"][-1] == pytest.approx(norm(g), rel=1e-5)
        assert w.run["gain_ratio"][-1] == pytest.approx(1.0, abs=0.2)
        assert {"curvature_max", "coherence", "rms_t"} <= set(w.run)
