"""A narrow model's rate carried over to a wide one, by μP: what each parameter gets, and that every width then trains alike."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lrkit import attach, groups
from lrkit.errors import InputError
from lrkit.scale import mup_init, width

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(64, 8, generator=GENERATOR)
Y = torch.sin(X @ torch.randn(8, 1, generator=GENERATOR))


def net(n, seed=0, m=None):
    torch.manual_seed(seed)
    m = m or n
    return nn.Sequential(nn.Linear(8, n), nn.ReLU(), nn.Linear(n, m), nn.ReLU(), nn.Linear(m, 1))


class Words(nn.Module):
    """A small language model, its output layer tied to the embedding or not."""

    def __init__(self, d, tied=False):
        super().__init__()
        self.table = nn.Embedding(11, d)
        self.place = nn.Parameter(torch.zeros(1, 5, d))
        self.block = nn.TransformerEncoderLayer(d, 2, 4 * d)
        self.head = nn.Linear(d, 11, bias=False)
        if tied:
            self.head.weight = self.table.weight


def rates(model, base, optimizer="adamw", **more):
    """Parameter's name → (rate, decay), for a rate and a decay of 1."""
    answer = width(model, base, optimizer, 1.0, weight_decay=more.pop("weight_decay", 1.0), **more).groups
    return {name: (g["lr"], g["weight_decay"]) for g in answer for name in answer.names[g["name"]]}


class TestEachParametersFactor:
    """Table 3 of the paper, row by row."""

    def test_under_adam_what_has_a_wide_fan_in_is_slower_and_decays_as_much_an_update(self):
        same, slow = (1.0, 1.0), (0.25, 4.0)
        assert rates(net(64), net(16)) == {
            "0.weight": same, "0.bias": same, "2.weight": slow, "2.bias": same, "4.weight": slow, "4.bias": same,
        }  # fmt: skip

    def test_under_sgd_what_has_a_wide_fan_out_is_faster(self):
        same, slow, fast = (1.0, 1.0), (0.25, 4.0), (4.0, 0.25)
        assert rates(net(64), net(16), "sgd") == {
            "0.weight": fast, "0.bias": fast, "2.weight": same, "2.bias": fast, "4.weight": slow, "4.bias": same,
        }  # fmt: skip

    def test_each_dimension_has_its_own_growth(self):
        found = rates(net(64, m=32), net(16, m=16), "sgd")
        assert found["2.weight"] == (0.5, 2.0) and found["2.bias"] == (2.0, 0.5) and found["4.weight"] == (0.5, 2.0)
        assert rates(net(64, m=32), net(16, m=16), "adamw")["2.weight"] == (0.25, 4.0)

    def test_a_model_may_be_narrower_than_its_base(self):
        assert rates(net(16), net(64))["2.weight"] == (4.0, 0.25)

    def test_as_wide_as_the_base_every_factor_is_one(self):
        assert set(rates(net(16), net(16), "sgd").values()) == {(1.0, 1.0)}

    def test_of_transformers(self):
        found = rates(Words(64), Words(16))
        slow = {name for name, one in found.items() if one == (0.25, 4.0)}
        assert slow == {
            "block.self_attn.in_proj_weight", "block.self_attn.out_proj.weight", "block.linear1.weight", "block.linear2.weight",
            "head.weight",
        }  # fmt: skip
        assert all(one == (1.0, 1.0) for name, one in found.items() if name not in slow)

    @pytest.mark.parametrize(
        ("build", "role"),
        [
            (lambda n: nn.Conv2d(3, n, 3), "input"),
            (lambda n: nn.Conv2d(n, n, 3), "hidden"),
            (lambda n: nn.Conv2d(n, n, 3, groups=n), "input"),
            (lambda n: nn.Conv2d(n, 3, 3), "output"),
            (lambda n: nn.ConvTranspose2d(3, n, 3), "input"),
            (lambda n: nn.ConvTranspose2d(n, 3, 3), "output"),
            (lambda n: nn.ConvTranspose2d(n, n, 3, groups=n), "input"),
            (lambda n: nn.Embedding(7, n), "input"),
            (lambda n: nn.LayerNorm((n, 4)), "input"),
            (lambda n: nn.Linear(5, 7), "fixed"),
        ],
    )
    def test_by_what_it_is(self, build, role):
        answer = width(build(8), build(4), "adam", 1.0, weight_decay=0).groups
        assert "weight" in answer.names[role]

    def test_a_transposed_convolution_reads_its_first_dimension(self):
        wide, narrow = nn.ConvTranspose2d(32, 8, 3), nn.ConvTranspose2d(8, 4, 3)
        assert rates(wide, narrow)["weight"] == (0.25, 4.0)

    def test_recurrent_weights_are_hidden_and_those_of_inputs_are_not(self):
        found = rates(nn.LSTM(3, 32), nn.LSTM(3, 8))
        assert found["weight_hh_l0"] == (0.25, 4.0) and found["weight_ih_l0"] == found["bias_hh_l0"] == (1.0, 1.0)

    def test_a_tied_output_needs_a_multiplier(self):
        with pytest.raises(InputError, match=r"'table.weight' = 'head.weight' is both\. Let the model divide .* by 4, and"):
            width(Words(64, tied=True), Words(16, tied=True), "adamw", 1.0, weight_decay=0)
        assert rates(Words(64, tied=True), Words(16, tied=True), output="multiplier")["table.weight"] == (1.0, 1.0)
        assert rates(Words(64, tied=True), Words(16, tied=True), "sgd", output="multiplier")["table.weight"] == (4.0, 0.25)

    @given(st.sampled_from([8, 16, 24]), st.sampled_from([8, 16, 48]), st.sampled_from(["sgd", "adamw", "lion"]))
    def test_the_pull_of_an_update_is_the_bases(self, wide, narrow, kind):
        """η·λ: so weights forget as fast, whatever the width."""
        assert all(lr * decay == pytest.approx(1.0) for lr, decay in rates(net(wide), net(narrow), kind).values())


