"""Makes the gallery of docs/schedules.md: one picture a shape, its text, its recipe, its formula, its source.

    python docs/gallery.py

Writes docs/img/schedules/*.svg and what stands between the page's two marks. The pictures follow the reader's light or dark page.
"""

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy

import lrkit
from lrkit.figures.style import CSS_DARK, CSS_LIGHT
from lrkit.schedules import Schedule
from lrkit.schedules.easing import number_text

HERE = Path(__file__).parent
PAGE, IMAGES = HERE / "schedules.md", HERE / "img" / "schedules"
COMING_BEGIN, COMING_END = "<!-- translations: made by docs/gallery.py -->", "<!-- end of translations -->"
BEGIN, END = "<!-- gallery: made by docs/gallery.py -->", "<!-- end of gallery -->"
STEPS = 1000
WIDTH, HEIGHT = 220, 104

# Chapter: [(name, recipe as it is typed, or "" where the text is all there is, text where there is no recipe, formula, source)]
CHAPTERS: dict[str, list[tuple[str, str, str, str, str]]] = {
    "Warm-ups": [
        ("linear warm-up", "warmup(300)", "", "(t + 1)/W", "arXiv:1706.02677"),
        ("cosine warm-up", 'warmup(300, easing="cosine")', "", "(1 − cos π(t + 1)/W)/2", "arXiv:1608.03983"),
        ("exponential warm-up from a start", 'warmup(300, start=0.01, easing="exponential")', "", "s^(1−u), u = (t + 1)/W", "lrkit"),
        ("untuned linear warm-up", "untuned_warmup(0.99)", "", "min(1, (t + 1)·(1 − β₂)/2)", "arXiv:1910.04209"),
        ("untuned exponential warm-up", 'untuned_warmup(0.99, "exponential")', "", "1 − exp(−(t + 1)·(1 − β₂))", "arXiv:1910.04209"),
        ("RAdam's warm-up", "radam_warmup(0.99)", "", "√((ρ−4)(ρ−2)ρ∞ / ((ρ∞−4)(ρ∞−2)ρ))", "arXiv:1908.03265, Algorithm 2"),
        ("gradual warm-up", "gradual_warmup(300, multiplier=4, after=linear(700))", "", "1 + (m − 1)·t/W, then m·after", "arXiv:1706.02677"),
        ("the tutorials' warm-up and power decay", "warmup_power(epochs=10, batches=100, warm=2, power=0.9)", "",
         "(epoch·batches + batch)/(warm·batches), then (1 − progress)^p", "PyTorch tutorials; arXiv:1606.00915"),
    ],
    "Decays": [
        ("constant", "constant()", "", "1", "the baseline"),
        ("linear", "linear(1000)", "", "1 − t/T", "arXiv:1810.04805"),
        ("cosine", "cosine(1000)", "", "(1 + cos πt/T)/2", "arXiv:1608.03983, eq. 5"),
        ("cosine to a floor", "cosine(1000, end=0.1)", "", "f + (1 − f)(1 + cos πt/T)/2", "arXiv:1608.03983, eq. 5"),
        ("cosine to a power", "cosine(1000, power=3)", "", "((1 + cos πt/T)/2)^p", "optax"),
        ("k-decay", "cosine(1000, k=2)", "", "(1 + cos π(t/T)^k)/2", "arXiv:2004.05909"),
        ("polynomial", "polynomial(1000, power=0.9)", "", "(1 − t/T)^p", "arXiv:1606.00915"),
        ("1−√", 'Segment(1, 0, 1000, "1-sqrt")', "", "1 − √(t/T)", "arXiv:2405.18392"),
        ("1−square", 'Segment(1, 0, 1000, "1-square")', "", "1 − (t/T)²", "kozistr's pytorch_optimizer"),
        ("exponential between two values", 'Segment(1, 0.01, 1000, "exponential")', "", "end^(t/T)", "arXiv:2404.06395, as a segment"),
        ("exponential that arrives at 0", "Segment(1, 0, 1000, Relax(0.5))", "", "(b^(t/T) − b)/(1 − b)", "Megatron-LM"),
        ("hyperbolic tangent", "tanh(1000)", "", "(1 − tanh(−6(1 − u) + 3u))/2", "arXiv:1806.01593"),
        ("REX", "rex(1000)", "", "(1 − u)/(1 − u/2)", "arXiv:2107.04197"),
        ("step: halve every n", "step(250, gamma=0.5)", "", "γ^⌊t/n⌋; without stairs it is smooth", "torch"),
        ("multi-step", "multi_step([300, 600, 800], gamma=0.3)", "", "γ^(milestones passed)", "arXiv:1605.07146"),
        ("exponential per step", "exponential(0.997)", "", "γ^t", "Keras"),
        ("exponential per epoch", "exponential(0.8, every=100, stairs=True)", "", "γ^⌊t/E⌋", "torch"),
        ("exponential with a floor", "exponential(0.995, floor=0.1)", "", "max(f, γ^t)", "optax"),
        ("inverse time", "inverse_time(0.01)", "", "1/(1 + k·t)", "Robbins and Monro 1951"),
        ("power time decay", "time_decay(0.05, p=0.7)", "", "(1 + γt)^−p", "Bottou 2012, SGD tricks"),
        ("piecewise", 'piecewise([(0, 0.1), (200, 1), (600, 0.4), (1000, 0)], easing="cosine")', "", "through points, along any easing", "ignite"),
        ("Chebyshev", "chebyshev(16, every=60)", "", "m/((1 + m)/2 − (1 − m)/2·cos θᵢ), in fractal order", "arXiv:2103.01338"),
    ],
    "Whole runs": [
        ("warm-up, then cosine", "Join(warmup(50), cosine(950, end=0.1))", "", "rise, f + (1 − f)(1 + cos πu)/2", "arXiv:1706.02677, 1608.03983"),
        ("warmup–stable–decay", "wsd(1000, warmup=50, decay=200)", "", "rise, 1, 1 − √u", "arXiv:2404.06395, 2405.18392"),
        ("warmup–stable–decay, exponential", 'wsd(1000, warmup=50, decay=200, easing="exponential", end=0.05)', "", "rise, 1, end^u", "arXiv:2404.06395"),
        ("WSD-S", "wsd_s([400, 300, 300], warmup=50, decay=80)", "", "several decays, each followed by the full rate", "arXiv:2410.05192"),
        ("inverse square root", "inverse_sqrt(100)", "", "√(W/t)", "arXiv:1706.03762, §5.3"),
        ("inverse square root with cool-down", "inverse_sqrt(100, total=1000, cooldown=200)", "", "√(W/t), then a line to 0", "arXiv:2106.04560"),
        ("power scheduler", "power_scheduler(100, total=1000, decay=150)", "", "(t/W)^−0.51", "arXiv:2408.13359"),
        ("one cycle, rate", "one_cycle(1000)", "", "up and down half a cosine", "arXiv:1708.07120"),
        ("one cycle, momentum", "one_cycle_momentum(1000)", "", "the other way round", "arXiv:1708.07120"),
    ],
    "Cycles": [
        ("warm restarts", "warm_restarts(250, times=4)", "", "(1 + cos π(t mod n)/n)/2", "arXiv:1608.03983"),
        ("growing periods", "warm_restarts(143, times=3, growth=2)", "", "period k has n·g^k updates", "arXiv:1608.03983"),
        ("given periods", "warm_restarts([100, 300, 600])", "", "half waves of given lengths", "mmengine"),
        ("decaying peaks", "warm_restarts(200, times=5, peak_decay=0.8)", "", "peak k has 0.8^k", "Keras"),
        ("triangular", "triangular(125)", "", "low + (1 − low)·max(0, 1 − abs(t/h − 2c + 1))", "arXiv:1506.01186"),
        ("triangular2", "triangular2(125)", "", "the swing halves every cycle", "arXiv:1506.01186"),
        ("exp_range", "exp_range(125, gamma=0.998)", "", "the swing shrinks by γ every update", "arXiv:1506.01186"),
        ("between two rates", "from_range(0.001, 0.1, half_cycle=125)", "", "absolute: low to high", "arXiv:1506.01186"),
    ],
    "Combinations": [
        ("a product", "Times(warmup(100), step(200, gamma=0.5))", "", "both at the same time", "pytorch_warmup"),
        ("repeated", "Repeat(Join(warmup(50), cosine(283)), 3, scale=0.7)", "", "cycle k is s^k as high", "lrkit"),
        ("a piece of another", "Join(warmup(100), cosine(900)).branch(500, \"linear 300\")", "", "what `branch` gives", "OLMo-core"),
        ("counted in epochs", "Each(cosine(10), 100)", "", "s(⌊t/E⌋)", "torch, stepped once an epoch"),
        ("between other limits", "Between(0.2, 1, inverse_time(0.01))", "", "low + (high − low)·s(t)", "OLMo-core"),
    ],
}  # fmt: skip


