"""Profiles a model: MACs, parameters, bytes, and the time that the roofline predicts beside the one measured.

    python -m experiments.profile --model=mobilenet_v2 --width=0.75 --resolution=192 --convention=conv_fc
    python -m experiments.profile --model=mobilenet_v2 --options=head=scale,folded=true --dtype=int8 --json
    python -m experiments.profile --model=my_package.my_module:build
    python -m experiments.profile --list

`--model` is a name of the zoo, or `module:function` of your own, where `function()` returns a function with
its parameters and a tuple of arguments `(fn, params, args)`, or a Flax module with an example input
`(module, example)`. Shapes suffice (`jax.ShapeDtypeStruct`): no weight is trained or fetched, the time of a
model does not depend on their values. Cost: a few seconds, most of them to compile the model; `--nomeasure`
leaves that out.
"""

import dataclasses
import difflib
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import flags
from flax import nnx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from efficient.core.convention import Convention
from efficient.core.cost import CostReport, cost
from efficient.core.measure import DeviceProfile, Timing, calibrate, measure
from efficient.models import zoo
from experiments.frame.flags import config_from_flags, define, help_text, parse

USAGE = 2  # exit code


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The flags."""

    model: str = "mobilenet_v2"  # a name of the zoo, or module:function of your own
    width: float = 0.0  # multiplies the channels of a zoo model; 0: the model's own
    resolution: int = 0  # side of the image that a zoo model takes, pixels; 0: the model's own
    options: tuple[str, ...] = ()  # further options of a zoo model, each name=value
    batch: int = 1  # images or sequences at a time
    convention: Convention = "conv_fc"  # what counts as a MAC
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32"  # in which activations are counted
    in_place_depthwise: bool = False  # a depthwise convolution overwrites its input
    measure: bool = True  # time the model on this machine
    repeats: int = 20  # calls timed
    rows: int = 24  # rows of the table, at most; modules are merged until they fit
    json: bool = False  # print JSON and nothing else
    list: bool = False  # name the models of the zoo and their options
    help: bool = False  # show this

    def __post_init__(self) -> None:
        for name, least in {"width": 0, "resolution": 0, "batch": 1, "repeats": 1, "rows": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)!r}; see --help.")


class Subject(NamedTuple):
    """What is profiled: `fn(params, *args)`; arrays or shapes."""

    fn: Callable[..., Any]
    params: Any
    args: tuple[Any, ...]


class Profile(NamedTuple):
    """What was found."""

    report: CostReport
    device: DeviceProfile
    predicted_ms: float
    measured: Timing | None


def _hint(word: str, known: Sequence[str], otherwise: str) -> str:
    """What a word was probably meant to be."""
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else otherwise


def _options(config: Config) -> dict[str, Any]:
    """The options that were asked of a zoo model."""
    asked: dict[str, Any] = {
        name: getattr(config, name) for name in ("width", "resolution") if getattr(config, name)
    }
    for option in config.options:
        name, equals, text = option.partition("=")
        if not equals:
            raise ValueError(f"options must be name=value with commas between, got {option!r}; see --list.")
        try:
            asked[name] = json.loads(text)
        except json.JSONDecodeError:
            asked[name] = text
    return asked


def _batched(example: Any, batch: int) -> jax.ShapeDtypeStruct:
    """The shape of `batch` times the example."""
    return jax.ShapeDtypeStruct((example.shape[0] * batch, *example.shape[1:]), example.dtype)


def _of_module(module: nn.Module, example: Any, batch: int) -> Subject:
    """A Linen module on an example; its variables are shapes."""
    x = _batched(example, batch)
    return Subject(module.apply, jax.eval_shape(module.init, jax.random.key(0), x), (x,))


def _of_user(model: str, batch: int) -> Subject:
    """What `module:function` returns."""
    module_name, _, function = model.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"model must name a module that can be imported, got {model!r} ({error}); check the path."
        ) from None
    if not callable(getattr(module, function, None)):
        hint = _hint(
            function, [name for name in dir(module) if callable(getattr(module, name))], "see its source."
        )
        raise ValueError(f"model must name a function of {module_name}, got {function!r}; {hint}")
    match getattr(module, function)():
        case (nn.Module() as flax_module, example) if hasattr(example, "shape") and hasattr(example, "dtype"):
            return _of_module(flax_module, example, batch)
        case (nnx.Module() as flax_module, example) if hasattr(example, "shape"):
            graph, state = nnx.split(flax_module)
            return Subject(lambda params, x: nnx.merge(graph, params)(x), state, (_batched(example, batch),))
        case (fn, params, tuple() as args) if callable(fn):
            if batch != 1:
                raise ValueError(
                    f"batch must be 1 for a function with its own arguments, got {batch!r}; batch them there."
                )
            return Subject(fn, params, args)
        case other:
            raise ValueError(
                f"{model} must return (fn, params, args) or (Flax module, example array), got "
                f"{type(other).__name__}; see --help."
            )


def subject(config: Config) -> Subject:
    """What `config` asks to profile.

    Raises:
      ValueError: an unknown model or option, or a function of the user that does not return what it should.
    """
    if ":" in config.model:
        if _options(config):
            raise ValueError(
                f"width, resolution and options must be left out, got {_options(config)!r}; "
                f"set them in {config.model}."
            )
        return _of_user(config.model, config.batch)
    if config.model not in zoo.ZOO:
        hint = _hint(config.model, list(zoo.ZOO), "see --list.")
        raise ValueError(f"model must be a name of the zoo or module:function, got {config.model!r}; {hint}")
    try:
        built = zoo.get(config.model, **_options(config))
    except TypeError as error:
        raise ValueError(
            f"options must be values that {config.model} takes, got {_options(config)!r} ({error}); "
            "see --list."
        ) from None
    return _of_module(*built, config.batch)


def _filled(tree: Any) -> Any:
    """`tree` with arrays where it has shapes: 0.01, which keeps clear of denormal numbers; 0 for integers."""

    def fill(value: Any) -> Any:
        if not isinstance(value, jax.ShapeDtypeStruct):
            return value
        return jnp.full(value.shape, 0.01 if jnp.issubdtype(value.dtype, jnp.floating) else 0, value.dtype)

    return jax.tree.map(fill, tree)


def _cost(config: Config, fn: Callable[..., Any], params: Any, args: tuple[Any, ...]) -> CostReport:
    """What `config` asks to know of a model."""
    return cost(
        fn,
        params,
        *args,
        convention=config.convention,
        activation_dtype=config.dtype,
        in_place_depthwise=config.in_place_depthwise,
    )


def run(config: Config) -> Profile:
    """Profiles the model of `config`.

    Raises:
      ValueError: what `subject` says, or a model that JAX cannot trace.
    """
    try:
        fn, params, args = subject(config)
        report = _cost(config, fn, params, args)
    except ValueError:
        raise
    except Exception as error:  # whatever a model may raise
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise ValueError(
            f"model must build and trace, got {reason}; run {config.model!r} by itself."
        ) from error
    device, timing = calibrate(), None
    if config.measure:
        timing = measure(fn, _filled(params), *_filled(args), repeats=config.repeats, jit=True)
    return Profile(report, device, device.predict_ms(report.equations), timing)


class Row(NamedTuple):
    """One module, or several that begin alike."""

    name: str
    macs: int
    params: int
    stored_bytes: int
    predicted_ms: float


def modules(profile: Profile) -> list[Row]:
    """One row a module, in order of first use; the rows sum to the totals."""
    times: dict[str, list[Any]] = {}
    for equation in profile.report.equations:
        times.setdefault(equation.layer, []).append(equation)
    layers = profile.report.layers
    return [
        Row(
            name,
            layers[name].macs if name in layers else 0,
            layers[name].params if name in layers else 0,
            layers[name].stored_bytes if name in layers else 0,
            profile.device.predict_ms(times.get(name, ())),
        )
        for name in dict.fromkeys((*times, *layers))
    ]


def merged(rows: Sequence[Row], most: int) -> list[Row]:
    """At most `most` rows: names are cut to as many keys as that allows, then the smallest put together."""
    short = [row._replace(name=_display(row.name)) for row in rows]
    deepest = max((row.name.count("/") + 1 for row in short), default=1)
    for depth in range(deepest, 0, -1):
        found = _grouped([row._replace(name="/".join(row.name.split("/")[:depth])) for row in short])
        if len(found) <= most:
            return found
    kept = {row.name for row in sorted(found, key=lambda row: -row.macs)[: most - 1]}
    rest = f"{len(found) - len(kept)} others"
    return _grouped([row if row.name in kept else row._replace(name=rest) for row in found])


def _display(name: str) -> str:
    """A module's name without the collection or the class that all names begin with."""
    return name.partition("/")[2] or name