class TestTheAnswer:
    def test_is_groups_that_an_optimizer_takes_and_a_schedule_drives(self):
        answer = width(net(64), net(16), "adamw", 1e-2, weight_decay=0.1)
        optimizer = torch.optim.AdamW(answer.groups)
        attach(optimizer, lr={"hidden": "cosine 10", "output": "constant", "input": "constant", "fixed": "constant"})
        assert {g["name"]: g["lr"] for g in optimizer.param_groups} == {
            "input": 1e-2, "hidden": 2.5e-3, "output": 2.5e-3, "fixed": 1e-2,
        }  # fmt: skip

    def test_has_the_bases_rate_and_says_what_else_is_needed(self):
        answer = width(net(64), net(16), "adamw", 1e-2, weight_decay=0)
        assert (answer.lr, answer.low, answer.high, answer.factor) == (1e-2, 1e-2, 1e-2, 1.0)
        assert "mup_init" in answer.valid and "1/d and not 1/√d" in answer.valid and "divides" not in answer.valid
        assert "output layers by 4," in width(net(64), net(16), "sgd", 1.0, weight_decay=0, output="multiplier").valid
        assert "output layers by 0.25," in width(net(4), net(16), "sgd", 1.0, weight_decay=0, output="multiplier").valid
        assert "none counts as output" in width(nn.Linear(3, 64), nn.Linear(3, 16), "sgd", 1.0, weight_decay=0).valid
        assert str(answer).endswith(repr(answer.groups))

    def test_multiplies_the_rates_and_decays_of_groups_and_keeps_their_options(self):
        made = groups.no_decay(groups.by_pattern(net(64), {"4": {"lr": 1e-3, "eps": 1e-6}}, rest=1e-2), weight_decay=0.1)
        answer = width(made, net(16), "adamw")
        found = {group["name"]: (group["lr"], group["weight_decay"], group.get("eps")) for group in answer.groups}
        assert found == {
            "4/output": (2.5e-4, 0.4, 1e-6), "4/fixed/no_decay": (1e-3, 0.0, 1e-6), "rest/input": (1e-2, 0.1, None),
            "rest/hidden": (2.5e-3, 0.4, None), "rest/input/no_decay": (1e-2, 0.0, None),
        }  # fmt: skip
        assert answer.lr == 1e-3, "the first group's"

    def test_reads_the_decay_of_an_optimizer(self):
        base = net(16)
        optimizer = torch.optim.AdamW(base.parameters(), lr=1.0, weight_decay=0.2)
        assert {g["weight_decay"] for g in width(net(64), base, optimizer, 1.0).groups} == {0.2, 0.8}

    def test_reads_shapes_alone_of_the_base(self):
        with torch.device("meta"):
            base = net(16)
        assert rates(net(64), base) == rates(net(64), net(16))

    def test_names_each_factor_where_one_role_has_several(self):
        deep = nn.Sequential(nn.Linear(3, 16), nn.Linear(16, 32), nn.Linear(32, 8), nn.Linear(8, 2))
        base = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
        answer = width(deep, base, "adam", 1.0, weight_decay=0).groups
        assert answer.names == {
            "input": ["0.weight", "0.bias", "1.bias", "2.bias"], "hidden_x0.25": ["1.weight"], "hidden_x0.125": ["2.weight"],
            "output": ["3.weight"], "fixed": ["3.bias"],
        }  # fmt: skip


