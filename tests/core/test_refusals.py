"""What a user reads who gives a value of the wrong kind; in its own process: no annotation speaks first."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import jax.numpy as jnp
from efficient import Plan, Rule, at, chain
from efficient.prune import magnitude
from efficient.quantize import codebook, linear

params = {"a": jnp.ones((2, 2))}
compiled = Plan([Rule("a", linear())]).compile(params)
said = []
for call in json.loads(sys.argv[1]):
    try:
        eval(call)
        said.append("nothing")
    except ValueError as error:
        said.append(str(error))
print(json.dumps(said))
"""
CASES = {
    "Rule('a', linear)": "transform must be a Transform, got function; call Rule(where, transform).",
    "Rule(3, linear())": "where must be a pattern, got 3; give a glob such as '**/kernel', a compiled ",
    "Rule('a', linear(), exclude=('b', None))": "exclude must be a pattern, got None; give a glob such as ",
    "Plan(Rule('a', linear()))": "rules must be a sequence of Rule, got Rule(where='a', transform=linear(), ",
    "Plan([('a', linear())])": "rules must be a sequence of Rule, got [('a', linear())]; write Plan([Rule(",
    "Plan([], default='linear')": "transform must be a Transform, got str; call Plan(rules, default=",
    "at(3, linear())": "where must be a pattern, got 3; give a glob such as '**/kernel', a compiled regular ",
    "at('a', linear)": "transform must be a Transform, got function; call at(pattern, transform).",
    "chain(linear(), linear)": "transform must be a Transform, got function; call chain(a, b, ...).",
    "linear().apply(params, None)": "state must be what init of the same transform returns, got NoneType of ",
    "chain(linear()).apply(params, linear().init(params))": "state must be what init of the same transform ",
    "linear().apply(params, chain(linear()).init(params))": "state must be what init of the same transform ",
    "magnitude(0.5).apply(params, linear().init(params))": "state must be what init of the same transform ",
    "magnitude(0.5).apply({'a': jnp.ones((4, 2))}, magnitude(0.5).init({'a': jnp.ones((1, 2))}))": "params "
    "must be those of init, got shape (4, 2) for a mask of (1, 2); make a new state.",
    "compiled.report(lambda p, x: x @ p['a'], params, params, jnp.ones((1, 2)))": "report must be given (fn, "
    "params, state, *args), got function, ..., dict; make the state by compiled.transform.init(params).",
}


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """By call, the message."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(list(CASES))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(CASES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("call", CASES)
def test_the_message_names_rule_value_and_remedy(said, call):
    assert said[call].startswith(CASES[call])