# Library: [(call of that library's own, without the optimizer)]. The optimizer's rate is 0.1, the run has 1,000 updates.
COMING: dict[str, list[str]] = {
    "torch": [
        "StepLR(step_size=300)", "MultiStepLR(milestones=[300, 600])", "ConstantLR(factor=0.5, total_iters=5)",
        "LinearLR(start_factor=0.1, total_iters=50)", "ExponentialLR(gamma=0.99)", "PolynomialLR(total_iters=1000, power=0.9)",
        "CosineAnnealingLR(T_max=1000, eta_min=0.001)", "CosineAnnealingWarmRestarts(T_0=100, T_mult=2)",
        "OneCycleLR(max_lr=0.1, total_steps=1000)", "CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=100)",
        "SequentialLR(schedulers=[LinearLR(start_factor=0.1, total_iters=50), CosineAnnealingLR(T_max=950)], milestones=[50])",
        "ChainedScheduler(schedulers=[LinearLR(start_factor=0.1, total_iters=50), ExponentialLR(gamma=0.99)])",
    ],
    "transformers": [
        "get_constant_schedule_with_warmup(num_warmup_steps=50)",
        "get_linear_schedule_with_warmup(num_warmup_steps=50, num_training_steps=1000)",
        "get_cosine_schedule_with_warmup(num_warmup_steps=50, num_training_steps=1000)",
        "get_cosine_with_hard_restarts_schedule_with_warmup(num_warmup_steps=50, num_training_steps=1000, num_cycles=2)",
        "get_polynomial_decay_schedule_with_warmup(num_warmup_steps=50, num_training_steps=1000, power=2.0)",
        "get_inverse_sqrt_schedule(num_warmup_steps=50)",
        "get_cosine_with_min_lr_schedule_with_warmup(num_warmup_steps=50, num_training_steps=1000, min_lr_rate=0.1)",
        "get_cosine_with_min_lr_schedule_with_warmup_lr_rate(num_warmup_steps=50, num_training_steps=1000, min_lr_rate=0.1)",
        "get_wsd_schedule(num_warmup_steps=50, num_decay_steps=200, num_training_steps=1000)",
    ],
    "timm": [
        "CosineLRScheduler(t_initial=950, lr_min=0.001, warmup_t=50, warmup_lr_init=0.0001, warmup_prefix=True)",
        "CosineLRScheduler(t_initial=1000, warmup_t=50, warmup_lr_init=0.0001)", "StepLRScheduler(decay_t=300, decay_rate=0.1)",
        "MultiStepLRScheduler(decay_t=[300, 600], decay_rate=0.1)", "TanhLRScheduler(t_initial=1000)", "PolyLRScheduler(t_initial=1000)",
        "CosineLRScheduler(t_initial=1000, k_decay=2.0)",
    ],
    "optax": [
        "linear_schedule(0.1, 0.0, 1000)", "polynomial_schedule(0.1, 0.0, 2, 1000)", "cosine_decay_schedule(0.1, 1000, alpha=0.1)",
        "exponential_decay(0.1, 100, 0.5)", "exponential_decay(0.1, 100, 0.5, staircase=True, end_value=0.01)",
        "piecewise_constant_schedule(0.1, {300: 0.1, 600: 0.1})", "warmup_cosine_decay_schedule(0.0, 0.1, 50, 1000, 0.001)",
        "warmup_exponential_decay_schedule(0.0, 0.1, 50, 100, 0.5)", "cosine_onecycle_schedule(1000, 0.1)",
        "join_schedules([linear_schedule(0.0, 0.1, 50), constant_schedule(0.1)], [50])",
    ],
}  # fmt: skip


