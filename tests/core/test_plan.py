import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from efficient.adapt import lora
from efficient.core.leaf import Leaf, is_leaf, leaf, static
from efficient.core.measure import Race, Timing
from efficient.core.paths import flatten
from efficient.core.per_leaf import per_leaf
from efficient.core.plan import Plan, Rule
from efficient.core.report import Report, Size
from efficient.core.transform import State, Transform, chain
from efficient.core.words import as_text
from efficient.factorize import low_rank
from efficient.prune import magnitude
from efficient.quantize import linear


@leaf
class Half(Leaf):
    """A weight in bfloat16, read back after needless work."""

    values: Any
    work: int = static(default=0)
    out_dtype: Any = static(default=jnp.dtype("float32"))

    @property
    def shape(self):
        return tuple(self.values.shape)

    @property
    def dtype(self):
        return self.out_dtype

    def dense(self):
        value = self.values.astype(self.out_dtype)
        return jax.lax.fori_loop(0, self.work, lambda _, v: jnp.cos(v) * 1.5, value) if self.work else value


def half(*, work: int = 0, refuses: str = "") -> Transform:
    """Matrices in bfloat16."""

    def init(value, *, path, stats, key):
        if value.ndim < 2 or path == refuses:
            raise ValueError(f"value must be a matrix, got {value.ndim} axes.")
        return State((), jnp.zeros(()) if stats is None else stats)

    def pack(value, state):
        return Half(values=value.astype(jnp.bfloat16), work=work)

    apply = lambda value, state: value.astype(jnp.bfloat16).astype(value.dtype)  # noqa: E731
    return per_leaf(init=init, apply=apply, pack=pack)


def params() -> dict[str, Any]:
    layer = {"kernel": jnp.arange(12.0).reshape(4, 3), "bias": jnp.ones(3)}
    head = {"kernel": jnp.arange(6.0).reshape(3, 2), "bias": jnp.ones(2)}
    return {"body": layer, "head": head, "step": jnp.int32(0)}


def model(p, x):
    hidden = jnp.tanh(x @ p["body"]["kernel"] + p["body"]["bias"][None])
    return hidden @ p["head"]["kernel"] + p["head"]["bias"][None]


def test_coverage_and_bytes_of_a_small_plan():
    compiled = Plan(
        [Rule("**/kernel", half(), exclude="head/**"), Rule("body/*", half(), exclude="**/kernel")]
    )
    with pytest.raises(ValueError):
        compiled.compile(params())  # the bias is no matrix
    plan = Plan([Rule("**/kernel", half(), exclude="head/**"), Rule("**/kernel", linear(8))])
    compiled = plan.compile(jax.eval_shape(params))
    found = {
        row.path: (row.status, row.rule, row.reason, row.dense_bytes, row.packed_bytes)
        for row in compiled.coverage
    }
    assert found == {
        "body/bias": ("skipped", "", "no rule", 12, 12),
        "body/kernel": ("matched", "rules[0]", "", 48, 24),  # 12 weights of 4 bytes, then of 2
        "head/bias": ("skipped", "", "no rule", 8, 8),
        "head/kernel": ("matched", "rules[1]", "", 24, 14),  # 6 of 4; 6 of 1 and a scale of 4 for 2 outputs
        "step": ("skipped", "", "not floating", 4, 4),
    }  # fmt: skip
    assert (compiled.dense_bytes, compiled.packed_bytes, compiled.notes) == (96, 62, ())
    assert [row.array for row in compiled.coverage][-2:] == ["float32[3, 2]", "int32[]"]


def test_the_transform_does_what_the_table_says():
    plan = Plan([Rule("body/*", linear(8), exclude="**/bias"), Rule("head/kernel", lora(1, alpha=1.0))])
    compiled = plan.compile(params())
    t = compiled.transform
    state = t.init(params(), key=jax.random.key(0))
    assert jax.tree.structure(t.update(state, params(), grads=params(), step=0)) == jax.tree.structure(state)
    packed = t.pack(params(), state)
    by_path = flatten(packed)[0]
    assert {p for p, v in by_path.items() if is_leaf(v)} == {"body/kernel", "head/kernel"}
    assert {r.path: r.packed_bytes for r in compiled.coverage} == {
        p: v.nbytes for p, v in by_path.items()
    }  # planned is stored
    applied = flatten(t.apply(params(), state))[0]
    assert applied["step"].dtype == jnp.int32
    np.testing.assert_array_equal(applied["head/bias"], params()["head"]["bias"])


