"""HAQ: an agent walks over the layers of a model and learns how many bits each should have.

    layers = layer_uses(model.apply, variables, x)
    prices = bit_ops(layers, [Widths(w, a) for w in range(2, 9) for a in range(2, 9)])
    walk = haq(prices, 0.5 * total(prices, eight), layers=layers, evaluate=accuracy, key=key)
    best = max(walk, key=lambda one: one.accuracy)                   # or a loop that shows each, and may stop

The agent acts twice a layer, first on its weights, then on its inputs; where prices know one width of either,
that step is left out. It sees a state of 10 numbers in [0, 1],

    k, c_in, c_out, s_kernel, s_stride, s_feat, n_params, i_depthwise, i_weights, a[k-1]

and answers with a, which stands for the width number round(-1/2 + a * count) of those that there are
(equation 2). A choice beyond the budget loses one width a layer, from the last layer to the first, inputs
before weights, again and again, until it fits (section 3.3). Each step of an episode is taught with the
reward 0.1 (accuracy - base) (equation 4).

Source: Wang et al., 2019, arXiv:1811.08886, sections 3.1 to 3.4; the agent is `efficient.search.ddpg`.
*Differs:* one agent and one state for every layer of either kind; the exploration is a normal cut off, as in
AMC; widths that cost the same stay when the choice is brought into the budget, as they would not help.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from efficient.core.layer_shapes import LayerUse
from efficient.core.transform import Key
from efficient.quantize.mixed.prices import Choice, Prices, Widths, total
from efficient.search import ddpg
from efficient.search.walk import known_accuracy, spread, transitions

FEATURES = 10
PAPER = ddpg.DDPG()  # the paper's agent


class Walked(NamedTuple):
    """An episode."""

    choice: Mapping[str, Widths]
    price: float  # at most the budget
    accuracy: float  # as `evaluate` says; NaN is rewarded as 0
    reward: float
    losses: ddpg.Losses | None  # of the agent's learning after it; None while it warms up


def haq(
    prices: Prices,
    budget: float,
    *,
    layers: Iterable[LayerUse],
    evaluate: Callable[[Choice], float],
    key: Key,
    base: float = 1.0,
    episodes: int = 600,
    agent: ddpg.DDPG = PAPER,
    updates: int = 0,
) -> Iterator[Walked]:
    """Searches how many bits each layer gets: an iterator of episodes, each within the budget.

    Args:
      prices: of each layer at every pair of some weight widths and some input widths.
      budget: what the model may cost, in the unit of the prices.
      layers: `layer_uses` of the model, in the order of the walk; of a weight met twice the first.
      evaluate: choice -> accuracy in [0, 1], called once an episode, on data that the test set is no part of;
        the paper trains for an epoch first. With `mixed` and `with_widths` nothing is compiled anew.
      key: of all that is drawn.
      base: the accuracy of the whole model; it moves no optimum.
      episodes: how many, > 0.
      agent: how it is built and taught; the first `agent.warmup` episodes are random.
      updates: of the agent after each episode; 0 is as many as there are steps.

    Raises:
      ValueError: at once, `episodes` or `updates` out of range, a layer without prices, prices that are no
        grid of widths, fewer places in the replay than steps, or a budget below the price of the least
        widths; on the way, an accuracy outside [0, 1].

    Source: module docstring.
    """
    if episodes < 1 or updates < 0:
        raise ValueError(
            f"episodes must be from 1 and updates from 0, got {episodes!r} and {updates!r}; leave them out."
        )
    walk = _Walk(prices, budget, layers)
    if agent.capacity < len(walk.steps):
        raise ValueError(
            f"agent.capacity must be at least the {len(walk.steps)} steps, got {agent.capacity!r}; "
            "leave it out."
        )
    return _episodes(walk, agent, evaluate, key, base, episodes, updates or len(walk.steps))


def widths_of(prices: Prices) -> dict[str, tuple[list[int], list[int]]]:
    """By path, the widths of weights and of inputs that are priced, the least first.

    Raises:
      ValueError: some pair of them is not.
    """
    found = {}
    for path, row in prices.items():
        kinds = sorted({pair.weights for pair in row}), sorted({pair.inputs for pair in row})
        if len(row) != len(kinds[0]) * len(kinds[1]):
            raise ValueError(
                f"prices must be of every weight width with every input width, got {list(row)} for {path!r}."
            )
        found[path] = kinds
    return found


def within(prices: Prices, choice: Choice, budget: float) -> dict[str, Widths]:
    """The choice with widths taken away until it costs at most `budget`, as the module's docstring says.

    Raises:
      ValueError: the least widths of all cost more, or the choice has a pair without a price.
    """
    kinds, kept = widths_of(prices), dict(choice)
    cost = total(prices, kept)
    while cost > budget:
        before = cost
        for path in reversed(list(prices)):
            for kind in ("inputs", "weights"):
                own = kept[path]
                lower = [n for n in kinds[path][kind == "inputs"] if n < getattr(own, kind)]
                if not lower:
                    continue
                tried = own._replace(**{kind: lower[-1]})
                if prices[path][tried] < prices[path][own]:
                    kept[path] = tried
                    cost = total(prices, kept)
                    if cost <= budget:
                        return kept
        if cost == before:
            raise ValueError(f"budget must be at least {cost:g}, the least widths' price, got {budget!r}.")
    return kept


class _Step(NamedTuple):
    """A decision."""

    path: str
    kind: str  # weights, inputs
    options: list[int]


class _Walk:
    """The layers one after the other: what the agent sees, and what its answers come to."""

    def __init__(self, prices: Prices, budget: float, layers: Iterable[LayerUse]) -> None:
        uses: dict[str, LayerUse] = {}
        for use in layers:
            uses.setdefault(use.path, use)
        if missing := [path for path in prices if path not in uses]:
            raise ValueError(f"layers must have every priced path, got none of {missing[0]!r}; pass them.")
        self.prices, self.budget = {path: prices[path] for path in uses if path in prices}, budget
        kinds = widths_of(self.prices)
        self.most = {path: Widths(w[-1], i[-1]) for path, (w, i) in kinds.items()}
        within(self.prices, {path: Widths(w[0], i[0]) for path, (w, i) in kinds.items()}, budget)
        self.steps = [
            _Step(path, kind, options)
            for path, both in kinds.items()
            for kind, options in zip(("weights", "inputs"), both, strict=True)
            if len(options) > 1
        ]
        if not self.steps:
            raise ValueError("prices must leave a choice, got one width for every layer; give more.")
        place = {path: k for k, path in enumerate(self.prices)}
        rows = [_features(place[s.path], uses[s.path], s.kind) for s in self.steps]
        self.fixed = spread(np.array(rows, float))

    def run(self, answer: Callable[[np.ndarray, int], float]) -> tuple[Choice, list[np.ndarray], list[float]]:
        """One walk: the choice within the budget, the states, and the actions as they were answered."""
        choice, states, actions, last = dict(self.most), [], [], 1.0
        for t, step in enumerate(self.steps):
            states.append(np.append(self.fixed[t], last).astype(np.float32))
            last = answer(states[-1], t)
            number = int(np.clip(np.rint(last * len(step.options) - 0.5), 0, len(step.options) - 1))
            choice[step.path] = choice[step.path]._replace(**{step.kind: step.options[number]})
            actions.append(last)
        return within(self.prices, choice, self.budget), states, actions


def _features(place: int, use: LayerUse, kind: str) -> Sequence[float]:
    """What a step looks like, before it is scaled."""
    layer = use.layer
    is_depthwise = use.taken == ()
    return (
        place, layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.height * layer.width,
        float(np.prod(use.shape)), is_depthwise, kind == "weights",
    )  # fmt: skip


def _episodes(
    walk: _Walk,
    config: ddpg.DDPG,
    evaluate: Callable[[Choice], float],
    key: Key,
    base: float,
    episodes: int,
    updates: int,
) -> Iterator[Walked]:
    """The search itself."""
    agent = ddpg.start(config, features=FEATURES, key=jax.random.fold_in(key, 0))
    for episode in range(episodes):
        acting, learning = jax.random.split(jax.random.fold_in(key, episode + 1))
        keys = jax.random.split(acting, len(walk.steps))
        choice, states, actions = walk.run(lambda s, t: float(ddpg.act(config, agent, s, key=keys[t])[0]))  # noqa: B023
        accuracy = float(evaluate(choice))
        value = 0.1 * (known_accuracy(accuracy) - base)
        agent, losses = ddpg.remember(config, agent, transitions(states, actions, value)), None
        if episode >= config.warmup:
            agent, losses = ddpg.learn(config, agent, key=learning, updates=updates)
        yield Walked(choice, total(walk.prices, choice), accuracy, value, losses)