def translation(library: str, call: str) -> Schedule:
    """What the library's call is in lrkit: its own constructor, given the optimizer's rate where it takes one."""
    import lrkit.schedules.compat as room

    module = getattr(room, library)

    def bound(make: Callable[..., Schedule]) -> Callable[..., Schedule]:
        takes = "base_lr" in inspect.signature(make).parameters
        return lambda *a, **k: make(*a, **({"base_lr": 0.1} | k if takes and library != "optax" else k))

    names = {name: bound(make) for name, make in vars(module).items() if inspect.isfunction(make)}
    made = eval(call, names)  # noqa: S307  (the calls above)
    assert isinstance(made, Schedule)
    return made


def coming_from() -> str:
    """The translations' Markdown."""
    out = [COMING_BEGIN, ""]
    for library, calls in COMING.items():
        out += [f"### {library}", "", "| there | here |", "|---|---|"]
        for call in calls:
            text = str(translation(library, call)).removeprefix("base 0.1 ")
            plain = text.removeprefix("(").removesuffix(")") if text.startswith("(") else f"base 0.1 {text}"
            out.append(f"| `{call}` | `{plain}` |")
        out.append("")
    return "\n".join([*out, COMING_END])


def schedule_of(recipe: str, text: str) -> Schedule:
    """The schedule of an entry: its recipe run, or its text read."""
    import lrkit.schedules as room

    made = eval(recipe, vars(room).copy()) if recipe else lrkit.parse(text)  # noqa: S307  (the recipes above)
    assert isinstance(made, Schedule)
    return made