def _grouped(rows: Sequence[Row]) -> list[Row]:
    """Rows of the same name, summed, in order of first appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.name, []).append(row)
    return [
        Row(name, *(sum(column) for column in list(zip(*group, strict=True))[1:]))
        for name, group in groups.items()
    ]


def totals(profile: Profile) -> dict[str, float | None]:
    """The numbers of the whole model, by the names that `--json` prints."""
    report, measured = profile.report, profile.measured
    return {
        "macs": report.macs,
        "params": report.params,
        "stored_bytes": report.stored_bytes,
        "peak_activation_bytes": report.peak_activation_bytes,
        "predicted_ms": profile.predicted_ms,
        "measured_ms": None if measured is None else measured.median_ms,
    }


def layer_table(config: Config, profile: Profile) -> Table:
    """Costs by module."""
    table = Table(title=f"{escape(config.model)}, batch {config.batch}, convention {config.convention}")
    table.add_column("module", overflow="fold")
    for name in ("MACs", "params", "stored KiB", "roofline ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in merged(modules(profile), config.rows):
        table.add_row(
            escape(row.name),
            f"{row.macs:,}",
            f"{row.params:,}",
            f"{row.stored_bytes / 1024:,.1f}",
            f"{row.predicted_ms:.3f}",
        )
    return table


def total_table(config: Config, profile: Profile) -> Table:
    """The whole model, predicted beside measured."""
    report, device, measured = profile.report, profile.device, profile.measured
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    notes: Mapping[str, str] = {
        "macs": f"flops are twice that; {report.intensity:.2f} flops a byte moved",
        "peak_activation_bytes": f"as {config.dtype}" + ", depthwise in place" * config.in_place_depthwise,
        "predicted_ms": f"at {device.peak_flops / 1e9:.1f} GFLOP/s, {device.bandwidth / 1e9:.1f} GB/s "
        f"({device.name})",
        "measured_ms": ""
        if measured is None
        else f"median of {measured.n}, quartiles {measured.lower_ms:.3f} to {measured.upper_ms:.3f}",
    }
    for name, value in totals(profile).items():
        text = "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
        table.add_row(name, text, escape(notes.get(name, "")))
    return table


def zoo_table() -> Table:
    """The models by name."""
    table = Table("model", "options")
    for name, entry in zoo.ZOO.items():
        table.add_row(name, ", ".join(entry.options))
    return table


def _print(config: Config, console: Console) -> None:
    """Does what the flags ask."""
    if config.list:
        console.print(zoo_table())
        return
    profile = run(config)
    if config.json:
        layers = [row._asdict() for row in modules(profile)]
        print(json.dumps({**totals(profile), "layers": layers}, indent=1))
        return
    console.print(layer_table(config, profile))
    console.print(total_table(config, profile))
    for note in profile.report.notes:
        console.print(f"note: {note}", markup=False, highlight=False)


def main(argv: Sequence[str]) -> int:
    """Does what a command line asks; returns the exit code."""
    values = flags.FlagValues()
    define(Config, values, group="profile")
    try:
        parse(values, argv)
        config = config_from_flags(Config, values)
        if config.help:
            print(help_text(sys.modules[__name__], values))
            return 0
        _print(config, Console())
    except ValueError as error:
        Console(stderr=True).print(
            f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        return USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