class TestRefuses:
    @pytest.mark.parametrize(
        ("base", "message"),
        [
            (nn.Sequential(nn.Linear(8, 4)), "only one has '2.bias'"),
            (nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Conv1d(4, 4, 1), nn.ReLU(), nn.Linear(4, 1)), "'2.weight' is"),
            ("net", "a model is needed"),
            (None, "a model is needed"),
        ],
    )
    def test_a_base_that_differs_in_more_than_widths(self, base, message):
        with pytest.raises(InputError, match=message):
            width(net(64), base, "adam", 1.0, weight_decay=0)

    def test_another_vocabulary(self):
        with pytest.raises(InputError, match="with one vocabulary"):
            width(nn.Embedding(8, 4), nn.Embedding(9, 2), "adam", 1.0, weight_decay=0)

    def test_three_grown_dimensions(self):
        with pytest.raises(InputError, match="differ in widths alone"):
            width(nn.Bilinear(4, 4, 4), nn.Bilinear(2, 2, 2), "adam", 1.0, weight_decay=0)

    def test_a_decay_that_is_not_known(self):
        with pytest.raises(InputError, match="so it must be known"):
            width(net(64), net(16), "adamw", 1.0)

    @pytest.mark.parametrize("kind", ["adam", "rmsprop", torch.optim.NAdam])
    def test_a_decay_through_adams_gradient(self, kind):
        with pytest.raises(InputError, match="μP has no rule for a decay through the gradient"):
            width(net(64), net(16), kind, 1.0, weight_decay=0.1)
        decoupled = torch.optim.Adam(net(16).parameters(), decoupled_weight_decay=True, weight_decay=0.1)
        assert len(width(net(64), net(16), decoupled, 1.0).groups) == 4

    def test_a_rate_that_is_missing_or_there_twice(self):
        with pytest.raises(InputError, match="a rate is needed, that of the base, and 'all' has none"):
            width(net(64), net(16), "sgd", weight_decay=0)
        with pytest.raises(InputError, match="rates of their own"):
            width(groups.by_pattern(net(64), {"*": 1.0}), net(16), "sgd", 1.0, weight_decay=0)

    @pytest.mark.parametrize("bad", [0, -1.0, True, math.nan, "1"])
    def test_numbers_that_are_none(self, bad):
        with pytest.raises(InputError, match="lr must be"):
            width(net(64), net(16), "sgd", bad, weight_decay=0)
        if bad != 0:
            with pytest.raises(InputError, match="weight_decay must be"):
                width(net(64), net(16), "sgd", 1.0, weight_decay=bad)

    def test_words_that_are_none(self):
        with pytest.raises(InputError, match="must be 'init' or 'multiplier'"):
            width(net(64), net(16), "sgd", 1.0, weight_decay=0, output="zero")
        with pytest.raises(InputError, match="the rule is known for"):
            width(net(64), net(16), "muon", 1.0, weight_decay=0)

    def test_groups_of_two_models(self):
        both = groups.by_pattern(net(8), {"*": 1.0}) + groups.by_pattern(nn.LayerNorm(4), {"weight": 1.0}, rest=2.0)
        with pytest.raises(InputError, match="groups are of several"):
            width(both, net(4), "sgd", weight_decay=0)


def sizes(model):
    return {name: float(p.detach().square().mean().sqrt()) for name, p in model.named_parameters()}


