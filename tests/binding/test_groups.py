"""Param groups: every parameter exactly once, rates by the formula, layers in the order in which they run."""

import copy
import functools
import io
import pickle
import re

import pytest
import torch
import torch.distributed as distributed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lrkit.binding import groups as g
from lrkit.binding.attach import attach
from lrkit.binding.layers import layers_of
from lrkit.errors import InputError, StateError

# -- models -----------------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, into: int, out: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out)
        self.down = nn.Sequential(nn.Conv2d(into, out, 1), nn.BatchNorm2d(out)) if into != out else nn.Identity()

    def forward(self, x):
        return self.down(x) + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))


class ResNet(nn.Module):
    """Its head is defined first and runs last."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 2)
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Residual(4, 4), Residual(4, 4))
        self.layer2 = nn.Sequential(Residual(4, 8), Residual(8, 8))

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(self.bn1(self.conv1(x)))).mean((2, 3)))


RESNET = ["conv1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "fc"]


class Double(nn.Module):
    def __init__(self, into: int, out: int):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), nn.Conv2d(out, out, 1))

    def forward(self, x):
        return self.net(x)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.down3 = Double(3, 4), Double(4, 8), Double(8, 8)
        self.up1, self.up2, self.out = Double(16, 4), Double(8, 4), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(a)
        c = self.down3(b)
        return self.out(self.up2(torch.cat([a, self.up1(torch.cat([b, c], 1))], 1)))


class Language(nn.Module):
    def __init__(self, tied: bool = False):
        super().__init__()
        self.wte, self.wpe, self.drop = nn.Embedding(9, 4), nn.Embedding(5, 4), nn.Dropout()
        self.rnn, self.decoder = nn.LSTM(4, 4, 2, batch_first=True), nn.Linear(4, 9)
        if tied:
            self.decoder.weight = self.wte.weight

    def forward(self, x):
        return self.decoder(self.rnn(self.drop(self.wte(x) + self.wpe(x % 5)))[0])


class Vit(nn.Module):
    """Holds parameters itself, and a norm that is defined before the blocks; no trace, so only a batch says how it runs."""

    def __init__(self):
        super().__init__()
        self.cls, self.pos = nn.Parameter(torch.zeros(1, 1, 4)), nn.ParameterList([torch.zeros(1, 3, 4)])
        self.norm, self.patch = nn.LayerNorm(4), nn.Linear(4, 4)
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(4, 2, 8, batch_first=True) for _ in range(2)])
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        if x.isnan().any():
            raise ValueError("no number")
        x = torch.cat([self.cls.expand(len(x), 1, 4), self.patch(x)], 1) + self.pos[0]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Stage(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.down = nn.ModuleList([Pair(), Pair()]), nn.Linear(2, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.down(x)


class Experts(nn.Module):
    """A block of experts: several run beside each other, and none is a layer."""

    def __init__(self):
        super().__init__()
        self.norm, self.moe = nn.LayerNorm(2), nn.ModuleDict({"experts": nn.ModuleList([Pair(), Pair()])})

    def forward(self, x):
        return sum(expert(self.norm(x)) for expert in self.moe["experts"])


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.b(self.a(x).relu())


class Chain(nn.Module):
    """Runs its children in an order of its own; without a trace where a tensor decides."""

    def __init__(self, children: list[nn.Module], order: list[int], traceable: bool = True):
        super().__init__()
        self.parts = nn.ModuleDict({f"m{i}": child for i, child in enumerate(children)})
        self.order, self.traceable = order, traceable

    def forward(self, x):
        if not self.traceable and x.isnan().any():
            return x
        for i in self.order:
            x = self.parts[f"m{i}"](x)
        return x


class Steps(nn.Module):
    """A list of blocks in an order of its own."""

    def __init__(self, order: list[int]):
        super().__init__()
        self.items, self.order = nn.ModuleList([Pair() for _ in order]), order

    def forward(self, x):
        for i in self.order:
            x = self.items[i](x)
        return x


def linears(*order: int, traceable: bool = False) -> Chain:
    return Chain([nn.Linear(2, 2) for _ in order], list(order), traceable)


X = torch.zeros(1, 2)
IMAGE = torch.zeros(2, 3, 8, 8)
WORDS = torch.zeros(2, 3, dtype=torch.long)
SEQUENCE = torch.zeros(2, 2, 4)
MODELS = {  # model, a batch, its layers
    "one leaf": (lambda: nn.Linear(2, 2), X, ["all"]),
    "attention": (lambda: nn.MultiheadAttention(4, 2), (SEQUENCE,) * 3, ["all"]),
    "only norms": (lambda: nn.Sequential(nn.LayerNorm(2), nn.LayerNorm(2)), X, ["1"]),
    "mlp": (lambda: nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2)), X, ["1", "3"]),
    "nested": (lambda: nn.Sequential(nn.Sequential(nn.Linear(2, 2), Pair()), nn.ModuleList([Pair()])[0]), X, ["0.0", "0.1", "1"]),
    "resnet": (ResNet, IMAGE, RESNET),
    "unet": (UNet, IMAGE, ["down1", "down2", "down3", "up1", "up2", "out"]),
    "language": (Language, WORDS, ["wte", "rnn", "decoder"]),
    "tied": (lambda: Language(tied=True), WORDS, ["wte", "rnn"]),
    "vit": (Vit, SEQUENCE, ["patch", "blocks.0", "blocks.1", "head"]),
    "stages": (lambda: nn.Sequential(Stage(), Stage()), X, [f"{i}.{x}" for i in "01" for x in ("blocks.0", "blocks.1", "down")]),
    "experts": (lambda: nn.Sequential(Experts(), Experts()), X, ["0", "1"]),
    "only child": (lambda: Chain([Chain([Pair(), nn.Linear(2, 2)], [0, 1])], [0]), X, ["parts.m0.parts.m0", "parts.m0.parts.m1"]),
    "shared module": (lambda: nn.Sequential(*[nn.Linear(2, 2)] * 3, nn.Linear(2, 2)), X, ["0", "3"]),
    "transformer": (
        lambda: nn.Transformer(4, 2, 2, 2, 8, batch_first=True), {"src": SEQUENCE, "tgt": SEQUENCE},
        ["encoder.layers.0", "encoder.layers.1", "decoder.layers.0", "decoder.layers.1"],
    ),
}  # fmt: skip
every_model = pytest.mark.parametrize("name", MODELS)


def params_of(groups) -> list[nn.Parameter]:
    return [parameter for group in groups for parameter in group["params"]]


def holds_exactly(groups, model: nn.Module) -> bool:
    held, there = [id(p) for p in params_of(groups)], [id(p) for p in model.parameters()]
    return len(held) == len(there) and set(held) == set(there)


def rates(groups) -> dict[str, float]:
    return {group["name"]: group["lr"] for group in groups}


def hooked(model: nn.Module) -> bool:
    return any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def refused(kind, message: str):
    return pytest.raises(kind, match=re.escape(message))


# -- exactly once -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "measured"), [(name, True) for name in MODELS] + [(name, False) for name in MODELS if name != "vit"]
)
def test_layers_are_those_of_the_forward_pass_and_hold_each_parameter_once(name, measured):
    make, example, layers = MODELS[name]
    model = make()
    groups = g.layerwise(model, lr=1.0, decay=0.5, example=example if measured else None)
    assert holds_exactly(groups, model)
    assert rates(groups) == {layer: 0.5**k for k, layer in enumerate(reversed(layers))}
    assert [group["name"] for group in groups] == layers


@every_model
def test_no_decay_and_patterns_hold_each_parameter_once_on_any_groups(name):
    make, example, _ = MODELS[name]
    model = make()
    groups = g.no_decay(g.layerwise(g.by_pattern(model, {"*": 1e-3}), decay=0.9, example=example), weight_decay=0.1)
    assert holds_exactly(groups, model)
    assert all(list(map(type, group["params"])) == [nn.Parameter] * len(group["params"]) for group in groups)


PARTS = st.sampled_from(["linear", "norm", "pair"]) | st.permutations(range(3)) | st.integers(1, 3)


def build(part) -> nn.Module:
    if isinstance(part, int):
        return nn.Sequential(*(nn.Linear(2, 2) for _ in range(part)))
    if isinstance(part, list):
        return Steps(part)
    return {"linear": lambda: nn.Linear(2, 2), "norm": lambda: nn.LayerNorm(2), "pair": Pair}[part]()


def expected_layers(parts: list, order: list[int]) -> dict[str, list[str]]:
    """The naive twin: layers with their pieces, by walking the order that the model was built with."""
    pieces = []
    for i in order:
        name, part = f"parts.m{i}", parts[i]
        if isinstance(part, list):
            pieces += [(f"{name}.items.{j}", False) for j in part]
        elif isinstance(part, int):
            pieces += [(f"{name}.{j}", False) for j in range(part)]
        else:
            pieces.append((name, part == "norm"))
    layers: list[list[str]] = []
    begun = False  # whether something that is no norm has run
    for name, thin in pieces:
        if layers and (thin or not begun):
            layers[-1].append(name)
        else:
            layers.append([name])
        begun = begun or not thin
    first = next((name for name, thin in pieces if not thin), pieces[-1][0])
    return {(first if first in layer else layer[0]): layer for layer in layers}


@st.composite
def chains(draw):
    parts = draw(st.lists(PARTS, min_size=2, max_size=6))
    return parts, draw(st.permutations(range(len(parts))))


@settings(deadline=None, max_examples=60)
@given(chains(), st.floats(0.1, 1), st.booleans())
def test_any_module_is_layered_as_it_runs_measured_or_traced(chain, decay, measured):
    parts, order = chain
    model = Chain([build(part) for part in parts], order)
    groups = g.layerwise(model, lr=2.0, decay=decay, example=X if measured else None)
    expected = expected_layers(parts, order)
    assert holds_exactly(groups, model) and not hooked(model)
    assert list(groups.names) == list(expected)
    for k, group in enumerate(reversed(groups)):
        assert group["lr"] == pytest.approx(2.0 * decay**k)
        assert all(any(n.startswith(f"{piece}.") for piece in expected[group["name"]]) for n in groups.names[group["name"]])


@settings(deadline=None, max_examples=60)
@given(st.permutations(range(4)))
def test_an_assumed_order_is_refused_by_the_first_forward_exactly_if_it_is_wrong(order):
    model = linears(*order)
    assert list(g.layerwise(model, lr=1.0, decay=0.5).names) == [f"parts.m{i}" for i in range(4)]
    assert hooked(model)
    if order == sorted(order):
        model(X)
    else:
        with refused(StateError, "the layers do not run in the order of their definition"):
            model(X)
    assert not hooked(model)
    model(X)


# -- layers -----------------------------------------------------------------------------------------------------------------


def test_what_a_model_holds_itself_is_in_the_first_layer_and_a_norm_in_the_one_before_it():
    names = g.layerwise(Vit(), lr=1.0, decay=0.5, example=SEQUENCE).names
    assert names["patch"] == ["cls", "pos.0", "patch.weight", "patch.bias"]
    assert names["blocks.1"][:2] == ["norm.weight", "norm.bias"]


def test_parameters_stand_in_the_order_of_the_model():
    model = ResNet()
    place = {id(p): i for i, p in enumerate(model.parameters())}
    for group in g.no_decay(g.layerwise(model, lr=1.0, decay=0.5), weight_decay=0.1):
        places = [place[id(p)] for p in group["params"]]
        assert places == sorted(places)


def test_a_tied_parameter_is_in_the_earliest_layer():
    names = g.layerwise(Language(tied=True), lr=1.0, decay=0.5).names
    assert "wte.weight" in names["wte"] and names["rnn"][-1] == "decoder.bias"


def test_measuring_changes_nothing():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 2))
    model[2].eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    random = torch.get_rng_state()
    g.layerwise(model, lr=1.0, decay=0.5, example=torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes and not hooked(model)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_batch_of_one_measures_what_cannot_train_on_it():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    assert list(g.layerwise(model, lr=1.0, decay=0.5, example=X).names) == ["0", "2"]


def test_measuring_leaves_the_batch_as_it_was():
    batch = torch.tensor([[-1.0, 1.0]])
    g.layerwise(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 2), nn.Linear(2, 2)), lr=1.0, decay=0.5, example=batch)
    assert batch.tolist() == [[-1.0, 1.0]]


def test_a_model_that_is_compiled_in_place_is_measured_without_compiling():
    model, graphs = linears(1, 0), []
    model.compile(backend=lambda graph, _: graphs.append(graph) or graph)
    assert list(g.layerwise(model, lr=1.0, decay=0.5, example=X).names) == ["parts.m1", "parts.m0"]
    assert not graphs


def test_tracing_leaves_nothing_behind_in_the_model():
    class Remembers(nn.Sequential):
        def forward(self, x):
            self.seen = x
            return super().forward(x)

    model = Remembers(nn.Linear(2, 2), nn.Linear(2, 2))
    g.layerwise(model, lr=1.0, decay=0.5)
    assert not hasattr(model, "seen") and not hooked(model)


def test_an_argument_that_is_usually_left_out_is_left_out_of_the_trace():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.b, self.a = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x, other=None):
            return self.a(x) if other is not None else self.b(self.a(x))

    assert list(g.layerwise(Optional(), lr=1.0, decay=0.5).names) == ["a", "b"]


def test_a_layer_that_the_example_does_not_run_is_refused_by_name():
    with refused(InputError, "the forward pass did not run 'parts.m1'"):
        g.layerwise(Chain([nn.Linear(2, 2), nn.Linear(2, 2)], [0]), lr=1.0, decay=0.5, example=X)


def test_an_example_that_the_model_cannot_take_is_refused_and_leaves_no_hook():
    model = linears(0, 1)
    for example in [torch.zeros(1, 7), "text", {"y": X}, (X, X, X), None.__class__]:
        with refused(InputError, "layerwise(example=…): the example must be what the model is called with"):
            g.layerwise(model, lr=1.0, decay=0.5, example=example)
    assert not hooked(model)


def test_given_layers_need_no_forward_and_decide_all():
    model = linears(0, 1, 2)
    groups = g.layerwise(model, 1.0, 0.5, layers=["parts.m2", ("parts.m0.weight", "*m0.bias"), "*.m1"])
    assert rates(groups) == {"parts.m2": 0.25, "parts.m0.weight|*m0.bias": 0.5, "*.m1": 1.0}
    assert holds_exactly(groups, model) and not hooked(model)
    tied = g.layerwise(Language(tied=True), 1.0, 0.5, layers=["w*e", "rnn", "decoder"])
    assert tied.names["decoder"] == ["decoder.bias"] and "wte.weight" in tied.names["w*e"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["parts.m0"], "none holds 'parts.m1.weight', 'parts.m1.bias'"),
        (["parts", "parts.m1"], "several patterns match 'parts.m1.weight'"),
        (["parts.m0", "parts.m1", "parts.m5"], "'parts.m5' matches no parameter; nearest are 'parts.m"),
        ("parts", "layers must be a list"),
        ([], "layers must be a list"),
        ([3], "a pattern must be a text"),
    ],
)
def test_given_layers_that_do_not_hold_all_once_are_refused(layers, message):
    with refused(InputError, message):
        g.layerwise(linears(0, 1), 1.0, 0.5, layers=layers)


# -- the first forward ------------------------------------------------------------------------------------------------------


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_torch(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("carry", [copy.deepcopy, through_pickle, through_torch])
def test_the_check_travels_with_a_copy_of_the_model(carry):
    model = linears(1, 0)
    g.layerwise(model, lr=1.0, decay=0.5)
    other = carry(model)
    with refused(StateError, "'parts.m0' ran after 'parts.m1'. They ran as 'parts.m1', 'parts.m0'; assumed was 'parts.m0', "):
        other(X)
    assert not hooked(other) and hooked(model)


def test_the_check_also_sees_parts_that_are_called_without_the_model():
    model = linears(0, 1)
    g.layerwise(model, lr=1.0, decay=0.5)
    model.parts["m1"](X)
    with refused(StateError, "ran after"):
        model.parts["m0"](X)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_model_needs_its_layers_said():
    model = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    for example in (X, None):
        with refused(InputError, "a scripted module does not show in which order it runs"):
            g.layerwise(model, lr=1.0, decay=0.5, example=example)
    assert holds_exactly(g.layerwise(model, lr=1.0, decay=0.5, layers=["0", "1"]), model)


def test_a_forward_pass_that_shows_no_layer_is_refused():
    class Functional(nn.Sequential):
        def forward(self, x):
            return x if x.isnan().any() else x @ self[0].weight @ self[1].weight

    model = Functional(nn.Linear(2, 2), nn.Linear(2, 2))
    g.layerwise(model, lr=1.0, decay=0.5)
    with refused(StateError, "called none of the layers as a module. Build the groups anew with layers="):
        model(X)
    assert not hooked(model)


def test_layers_that_do_not_run_are_not_judged():
    model = Chain([nn.Linear(2, 2) for _ in range(3)], [0, 2], traceable=False)
    g.layerwise(model, lr=1.0, decay=0.5)
    model(X)
    assert not hooked(model)


def test_a_layer_that_is_used_again_counts_at_its_first_use():
    model = Chain([nn.Linear(2, 2) for _ in range(2)], [0, 1, 0], traceable=False)
    g.layerwise(model, lr=1.0, decay=0.5)
    model(X)
    assert list(g.layerwise(model, lr=1.0, decay=0.5, example=X).names) == ["parts.m0", "parts.m1"]


def test_a_norm_that_is_defined_before_its_place_contradicts():
    model = Vit()
    g.layerwise(model, lr=1.0, decay=0.5)
    with refused(StateError, "'norm' ran after 'blocks.1'"):
        model(SEQUENCE)


def test_groups_made_anew_replace_the_old_check():
    model = linears(1, 0)
    g.layerwise(model, lr=1.0, decay=0.5)
    assert rates(g.layerwise(model, lr=1.0, decay=0.5, example=X)) == {"parts.m1": 0.5, "parts.m0": 1.0}
    assert not hooked(model)
    model(X)


def test_a_check_that_a_snapshot_brought_back_goes_again():
    from lrkit.snapshot import preserved

    model = linears(0, 1)
    g.layerwise(model, lr=1.0, decay=0.5)
    with preserved(model):
        model(X)
    model(X)
    assert not hooked(model)


def test_a_model_of_one_layer_is_not_watched():
    model = Chain([nn.Linear(2, 2), nn.LayerNorm(2)], [0, 1], traceable=False)
    g.layerwise(model, lr=1.0, decay=0.5)
    assert not hooked(model)


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 2, 1]])
def test_a_compiled_model_is_checked_while_it_is_traced_and_is_one_graph(order):
    model = Chain([nn.Linear(2, 2) for _ in range(3)], order)
    model.parts.register_buffer("unused", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lrkit.binding.layers._traced", lambda *_: [])
        g.layerwise(model, lr=1.0, decay=0.5)
    graphs = []
    compiled = torch.compile(model, backend=lambda graph, _: graphs.append(graph) or graph, fullgraph=True)
    if order == [0, 1, 2]:
        for _ in range(3):
            compiled(X)
        assert len(graphs) == 1
        model(X)
        assert not hooked(model)
        assert compiled(X).shape == (1, 2)
    else:
        with pytest.raises(Exception, match="the layers do not run in the order of their definition"):
            compiled(X)


# -- wrappers ---------------------------------------------------------------------------------------------------------------


def test_wrappers_leave_no_trace_in_names_and_order():
    compiled = functools.partial(torch.compile, backend="eager")
    inner = nn.Sequential(nn.Linear(2, 2), compiled(Pair()), nn.Linear(2, 2))
    for model in [compiled(inner), nn.DataParallel(inner), compiled(nn.DataParallel(inner))]:
        groups = g.head_and_backbone(model, head=inner[2], lr=1.0, backbone_lr=0.1)
        assert groups.names["backbone"] == ["0.weight", "0.bias", "1.a.weight", "1.a.bias", "1.b.weight", "1.b.bias"]
        assert list(g.by_pattern(model, {"1": 0.1, "[02].*": 1.0}).names) == ["1", "[02].*"]
        for example in (X, None):
            assert list(g.layerwise(model, lr=1.0, decay=0.5, example=example).names) == ["0", "1", "2"]
            assert holds_exactly(g.layerwise(model, lr=1.0, decay=0.5, example=example), inner)


def test_names_written_for_the_model_hold_under_ddp():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))
        groups = g.by_pattern(model, {"0": 1.0, "1": 2.0})
        assert groups.names == {"0": ["0.weight", "0.bias"], "1": ["1.weight", "1.bias"]}
        assert list(g.layerwise(model, 1.0, 0.5, example=X).names) == ["0", "1"]
    finally:
        distributed.destroy_process_group()


# -- patterns ---------------------------------------------------------------------------------------------------------------


def test_patterns_take_options_rates_and_the_rest():
    groups = g.by_pattern(ResNet(), {"layer?.*": {"lr": 1e-3, "cautious": True}, "fc": 1e-2}, rest={"weight_decay": 0.1})
    assert [group["name"] for group in groups] == ["layer?.*", "fc", "rest"]
    assert groups[0]["lr"] == 1e-3 and groups[0]["cautious"] is True and groups[1]["lr"] == 1e-2
    assert "lr" not in groups[2] and groups.names["rest"] == ["conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"]


def test_a_module_name_is_no_prefix():
    model = nn.ModuleDict({"a": nn.Linear(1, 1), "ab": nn.Linear(1, 1)})
    assert g.by_pattern(model, {"a": 1.0}, rest=2.0).names["a"] == ["a.weight", "a.bias"]


MLP = nn.Sequential(*(nn.Linear(2, 2) for _ in range(9)))


@pytest.mark.parametrize(
    ("patterns", "rest", "message"),
    [
        ({"0": 1.0}, None, "nothing matches '1.weight', '1.bias', '2.weight', '2.bias', '3.weight', '3.bias', '4.weight', "
         "'4.bias' and 8 more. Name them too, or say rest="),
        ({"*": 1.0, "0.*": 2.0}, None, "several patterns match '0.weight', '0.bias'. Narrow one."),
        ({"0.wieght": 1.0}, 1.0, "'0.wieght' matches no parameter; nearest are '0.weight'"),
        ({"clasifier": 1.0}, 1.0, "'clasifier' matches no parameter; there are '0', '1'"),
        ({}, 1.0, "patterns must be a mapping"),
        ("0", 1.0, "patterns must be a mapping"),
        ({3: 1.0}, 1.0, "a pattern must be a text"),
        ({"": 1.0}, 1.0, "a pattern must be a text"),
        ({(): 1.0}, 1.0, "a pattern must be a text"),
        ({"0": "1e-3"}, 1.0, "lr of '0' must be a finite number of at least 0, got '1e-3'"),
        ({"0": -1}, 1.0, "must be a finite number of at least 0"),
        ({"0": {"weight_decay": -1}}, 1.0, "weight_decay of '0' must be a finite number of at least 0"),
        ({"0": {"params": []}}, 1.0, "an option of '0' is called 'params'"),
        ({"0": {1: 2}}, 1.0, "an option of '0' is called 1"),
        ({"0": 1.0}, "x", "lr of 'rest' must be"),
        ({"0": None}, 1.0, "lr of '0' must be"),
    ],
)  # fmt: skip
def test_patterns_that_do_not_divide_the_model_are_refused(patterns, rest, message):
    with refused(InputError, message):
        g.by_pattern(MLP, patterns, rest)


def test_a_tied_parameter_whose_names_part_is_refused_and_a_tuple_joins_them():
    model = Language(tied=True)
    for patterns in [{"wte": 1.0, "decoder": 2.0}, {"decoder": 2.0}]:
        with refused(InputError, "its names fall into different groups: 'wte.weight = decoder.weight'. Put both"):
            g.by_pattern(model, patterns, rest=3.0)
    with refused(InputError, "head_and_backbone: a tied parameter is one parameter"):
        g.head_and_backbone(model, head="decoder", lr=1.0, backbone_lr=0.1)
    assert g.by_pattern(model, {("decoder", "wte"): 1.0}, rest=2.0).names["decoder|wte"] == ["wte.weight", "decoder.bias"]
    assert g.head_and_backbone(model, head=["decoder", model.wte], lr=1.0, backbone_lr=0.1).names["head"] == [
        "wte.weight", "decoder.bias",
    ]  # fmt: skip
    assert g.head_and_backbone(model, head="decoder.bias", lr=1.0, backbone_lr=0.1).names["head"] == ["decoder.bias"]


def test_frozen_parameters_are_included():
    model = ResNet()
    model.conv1.requires_grad_(False)
    assert holds_exactly(g.head_and_backbone(model, head="fc", lr=1.0, backbone_lr=0.0), model)


# -- head, towers, decay ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["fc", ["fc"], "module", ["module", "layer2"]])
def test_a_head_is_a_name_a_module_or_a_list(head):
    model = ResNet()
    given = {"module": model.fc}
    head = [given.get(h, h) for h in head] if isinstance(head, list) else given.get(head, head)
    groups = g.head_and_backbone(model, head=head, lr=1e-3, backbone_lr=1e-5)
    assert rates(groups) == {"backbone": 1e-5, "head": 1e-3} and holds_exactly(groups, model)
    assert set(groups.names["head"]) >= {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("clasifier", "'clasifier' matches no parameter"),
        ("layer3", "'layer3' matches no parameter; nearest are 'layer2', 'layer1'"),
        (["fc", "fk"], "'fk' matches no parameter"),
        (nn.Linear(1, 1), "this Linear is no part of the model"),
        (nn.ReLU(), "this ReLU is no part of the model"),
        ("*", "the backbone needs parameters"),
        (3, "head must be a submodule"),
        ([], "head must be a submodule"),
        ([3], "head must be a submodule"),
        (None, "head must be a submodule"),
    ],
)
def test_a_head_that_is_none_is_refused(head, message):
    with refused(InputError, message):
        g.head_and_backbone(ResNet(), head=head, lr=1e-3, backbone_lr=1e-5)


def test_a_head_whose_name_is_a_pattern_is_found_as_a_module():
    model = nn.ModuleDict({"a[0]": nn.Linear(1, 1), "a0": nn.Linear(1, 1)})
    groups = g.head_and_backbone(model, head=model["a[0]"], lr=1.0, backbone_lr=0.1)
    assert groups.names == {"backbone": ["a0.weight", "a0.bias"], "head": ["a[0].weight", "a[0].bias"]}


def test_a_model_is_no_head_of_itself():
    model = ResNet()
    with refused(InputError, "the backbone needs parameters, and the head holds all"):
        g.head_and_backbone(model, head=model, lr=1e-3, backbone_lr=1e-5)


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"lr": "x"}, {"backbone_lr": None}, {"backbone_lr": float("nan")}])
def test_rates_of_head_and_backbone_are_numbers_of_at_least_0(wrong):
    with refused(InputError, f"head_and_backbone({next(iter(wrong))}="):
        g.head_and_backbone(ResNet(), head="fc", **{"lr": 1e-3, "backbone_lr": 1e-5, **wrong})


def towers() -> nn.ModuleDict:
    return nn.ModuleDict({"vision": Pair(), "text": Pair(), "joint": nn.Linear(2, 2)})


def test_towers_have_their_rates_and_the_rule_means_the_same_on_a_model_and_on_groups():
    rates_of_towers = {"vision": 1e-2, "text": {"lr": 1e-3, "weight_decay": 0.1}}
    groups = g.modalities(towers(), rates_of_towers, rest=1e-4)
    assert rates(groups) == {"vision": 1e-2, "text": 1e-3, "rest": 1e-4} and groups[1]["weight_decay"] == 0.1
    rule = g.modalities(rates_of_towers, rest=1e-4)
    assert rates(rule(towers())) == rates(groups)
    assert rates(rule(g.no_decay(towers(), weight_decay=0.2))) == {
        "vision": 1e-2, "vision/no_decay": 1e-2, "text": 1e-3, "text/no_decay": 1e-3, "rest": 1e-4, "rest/no_decay": 1e-4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((towers(), {"vision": 1.0, "text": 1.0}), "nothing matches 'joint.weight', 'joint.bias'"),
        ((towers(), {"vison": 1.0}), "'vison' matches no parameter; nearest are 'vision'"),
        ((towers(),), "a model and its towers are needed"),
        (({"vision": 1.0}, {"text": 1.0}), "a model and its towers are needed"),
        (({"vision": "fast"},), "lr of 'vision' must be"),
        (({},), "patterns must be a mapping"),
        ((3, {"text": 1.0}), "modalities: a model is needed, or the groups that a builder made, got a int"),
    ],
)
def test_towers_that_do_not_divide_the_model_are_refused(arguments, message):
    with refused(InputError, message):
        g.modalities(*arguments)


class LlamaRMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, 2))


class Renamed(nn.LayerNorm):
    pass


class LayerNormLinear(nn.Linear):
    """One module with a norm and a matrix, as transformer engines have it."""


@pytest.mark.parametrize(
    ("module", "decayed"),
    [
        (nn.Linear(2, 2), ["weight"]),
        (LayerNormLinear(2, 2), ["weight"]),
        (nn.LSTM(2, 2), ["weight_ih_l0", "weight_hh_l0"]),
        (nn.MultiheadAttention(2, 1), ["in_proj_weight", "out_proj.weight"]),
        (nn.Embedding(3, 2), ["weight"]),
        (nn.PReLU(), []),
        (nn.LayerNorm((2, 2)), []),
        (Renamed((2, 2)), []),
        (nn.GroupNorm(1, 2), []),
        (nn.InstanceNorm2d(2, affine=True), []),
        (nn.BatchNorm3d(2), []),
        (nn.RMSNorm((2, 2)), []),
        (LlamaRMSNorm(), []),
        (nn.ParameterDict({"bias": torch.zeros(2, 2), "in_bias": torch.zeros(2, 2), "table": torch.zeros(2, 2)}), ["table"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_biases_norms_and_vectors_have_no_decay(module, decayed):
    groups = g.no_decay(module, weight_decay=0.1)
    assert holds_exactly(groups, module)
    assert groups.names.get("all", []) == decayed
    assert {group["name"]: group["weight_decay"] for group in groups} == {
        name: 0.1 if name == "all" else 0.0 for name in groups.names
    }


def test_what_decays_stands_first():
    model = nn.ParameterDict({"bias": torch.zeros(2), "table": torch.zeros(2, 2)})
    assert list(g.no_decay(model, weight_decay=0.1).names) == ["all", "all/no_decay"]


@pytest.mark.parametrize("wrong", [-0.1, "0.1", float("inf"), True])
def test_a_decay_is_a_number_of_at_least_0(wrong):
    with refused(InputError, "no_decay(weight_decay="):
        g.no_decay(MLP, weight_decay=wrong)


# -- composition ------------------------------------------------------------------------------------------------------------


def resnet_groups():
    return g.head_and_backbone(ResNet(), head="fc", lr=1e-2, backbone_lr=1e-3)


def test_layers_multiply_each_groups_own_rate():
    groups = g.layerwise(resnet_groups(), decay=0.5)
    assert rates(groups) == pytest.approx(
        {f"backbone/{layer}": 1e-3 * 0.5 ** (5 - k) for k, layer in enumerate(RESNET[:-1])} | {"head/fc": 1e-2}
    )


def test_no_decay_splits_and_changes_nothing_else():
    groups = g.no_decay(resnet_groups(), weight_decay=0.05)
    assert rates(groups) == {"backbone": 1e-3, "backbone/no_decay": 1e-3, "head": 1e-2, "head/no_decay": 1e-2}
    assert str(g.no_decay(groups, weight_decay=0.05)) == str(groups)


def test_the_order_of_builders_does_not_change_what_a_name_drives():
    one = g.no_decay(g.layerwise(resnet_groups(), decay=0.5), weight_decay=0.05)
    other = g.layerwise(g.head_and_backbone(g.no_decay(ResNet(), 0.05), head="fc", lr=1e-2, backbone_lr=1e-3), decay=0.5)
    assert one.names == other.names
    assert rates(one) == rates(other)


def test_head_and_towers_over_layers_stand_before_them_and_replace_their_rates():
    layers = g.layerwise(nn.Sequential(Pair(), Pair()), lr=1.0, decay=0.5)
    assert rates(g.head_and_backbone(layers, head="1", lr=3.0, backbone_lr=2.0)) == {"backbone/0": 2.0, "head/1": 3.0}
    assert rates(g.modalities(layers, {"1": 3.0})) == {"0": 0.5, "1": 3.0}
    assert rates(g.modalities(layers, {"*.a": 3.0})) == {"0": 0.5, "*.a/0": 3.0, "1": 1.0, "*.a/1": 3.0}


def test_a_pattern_over_groups_overrides_and_leaves_the_others():
    groups = g.by_pattern(g.layerwise(ResNet(), 1.0, 0.5), {"fc": 7.0, "*.bn1": {"weight_decay": 0.0}})
    assert rates(groups) == {
        "conv1": 0.5**5, "layer1.0": 0.5**4, "layer1.0/*.bn1": 0.5**4, "layer1.1": 0.5**3, "layer1.1/*.bn1": 0.5**3,
        "layer2.0": 0.25, "layer2.0/*.bn1": 0.25, "layer2.1": 0.5, "layer2.1/*.bn1": 0.5, "fc": 7.0,
    }  # fmt: skip


def test_a_part_that_bears_its_groups_name_stays_beside_it():
    groups = g.by_pattern(g.layerwise(ResNet(), 1.0, 0.5), {"conv1": 7.0})
    assert rates(groups)["conv1/conv1"] == 7.0 and groups.names["conv1"] == ["bn1.weight", "bn1.bias"]


def test_over_groups_without_a_rate_what_no_pattern_matches_is_refused():
    with refused(InputError, "nothing matches 'conv1.weight'"):
        g.by_pattern(g.no_decay(ResNet(), 0.05), {"fc": 1.0})
    assert list(g.by_pattern(g.no_decay(ResNet(), 0.05), {"fc": 1.0}, rest={}).names) == [
        "fc", "rest", "fc/no_decay", "rest/no_decay",
    ]  # fmt: skip


def test_groups_of_two_models_add_up_and_split_further():
    both = g.by_pattern(Pair(), {"a": 1.0, "b": 2.0}) + g.head_and_backbone(ResNet(), head="fc", lr=3.0, backbone_lr=4.0)
    assert list(both.names) == ["a", "b", "backbone", "head"]
    assert len(g.no_decay(both, weight_decay=0.1)) == 8
    grown = g.by_pattern(Pair(), {"*": 1.0})
    grown += g.by_pattern(Pair(), {"a": 1.0}, rest=1.0)
    assert isinstance(grown, g.Groups) and list(grown.names) == ["*", "a", "rest"]
    with refused(InputError, "layerwise: the layers of one model have an order, and these groups are of several"):
        g.layerwise(both, decay=0.5)


def test_what_would_be_there_twice_cannot_be_added():
    model = Pair()
    with refused(InputError, "'a.weight', 'a.bias', 'b.weight', 'b.bias' would be in two"):
        g.by_pattern(model, {"*": 1.0}) + g.by_pattern(model, {"a": 1.0, "b": 1.0})
    with refused(InputError, "each needs its own name, and two would be '*'"):
        g.by_pattern(Pair(), {"*": 1.0}) + g.by_pattern(Pair(), {"*": 1.0})
    with refused(InputError, "groups + list: only groups"):
        g.by_pattern(model, {"*": 1.0}) + [{"params": []}]  # noqa: RUF005


def test_a_pattern_called_rest_is_not_mixed_with_the_rest():
    model = nn.ModuleDict({"rest": Pair(), "b": Pair()})
    with refused(InputError, "'rest' names the group of all others"):
        g.by_pattern(model, {"rest": 1.0}, rest=2.0)
    assert rates(g.by_pattern(model, {"rest.*": 1.0}, rest=2.0)) == {"rest.*": 1.0, "rest": 2.0}


def test_one_rule_of_ones_own_is_enough():
    def label(name, parameter):
        return "matrix" if parameter.ndim > 1 else None

    groups = g.refine(g.layerwise(Language(), 1.0, 0.5), label, lambda part, group: {"lr": group["lr"] * (3 if part else 1)})
    assert rates(groups) == {"wte/matrix": 0.75, "rnn/matrix": 1.5, "rnn": 0.5, "decoder/matrix": 3.0, "decoder": 1.0}


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        ("a", lambda *_: {}, "label and options must be functions"),
        (lambda *_: "a", {}, "label and options must be functions"),
        (lambda *_: 3, lambda *_: {}, "a label must be a text or None, got 3"),
        (lambda *_: "", lambda *_: {}, "a label must be a text or None, got ''"),
        (lambda *_: "a", lambda *_: None, "lr of 'a' must be a finite number"),
        (lambda *_: "a", lambda *_: {"name": "b"}, "an option of 'a' is called 'name'"),
    ],
)
def test_a_rule_that_is_none_is_refused(label, options, message):
    with refused(InputError, message):
        g.refine(MLP, label, options)


def test_a_rate_in_a_tensor_stays_one():
    groups = g.layerwise(g.by_pattern(Pair(), {"*": {"lr": torch.tensor(1.0)}}), decay=0.5, layers=["a", "b"])
    assert [group["lr"] for group in groups] == [torch.tensor(0.5), torch.tensor(1.0)]


# -- what is taken ----------------------------------------------------------------------------------------------------------

BUILDERS = {
    "by_pattern": lambda m: g.by_pattern(m, {"*": 1.0}),
    "head_and_backbone": lambda m: g.head_and_backbone(m, head="fc", lr=1.0, backbone_lr=1.0),
    "layerwise": lambda m: g.layerwise(m, 1.0, 0.5),
    "modalities": lambda m: g.modalities(m, {"*": 1.0}),
    "no_decay": lambda m: g.no_decay(m, 0.1),
    "refine": lambda m: g.refine(m, lambda *_: None, lambda *_: {}),
}
every_builder = pytest.mark.parametrize("name", BUILDERS)


@every_builder
def test_what_is_neither_a_model_nor_groups_is_refused_in_one_sentence(name):
    optimizer = torch.optim.SGD(MLP.parameters(), lr=0.1)
    for wrong in [None, 3, "model", [{"params": list(MLP.parameters())}], optimizer.param_groups, MLP.parameters(), ResNet]:
        with refused(InputError, f"{name}: a model is needed, or the groups that a builder made, got "):
            BUILDERS[name](wrong)
    with refused(InputError, f"{name}(ReLU): the model has no parameters"):
        BUILDERS[name](nn.ReLU())
    with refused(
        InputError, f"{name}: '0.weight', '0.bias' have no shape yet, and the groups depend on it. Run one batch first."
    ):
        BUILDERS[name](nn.Sequential(nn.LazyLinear(2)))


@every_builder
def test_groups_that_were_tampered_with_are_refused(name):
    strange = g.no_decay(ResNet(), 0.1)
    strange.append({"params": [nn.Parameter(torch.zeros(1))], "name": "mine"})
    with refused(InputError, "number 2 does not. Build them anew."):
        BUILDERS[name](strange)
    for wrong in [3, {}, {"params": iter([]), "name": "x"}, {"params": [3], "name": "x"}, {"params": []}]:
        strange[2] = wrong
        with refused(InputError, "number 2 does not. Build them anew."):
            BUILDERS[name](strange)
    strange.clear()
    with refused(InputError, "there are none"):
        BUILDERS[name](strange)
    driven = g.by_pattern(ResNet(), {"*": 1.0})
    attach(torch.optim.SGD(driven), lr="cosine", total=9)
    with refused(StateError, "schedules drive these groups already"):
        BUILDERS[name](driven)


def test_a_model_that_changed_after_its_groups_were_made_is_noticed():
    model = ResNet()
    groups = g.no_decay(model, 0.1)
    model.fc = nn.Linear(8, 3)
    with refused(StateError, "'fc.weight', 'fc.bias' left the model"):
        g.layerwise(groups, 1.0, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "layerwise(decay=None): decay must be"),
        ({"lr": 1.0}, "layerwise(decay=None): decay must be"),
        ({"decay": 0.5}, "layerwise: a rate is needed to decay, and 'all' has none. Say lr="),
        ({"lr": 1.0, "decay": 0}, "decay must be a finite number above 0"),
        ({"lr": 1.0, "decay": 1.5}, "decay must be in (0, 1], got 1.5"),
        ({"lr": -1.0, "decay": 0.5}, "lr must be a finite number of at least 0"),
        ({"lr": "1e-3", "decay": 0.5}, "lr must be a finite number of at least 0"),
        ({"lr": 1.0, "decay": 0.5, "layers": ["*"], "example": X}, "Leave one out."),
    ],
)
def test_numbers_of_layerwise_are_checked(arguments, message):
    with refused(InputError, message):
        g.layerwise(MLP, **arguments)


def test_a_rate_for_groups_that_have_theirs_is_refused():
    with refused(InputError, "these groups have rates of their own"):
        g.layerwise(resnet_groups(), 1.0, 0.5)


# -- optimizers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "RMSprop", "Adagrad", "NAdam"])
def test_optimizers_take_the_groups_and_their_state_goes_round(kind):
    def optimizer(model):
        groups = g.no_decay(g.layerwise(model, lr=1e-2, decay=0.5), weight_decay=0.05)
        return getattr(torch.optim, kind)(groups, lr=1.0)

    model = ResNet()
    first = optimizer(model)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    first.step()
    second = optimizer(copy.deepcopy(model))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in second.param_groups] == [
        (group["name"], group["lr"], group["weight_decay"]) for group in first.param_groups
    ]
    assert str(second.state_dict()["state"]) == str(first.state_dict()["state"])


def test_attach_drives_a_group_and_what_lies_under_it():
    optimizer = torch.optim.AdamW(g.no_decay(g.layerwise(resnet_groups(), decay=0.5), weight_decay=0.05))
    attach(optimizer, lr={"head": "warmup 10 > constant", "backbone": "hold 100 at 0 > constant"})
    for group in optimizer.param_groups:
        assert (group["lr"] == 0) == group["name"].startswith("backbone")


def test_copies_of_groups_know_their_parameters():
    groups = g.head_and_backbone(ResNet(), head="fc", lr=1.0, backbone_lr=0.1)
    for other in (copy.deepcopy(groups), pickle.loads(pickle.dumps(groups))):
        assert other.names == groups.names and str(other) == str(groups)
        assert rates(g.layerwise(other, decay=0.5))["head/fc"] == 1.0
        assert not {id(p) for p in params_of(other)} & {id(p) for p in params_of(groups)}


def test_groups_print_as_a_table():
    groups = g.no_decay(g.by_pattern(Pair(), {"a": 1e-3}, rest={}), weight_decay=0.05)
    groups[0]["betas"], groups[0]["foreach"] = (0.9, 0.99), True
    assert str(groups).splitlines() == [
        "name              lr  weight_decay  tensors  parameters",
        "a              0.001          0.05        1           4",
        "a/no_decay     0.001             0        1           2",
        "rest                          0.05        1           4",
        "rest/no_decay                    0        1           2",
    ]


# -- transformers -----------------------------------------------------------------------------------------------------------


def tiny(name: str, layers: list[str], example, **config):
    return pytest.param(name, layers, example, config, id=name)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PIXELS = torch.zeros(1, 3, 32, 32)


@pytest.mark.hosts
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize(
    ("name", "layers", "example", "config"),
    [
        tiny("BertForSequenceClassification", ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler",
             "classifier"], {"input_ids": WORDS}, vocab_size=50, **SMALL),
        tiny("GPT2LMHeadModel", ["transformer.wte", "transformer.h.0", "transformer.h.1"], WORDS, vocab_size=50, n_embd=16,
             n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0),
        tiny("ViTForImageClassification", ["vit.embeddings", "vit.*.0", "vit.*.1", "classifier"], PIXELS, image_size=32,
             patch_size=8, **SMALL),
        tiny("T5ForConditionalGeneration", ["*", "encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"],
             {"input_ids": WORDS, "decoder_input_ids": WORDS}, vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2,
             num_heads=2),
        tiny("SwinForImageClassification", ["swin.embeddings", "*.layers.0.blocks.0", "*.layers.0.blocks.1",
             "*.layers.0.downsample", "*.layers.1.blocks.0", "*.layers.1.blocks.1", "classifier"], PIXELS, image_size=32,
             patch_size=4, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=4),
    ],
)  # fmt: skip
def test_models_of_transformers_are_layered_as_they_run(name, layers, example, config, measured):
    from fnmatch import fnmatchcase

    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**config)).eval()
    groups = g.layerwise(model, 1.0, 0.5, example=example if measured else None)
    assert holds_exactly(groups, model)
    assert len(groups) == len(layers)
    assert all(fnmatchcase(found, layer) for found, layer in zip(groups.names, layers, strict=True)), list(groups.names)
    model(**example) if isinstance(example, dict) else model(example)  # the check, where the order was assumed
    assert not hooked(model)
    assert layers_of("again", model, example)


def test_no_decay_without_a_number_leaves_the_others_to_their_groups_and_the_optimizer():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer = torch.optim.AdamW(g.no_decay(model), lr=0.1, weight_decay=0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    own = g.no_decay(g.by_pattern(model, {"0": {"lr": 1.0, "weight_decay": 0.2}}, rest=1.0))
    assert [group.get("weight_decay") for group in own] == [0.2, 0.0, 0.0]