def picture(schedule: Schedule, name: str) -> str:
    """A small drawing that carries its own colours for light and dark."""
    if schedule.steps is None or schedule.steps > STEPS:
        schedule = schedule[:STEPS]
    steps = schedule.steps or STEPS
    values = schedule(numpy.arange(steps)).tolist()
    top = max(values)
    across, up = (WIDTH - 44) / max(1, steps - 1), (HEIGHT - 30) / top
    dots = [(36 + across * t, HEIGHT - 18 - up * value) for t, value in enumerate(values)]
    corners = {t + 1 for t, (a, b, c) in enumerate(zip(dots, dots[1:], dots[2:], strict=False)) if bend(a, b, c) > 0.3}
    some = [dots[t] for t in sorted({0, *range(0, steps, 6), *corners, steps - 1})]
    points = [some[0], *(b for a, b, c in zip(some, some[1:], some[2:], strict=False) if bend(a, b, c) > 1e-9), some[-1]]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    floor = HEIGHT - 18
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">
<title>{name}</title>
<style>svg{{{CSS_LIGHT}font:10px sans-serif}}@media(prefers-color-scheme:dark){{svg{{{CSS_DARK}}}}}text{{fill:var(--ink)}}</style>
<polygon points="36.0,{floor} {line} {points[-1][0]:.1f},{floor}" fill="var(--c0)" opacity="0.14"/>
<polyline points="{line}" fill="none" stroke="var(--c0)" stroke-width="1.8" stroke-linejoin="round"/>
<path d="M36 6V{floor}H{WIDTH - 4}" fill="none" stroke="var(--ink)" stroke-width="0.8"/>
<text x="32" y="16" text-anchor="end">{number_text(float(f"{top:.3g}"))}</text><text x="32" y="{floor}" text-anchor="end">0</text>
<text x="36" y="{HEIGHT - 5}" text-anchor="middle">0</text><text x="{WIDTH - 4}" y="{HEIGHT - 5}" text-anchor="end">{steps}</text>
</svg>
"""


def bend(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """How far b lies above or below the line from a to c, in pixels."""
    return abs(b[1] - a[1] - (c[1] - a[1]) * (b[0] - a[0]) / (c[0] - a[0]))


def slug(name: str) -> str:
    """A file name for an entry."""
    plain = name.replace("−", "-").replace("√", "sqrt").replace("–", "-").replace("'", "")
    return "-".join("".join(c if c.isalnum() and c.isascii() else " " for c in plain.lower()).split())


def page() -> str:
    """The gallery's Markdown."""
    out = [BEGIN, ""]
    for chapter, entries in CHAPTERS.items():
        out += [f"### {chapter}", "", "| | text form | from Python | formula | source |", "|---|---|---|---|---|"]
        for name, recipe, text, formula, source in entries:
            shown = f"`{schedule_of(recipe, text)}`" if len(str(schedule_of(recipe, text))) < 160 else "one `hold` a step"
            python = f"`{recipe}`" if recipe else ""
            out.append(f"| ![{name}](img/schedules/{slug(name)}.svg)<br>{name} | {shown} | {python} | {formula} | {source} |")
        out.append("")
    return "\n".join([*out, END])


def main() -> None:
    """Write the pictures and the page."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for entries in CHAPTERS.values():
        for name, recipe, text, _, _ in entries:
            (IMAGES / f"{slug(name)}.svg").write_text(picture(schedule_of(recipe, text), name), encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    for begin, end, made in ((BEGIN, END, page()), (COMING_BEGIN, COMING_END, coming_from())):
        before, _, rest = text.partition(begin)
        text = before + made + rest.partition(end)[2]
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