class TestTheStart:
    @pytest.mark.parametrize(
        "init", [None, nn.init.xavier_uniform_, lambda p: nn.init.normal_(p, 0.0, 0.02), nn.init.orthogonal_]
    )
    def test_is_that_of_the_base_whatever_initialised_the_two(self, init):
        base, wide = net(16), net(64)
        for model in (base, wide):
            for p in model.parameters():
                if init is not None and p.ndim > 1:
                    init(p)
        biases = {name: p.clone() for name, p in wide.named_parameters() if p.ndim == 1}
        mup_init(wide, base)
        before, after = sizes(base), sizes(wide)
        assert after["0.weight"] == pytest.approx(before["0.weight"])
        assert after["2.weight"] == pytest.approx(before["2.weight"] / 2)
        assert after["4.weight"] == pytest.approx(before["4.weight"] / 4)
        assert all(torch.equal(p, wide.get_parameter(name)) for name, p in biases.items())

    def test_twice_is_once(self):
        base, wide = net(16), net(64)
        mup_init(wide, base)
        once = copy.deepcopy(wide.state_dict())
        mup_init(wide, base)
        assert all(torch.allclose(a, b) for a, b in zip(once.values(), wide.state_dict().values(), strict=True))

    def test_zeros_stay_zeros(self):
        base, wide = net(16), net(64)
        nn.init.zeros_(wide[4].weight)
        with pytest.raises(InputError, match=r"'4.weight' has rms 0 where .* is wanted. Initialise both models alike"):
            mup_init(wide, base)
        nn.init.zeros_(base[4].weight)
        mup_init(wide, base)
        assert not wide[4].weight.any()

    def test_needs_a_base_with_weights(self):
        with torch.device("meta"):
            base = net(16)
        with pytest.raises(InputError, match="off the device 'meta'"):
            mup_init(net(64), base)

    def test_changes_nothing_where_it_refuses(self):
        base, wide = net(16), net(64)
        nn.init.zeros_(wide[4].weight)
        before = copy.deepcopy(wide.state_dict())
        with pytest.raises(InputError):
            mup_init(wide, base)
        assert all(torch.equal(a, b) for a, b in zip(before.values(), wide.state_dict().values(), strict=True))


class Divided(nn.ReLU):
    """A model's last activation, and the multiplier that its output layer needs."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return super().forward(x) / self.by


def descend(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(X), Y).backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("kind", "lr", "options"),
    [(torch.optim.SGD, 0.05, {"momentum": 0.9}), (torch.optim.AdamW, 1e-2, {"eps": 1e-30})],
    ids=["sgd", "adamw"],
)
def test_smaller_weights_and_a_multiplier_train_the_same_function(kind, lr, options):
    """The two forms of one parametrisation, tables 3 and 8: after any number of updates their outputs are equal."""
    base, small, divided = net(16), net(64, seed=1), net(64, seed=1)
    divided[3] = Divided(4.0)
    for model, output in ((small, "init"), (divided, "multiplier")):
        mup_init(model, base, output=output)
        answer = width(model, base, kind, lr, weight_decay=0.1, output=output)
        descend(model, kind(answer.groups, **options), 20)
    assert not torch.allclose(small(X), net(64, seed=1)(X), atol=0.1)
    assert torch.allclose(small(X), divided(X), atol=1e-4)


def movement(n, mup, kind, lr):
    """How far each layer's output has moved after 20 updates: the mean over its coordinates, a few seeds and the batch."""
    total = torch.zeros(3)
    for seed in range(2):
        model = net(n, seed)
        if mup:
            base = net(32, seed + 100)
            mup_init(model, base)
            optimizer = kind(width(model, base, kind, lr, weight_decay=0).groups)
        else:
            optimizer = kind(model.parameters(), lr=lr)
        before = outputs(model)
        descend(model, optimizer, 20)
        total += torch.stack([(a - b).abs().mean() for a, b in zip(outputs(model), before, strict=True)])
    return total


@torch.no_grad()
def outputs(model):
    found, x = [], X
    for layer in model:
        x = layer(x)
        found += [x] if isinstance(layer, nn.Linear) else []
    return found


class TestCoordinates:
    """The paper's coordinate check: what layers put out moves by as much at every width, and without μP does not."""

    @pytest.mark.parametrize(("kind", "lr"), [(torch.optim.Adam, 1e-2), (torch.optim.SGD, 0.1)], ids=["adam", "sgd"])
    def test_move_as_far_at_every_width(self, kind, lr):
        moved = torch.stack([movement(n, True, kind, lr) for n in (32, 128, 512)])
        assert bool((moved.amax(0) / moved.amin(0) < 1.7).all()), moved

    def test_grow_with_the_width_without(self):
        moved = torch.stack([movement(n, False, torch.optim.Adam, 1e-2) for n in (32, 128, 512)])
        assert bool((moved[1:, 1] > 1.5 * moved[:-1, 1]).all()) and moved[2, 1] > 5 * moved[0, 1], moved