def test_update_gives_each_rule_its_own_gradients():
    def keeps(scale):
        return per_leaf(
            init=lambda value, *, path, stats, key: State((), jnp.zeros_like(value)),
            apply=lambda value, state: value * scale,
            update=lambda state, value, *, grad, step: State((), grad),
        )

    t = Plan([Rule("body/kernel", keeps(2.0)), Rule("head/kernel", keeps(3.0))]).compile(params()).transform
    grads = jax.tree.map(lambda v: v + 1, params())
    state = t.update(t.init(params()), params(), grads=grads, step=0)
    np.testing.assert_array_equal(state.fixed[0]["body/kernel"], grads["body"]["kernel"])
    np.testing.assert_array_equal(state.fixed[1]["head/kernel"], grads["head"]["kernel"])


def test_a_global_transform_sees_all_values_of_its_rule_at_once():
    compiled = Plan([Rule("**/kernel", magnitude(0.5, scope="global"))]).compile(params())
    weights = compiled.transform.apply(params(), compiled.transform.init(params()))
    kept = {name: int(jnp.sum(weights[name]["kernel"] != 0)) for name in ("body", "head")}
    assert kept == {
        "body": 8,
        "head": 1,
    }  # of 0..11 and 0..5 the nine largest: 4..11 of the first, 5 of the last


def test_stacked_rules_treat_each_layer_by_itself():
    layers = {"layers": {"kernel": jnp.stack([jnp.ones((4, 3)), 100 * jnp.arange(12.0).reshape(4, 3)])}}
    rule = Rule("**/kernel", chain(magnitude(0.5), linear(8)), stacked=True)
    compiled = Plan([rule]).compile(layers)
    packed = compiled.transform.pack(layers, compiled.transform.init(layers))
    assert packed["layers"]["kernel"].scale.shape == (2, 1, 3)
    assert int(jnp.sum(packed["layers"]["kernel"].dense()[0] != 0)) == 6  # half of each layer stays
    assert compiled.packed_bytes == 24 + 2 * 3 * 4  # a byte a weight; a scale a layer and output
    with pytest.raises(
        ValueError, match=r"got 2 refused.*(\n.*){2}stacked values must share their first axis"
    ):
        Plan([Rule(("a", "b"), half(), stacked=True)]).compile(
            {"a": jnp.ones((2, 3, 3)), "b": jnp.ones((4, 3, 3))}
        )


def test_stats_reach_the_rule_that_they_are_of():
    stats = {"body/kernel": jnp.ones(()), "elsewhere": jnp.ones(7)}
    t = Plan([Rule("body/kernel", half())]).compile(params(), stats=jax.eval_shape(lambda: stats)).transform
    assert t.init(params(), stats=stats).fixed == ({"body/kernel": 1.0},)


def test_default_takes_what_the_rules_leave():
    compiled = Plan([Rule("**/kernel", half())], default=magnitude(0.5)).compile(params())
    rules = {row.path: row.rule for row in compiled.coverage}
    assert rules == {
        "body/bias": "default", "body/kernel": "rules[0]", "head/bias": "default", "head/kernel": "rules[0]",
        "step": "",
    }  # fmt: skip
    assert Plan([Rule("**", half())], default=half(work=1)).compile({"a": jnp.ones((2, 2))}).packed_bytes == 8


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([Rule("**/kernels", half())],
         r"rules\[0\]: pattern must match at least one path, got '\*\*/kernels' .*mean 'body/kernel'"),
        ([Rule("head/kernel", half(), exclude="head/**")],
         r"rules\[0\]: pattern must match .*'head/kernel' without 'head/\*\*'"),
        ([Rule("**/kernel", half()), Rule("head/kernel", half())],
         r"rules\[1\] must match a value that no earlier rule takes, got 'head/kernel', whose matches "
         r"rules\[0\] takes \(head/kernel\); put it first, or drop it\."),
        ([Rule("step", half())],
         r"rules\[0\] must match a floating value, got 'step' that matches step \(int32\[\]\); drop"),
    ],
)  # fmt: skip
def test_a_rule_that_takes_nothing_is_an_error(rules, message):
    with pytest.raises(ValueError, match=message):
        Plan(rules).compile(jax.eval_shape(params))


