"""Plan: which values get which transform; checked on shapes, before any data moves.

    plan = Plan([
        Rule("**/kernel", chain(magnitude(0.9), linear(8)), exclude="head/**"),
        Rule("head/kernel", linear(8)),
    ])
    compiled = plan.compile(params)              # or jax.eval_shape(model.init, key, x)
    print(compiled)                              # what is matched, skipped and refused; bytes
    state = compiled.transform.init(params)
    print(compiled.report(model.apply, params, state, x))

The first rule that matches a floating value takes it. A transform sees all the values of its rule at once.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from efficient.core.compiled import Compiled, Row, Status
from efficient.core.cost import not_parameters
from efficient.core.leaf import is_leaf
from efficient.core.paths import Where, flatten, matches, no_match, require_where
from efficient.core.report import bytes_of
from efficient.core.scope import stacked
from efficient.core.side_by_side import of_paths, side_by_side
from efficient.core.transform import Key, Transform, is_float, require_transform
from efficient.core.words import array_words


@dataclasses.dataclass(frozen=True)
class Rule:
    """Gives a transform to values by their path."""

    where: Where  # a pattern, as `paths.matches` takes it
    transform: Transform
    _: dataclasses.KW_ONLY
    exclude: Where = ()  # what this rule leaves to the rules after it, in the same language
    stacked: bool = False  # each slice along the first axis by itself: scanned layers

    def __post_init__(self) -> None:
        for name in ("where", "exclude"):
            require_where(getattr(self, name), name)
        require_transform(self.transform, "Rule(where, transform)")

    def matches(self, path: str, value: Any) -> bool:
        """True where the rule wants the value."""
        return matches(self.where, path, value) and not matches(self.exclude, path, value)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Rules in their order, and a transform for the floating values that none of them takes.

    Raises:
      ValueError: at once, `rules` is no sequence of `Rule`, or empty without a `default`, which must be a
        transform.

    Example:
      >>> import jax.numpy as jnp
      >>> from efficient.quantize import linear
      >>> params = {"dense": {"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4)}}
      >>> compiled = Plan([Rule("**/kernel", linear(8))]).compile(params)
      >>> [(row.path, row.status, row.packed_bytes) for row in compiled.coverage]
      [('dense/bias', 'skipped', 16), ('dense/kernel', 'matched', 48)]
    """

    rules: Sequence[Rule]
    _: dataclasses.KW_ONLY
    default: Transform | None = None

    def __post_init__(self) -> None:
        if isinstance(self.rules, Rule) or not all(isinstance(rule, Rule) for rule in self.rules):
            raise ValueError(
                f"rules must be a sequence of Rule, got {self.rules!r}; write Plan([Rule(where, transform)])."
            )
        if self.default is not None:
            require_transform(self.default, "Plan(rules, default=transform)")
        object.__setattr__(self, "rules", tuple(self.rules))
        if not self.rules and self.default is None:
            raise ValueError("rules must not be empty, got () and no default; give one of the two.")

    def compile(self, params: Any, *, stats: Any = None, on_refusal: str = "raise") -> Compiled:
        """Runs the plan on shapes.

        A value that its transform refuses is refused alone where it can be: the transform is asked again for
        each value of the rule.

        Args:
          params: arrays, `jax.ShapeDtypeStruct`s or leaves. Where they are arrays, one array at two paths
            (tied weights) is recognised: the two are compressed and stored apart, and a warning says so.
          stats: what `init` will be given, or its shapes.
          on_refusal: "raise" lists all refusals in one error; "skip" leaves the refused values dense.

        Raises:
          ValueError: a rule matches nothing, or nothing that an earlier rule has left; a transform refuses
            values; an unknown `on_refusal`.
        """
        if on_refusal not in ("raise", "skip"):
            raise ValueError(f"on_refusal must be 'raise' or 'skip', got {on_refusal!r}; choose one.")
        by_path = flatten(params)[0]
        statistics = not_parameters(params)
        scopes = self._scopes(by_path, statistics)
        parts, packed, refused = [], {}, {}
        for name, (own, transform) in scopes.items():
            made, refusals = _probe(transform, {path: by_path[path] for path in own}, stats, name)
            packed.update(made)
            refused.update(refusals)
            if made:
                parts.append((frozenset(made), transform))
        if refused and on_refusal == "raise":
            lines = "".join(f"\n  {path}: {reason}" for path, reason in list(refused.items())[:3])
            lines += f"\n  and {', '.join(list(refused)[3:])}" if len(refused) > 3 else ""
            raise ValueError(
                f"transforms must accept the values of their rules, got {len(refused)} refused; exclude "
                f'them, or pass on_refusal="skip":{lines}'
            )
        rule_of = {path: name for name, (own, _) in scopes.items() for path in own}
        rows = [
            self._row(path, value, rule_of.get(path, ""), packed, refused, path in statistics)
            for path, value in by_path.items()
        ]
        notes = _ties(by_path, packed)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        words = {f"rules[{i}]": f"{rule.where!r}: {rule.transform}" for i, rule in enumerate(self.rules)}
        if "default" in scopes:
            words["default"] = str(self.default)
        return Compiled(transform=side_by_side(parts), coverage=tuple(rows), rules=words, notes=notes)

    def _scopes(
        self, by_path: Mapping[str, Any], statistics: set[str]
    ) -> dict[str, tuple[list[str], Transform]]:
        """By rule: the paths that it takes, and its transform. It takes statistics only if nothing else."""
        wanted = [[p for p, value in by_path.items() if rule.matches(p, value)] for rule in self.rules]
        taken: dict[str, str] = {}
        scopes = {}
        for i, (rule, want) in enumerate(zip(self.rules, wanted, strict=True)):
            name = f"rules[{i}]"
            own = [path for path in want if path not in taken and is_float(by_path[path])]
            if not own:
                raise ValueError(_takes_nothing(name, rule, want, by_path, taken))
            own = [path for path in own if path not in statistics] or own
            taken |= dict.fromkeys(own, name)
            scopes[name] = (own, stacked(rule.transform) if rule.stacked else rule.transform)
        rest = [
            path
            for path, value in by_path.items()
            if path not in taken and path not in statistics and is_float(value)
        ]
        if self.default is not None and rest:
            scopes["default"] = (rest, self.default)
        return scopes

    def _row(
        self,
        path: str,
        value: Any,
        rule: str,
        packed: Mapping[str, Any],
        refused: Mapping[str, str],
        is_statistic: bool,
    ) -> Row:
        """The row of one value."""
        status: Status = "skipped"
        if path in packed:
            status, reason = "matched", ""
        elif path in refused:
            status, reason = "refused", refused[path]
        elif not is_float(value):
            reason = "not floating"
        elif is_statistic:
            reason = "a statistic, no parameter"
        else:
            by = [i for i, one in enumerate(self.rules) if matches(one.where, path, value)]
            reason = f"excluded by rules[{by[0]}]" if by else "no rule"
        return Row(
            path=path,
            array=array_words(value),
            status=status,
            rule=rule,
            reason=reason,
            dense_bytes=bytes_of(value),
            packed_bytes=bytes_of(packed.get(path, value)),
        )