def test_refusals_are_raised_together_or_skipped():
    plan = Plan([Rule("body/*", half()), Rule("head/*", half(refuses="head/kernel"))])
    with pytest.raises(ValueError) as caught:
        plan.compile(params())
    assert str(caught.value) == (
        "transforms must accept the values of their rules, got 3 refused; exclude them, or pass "
        'on_refusal="skip":\n'
        "  body/bias: value must be a matrix, got 1 axes.\n"
        "  head/bias: value must be a matrix, got 1 axes.\n"
        "  head/kernel: value must be a matrix, got 2 axes."
    )
    compiled = plan.compile(params(), on_refusal="skip")
    assert [row.path for row in compiled.coverage if row.status == "matched"] == ["body/kernel"]
    refused = next(row for row in compiled.coverage if row.path == "head/kernel")
    assert (refused.status, refused.reason) == ("refused", "value must be a matrix, got 2 axes.")
    assert refused.packed_bytes == refused.dense_bytes
    packed = compiled.transform.pack(params(), compiled.transform.init(params()))
    assert [is_leaf(packed[name]["kernel"]) for name in ("body", "head")] == [True, False]


def test_a_transform_that_breaks_its_contract_is_refused():
    wider = per_leaf(
        init=lambda value, *, path, stats, key: State(), apply=lambda v, s: jnp.concatenate([v, v])
    )
    with pytest.raises(
        ValueError, match=r"transform must keep 'body/kernel' float32\[4, 3\], got float32\[8, 3\]"
    ):
        Plan([Rule("body/kernel", wider)]).compile(params())


def test_other_errors_of_a_transform_name_the_rule():
    broken = per_leaf(init=lambda value, *, path, stats, key: 1 / 0, apply=lambda v, s: v)
    with pytest.raises(ZeroDivisionError) as caught:
        Plan([Rule("body/kernel", broken)]).compile(params())
    assert caught.value.__notes__[-1] == "while rules[0] was tried on the shapes of 1 values"


def test_tied_weights_are_warned_about():
    shared = jnp.ones((4, 4))
    tree = {"embed": shared, "head": shared, "other": jnp.ones((4, 4))}
    message = "embed and head are one array: the plan compresses and stores them apart; tie them in the model"
    with pytest.warns(UserWarning, match=message):
        compiled = Plan([Rule("embed", half())]).compile(tree)
    assert len(compiled.notes) == 1
    assert message in str(compiled).replace("\n", " ")
    assert Plan([Rule("other", half())]).compile(tree).notes == ()
    assert Plan([Rule("embed", half())]).compile(jax.eval_shape(lambda: tree)).notes == ()


def test_other_wrong_requests_are_refused():
    with pytest.raises(
        ValueError, match=r"rules must not be empty, got \(\) and no default; give one of the two\."
    ):
        Plan([])
    with pytest.raises(ValueError, match=r"on_refusal must be 'raise' or 'skip', got 'ignore'"):
        Plan([], default=half()).compile(params(), on_refusal="ignore")
    t = Plan([Rule("body/kernel", half())]).compile(params()).transform
    with pytest.raises(
        ValueError, match="params must be those of the plan, got none at 'body/kernel'; compile it"
    ):
        t.init({"head": params()["head"]})


def test_plans_serve_nnx_states_and_packed_trees():
    graph, state = nnx.split(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    first = Plan([Rule("kernel", linear(8))]).compile(state).transform
    packed = first.pack(state, first.init(state))
    second = Plan([Rule("kernel", lora(2, alpha=2.0))]).compile(packed)  # LoRA over int8
    assert {row.path: row.status for row in second.coverage} == {"bias": "skipped", "kernel": "matched"}
    adapted = second.transform.pack(packed, second.transform.init(packed, key=jax.random.key(0)))
    assert second.packed_bytes == sum(v.nbytes for v in flatten(adapted)[0].values())
    report = second.report(
        lambda s, x: nnx.merge(graph, s)(x), packed, second.transform.init(packed, key=jax.random.key(0)),
        jnp.ones((2, 4)), repeats=1,
    )  # fmt: skip
    assert report.dense_bytes == 4 * (12 + 3)


def test_tables_fit_the_terminal():
    long = {"a" * 60 + "[/b]": {"kernel": jnp.ones((2, 2))}, "b": jnp.ones((1, 2, 3, 4, 5, 6))}
    compiled = Plan([Rule("**/kernel", half())], default=half(refuses="b")).compile(long, on_refusal="skip")
    assert max(map(len, str(compiled).splitlines())) <= 100
    text = as_text(compiled, width=80)
    assert max(map(len, text.splitlines())) <= 80
    for word in ("rules[0]", "refused", "1 of 2 matched", "2.9 kB"):
        assert word in text


def test_compiling_200_values_takes_well_under_a_second():
    kernel, bias = jax.ShapeDtypeStruct((64, 32), jnp.float32), jax.ShapeDtypeStruct((32,), jnp.float32)
    tree = {f"layer_{i}": {"kernel": kernel, "bias": bias} for i in range(100)}
    plan = Plan([Rule("**/kernel", linear(8)), Rule("**/bias", linear(8, axis=None))])
    start = time.process_time()
    compiled = plan.compile(tree)
    assert time.process_time() - start < 3  # a bound that holds under the type checks of the tests too
    assert [row.status for row in compiled.coverage] == ["matched"] * 200


def report_of(dense_ms: tuple[float, ...], packed_ms: tuple[float, ...]) -> Report:
    times = Race(first=Timing(samples_ms=dense_ms), second=Timing(samples_ms=packed_ms))
    sizes = (Size(path="a", dense_bytes=400, packed_bytes=100), Size(path="b", dense_bytes=8, packed_bytes=8))
    return Report(
        sizes=sizes, dense_macs=12, packed_macs=6, times=times, arguments="float32[1, 4]", kernels={}
    )


def test_the_verdict_follows_the_quartiles():
    slow, fast = report_of((1.0,) * 4, (2.0,) * 4), report_of((2.0,) * 4, (1.0,) * 4)
    same = report_of((1.0, 2.0), (2.0, 1.0))
    assert [r.slower for r in (slow, fast, same)] == [True, False, False]
    assert slow.verdict == "It got slower: packed takes 2 ms and dense 1 ms at float32[1, 4]."
    assert fast.verdict == "It got faster: packed takes 1 ms and dense 2 ms at float32[1, 4]."
    assert same.verdict.startswith("No difference beyond the noise: packed takes 1.5 ms")
    text = str(slow)
    assert max(map(len, text.splitlines())) <= 100
    for word in (
        "400 bytes",
        "4.00x",
        "1 of the same size",
        "408 bytes",
        "108 bytes",
        slow.verdict,
        "packed 6",
    ):
        assert word in text


def test_a_report_measures_what_was_packed():
    plan = Plan([Rule("**/kernel", half(work=20_000))])
    compiled = plan.compile(params())
    report = compiled.report(model, params(), compiled.transform.init(params()), jnp.ones((2, 4)), repeats=5)
    assert report.slower  # 20,000 cosines a weight
    assert report.verdict.startswith("It got slower: packed takes")
    assert report.arguments == "float32[2, 4]"
    assert (
        (report.dense_bytes, report.packed_bytes) == (compiled.dense_bytes, compiled.packed_bytes) == (96, 60)
    )
    assert report.dense_macs == report.packed_macs == 2 * (4 * 3 + 3 * 2)
    assert report.times.first.n == 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.dense_macs = 0  # type: ignore[misc]
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        compiled.report(model, params(), compiled.transform.init(params()), jnp.ones((2, 4)), repeats=0)


def test_macs_of_a_factored_weight_are_those_of_its_factors():
    tree = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(8, 8)), jnp.float32)}
    compiled = Plan([Rule("kernel", low_rank(2))]).compile(tree)
    report = compiled.report(
        lambda p, x: x @ p["kernel"], tree, compiled.transform.init(tree), jnp.ones((3, 8)), repeats=1
    )
    assert (report.dense_macs, report.packed_macs) == (3 * 8 * 8, 3 * (8 * 2 + 2 * 8))


def test_statistics_are_no_parameters():
    """Neither a rule for everything nor the default touches running means and variances."""
    params = {"params": {"kernel": jnp.ones((4, 3))}, "batch_stats": {"mean": jnp.ones(3)}}
    halve = per_leaf(init=lambda v, *, path, stats, key: State(), apply=lambda v, state: v / 2)
    for plan in (Plan([Rule("**", halve)]), Plan([], default=halve)):
        compiled = plan.compile(params)
        reasons = {row.path: row.reason for row in compiled.coverage}
        assert reasons == {"params/kernel": "", "batch_stats/mean": "a statistic, no parameter"}
        out = compiled.transform.apply(params, compiled.transform.init(params))
        assert out["batch_stats"]["mean"] is params["batch_stats"]["mean"]
        assert float(out["params"]["kernel"][0, 0]) == 0.5


def test_the_table_says_what_each_rule_does():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    compiled = Plan([Rule("a", linear(4))], default=magnitude(0.5)).compile(params)
    assert compiled.rules == {"rules[0]": "'a': linear(4)", "default": "magnitude(0.5)"}
    assert "rules[0]: 'a': linear(4)\ndefault: magnitude(0.5)\n" in str(compiled)


def test_many_refusals_are_told_briefly():
    params = {name: jnp.ones(2) for name in "abcde"}
    with pytest.raises(ValueError, match="got 5 refused") as error:
        Plan([Rule("*", half())]).compile(params)
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    assert lines[-1] == "  and d, e"