def _takes_nothing(
    name: str, rule: Rule, want: list[str], by_path: Mapping[str, Any], taken: Mapping[str, str]
) -> str:
    """Why a rule takes no value."""
    if not want:
        return f"{name}: {no_match(rule.where, by_path, rule.exclude)}"
    earlier = [path for path in want if path in taken]
    if not earlier:
        found = ", ".join(f"{path} ({array_words(by_path[path])})" for path in want[:3])
        return f"{name} must match a floating value, got {rule.where!r} that matches {found}; drop the rule."
    by = ", ".join(dict.fromkeys(taken[path] for path in earlier))
    return (
        f"{name} must match a value that no earlier rule takes, got {rule.where!r}, whose matches {by} takes "
        f"({', '.join(earlier[:3])}{', ...' if earlier[3:] else ''}); put it first, or drop it."
    )


def _probe(
    transform: Transform, own: dict[str, Any], stats: Any, name: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """The packed shapes of the values that `transform` takes, and its words for those that it refuses."""
    try:
        return _packed(transform, own, stats), {}
    except ValueError as error:
        whole = str(error)
    except Exception as error:
        error.add_note(f"while {name} was tried on the shapes of {len(own)} values")
        raise
    refused = {}
    for path, value in own.items():
        try:
            _packed(transform, {path: value}, stats)
        except ValueError as error:
            refused[path] = str(error)
    rest = {path: value for path, value in own.items() if path not in refused}
    if not refused:  # each alone would do: it refuses what they are together
        return {}, dict.fromkeys(own, whole)
    if not rest:
        return {}, refused
    made, more = _probe(transform, rest, stats, name)
    return made, refused | more


def _packed(transform: Transform, own: dict[str, Any], stats: Any) -> dict[str, Any]:
    """The shapes of what `pack` makes of values; it must keep what they stand for."""

    def run(params: Any, given: Any, key: Key) -> Any:
        return transform.pack(params, transform.init(params, stats=given, key=key))

    key = jax.eval_shape(lambda: jax.random.key(0))  # a shape: nothing is drawn
    packed = jax.eval_shape(run, own, of_paths(stats, own), key)
    for path, value in own.items():
        expected, got = array_words(value), array_words(packed[path])
        if got != expected:
            raise ValueError(f"transform must keep {path!r} {expected}, got {got}; mend the transform.")
    return packed


def _ties(by_path: Mapping[str, Any], packed: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for every array that stands at several paths, one of which is compressed."""
    paths_of: dict[int, list[str]] = {}
    for path, value in by_path.items():
        if isinstance(value, jax.Array | np.ndarray) or is_leaf(value):
            paths_of.setdefault(id(value), []).append(path)
    return tuple(
        f"{' and '.join(paths)} are one array: the plan compresses and stores them apart; tie them in the "
        "model if they are to stay one."
        for paths in paths_of.values()
        if len(paths) > 1 and any(path in packed for path in paths)
    )
