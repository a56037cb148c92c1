"""AMC: an agent walks over the groups of a model and learns how many channels each should keep.

    price = macs(found, model.apply, variables, x)
    layers = group_layers(found, model.apply, variables, x)
    walk = amc(price, ranked.sizes, 0.5 * price({}), layers=layers, evaluate=accuracy, key=key)
    best = max(walk, key=lambda one: one.reward)                     # or a loop that shows each, and may stop
    keep = ranked.keep(best.counts)                                  # then fine-tune

At group t, in the order of the program, the agent sees a state of 11 numbers in [0, 1],

    t, n, c, h, w, stride, k, FLOPs[t], reduced, rest, a[t-1]

and answers with a[t], from which the group keeps a fraction least + (1 - least) a[t]. Algorithm 1 keeps every
episode within the budget: the count is limited to the largest with which the groups walked over so far, and
all later ones at their least, can be paid. Each step of an episode is taught with the reward of the end.

Source: He et al., 2018, arXiv:1802.03494, section 3, algorithm 1 and table 1; the agent is
`efficient.search.ddpg`, the least fraction kept that of the authors' code.
*Differs:* a step is a group of `Dependencies`, not a layer; n, c, h, w, stride and k are those of the layer
that takes its channels in (`LayerShape`). The price stands for FLOPs, as a fraction of that of the whole:
FLOPs[t] is what the whole model saves where the group alone is at its least, reduced is what the groups
walked over have saved, rest is what the later ones still can. The limit is found by pricing counts, so that
any price will do; a[t] as it is remembered, and seen by the next step, is within the limit. The first eight
numbers are scaled by the least and the largest of all groups.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32

from efficient.core.layer_shapes import LayerShape
from efficient.core.transform import Key
from efficient.prune.budget import least_counts, nearest_count
from efficient.prune.price import Counts
from efficient.search import ddpg
from efficient.search.walk import known_accuracy, spread, transitions

FEATURES = 11
PAPER = ddpg.DDPG()  # the paper's agent
Reward = Callable[[float, float], float]
"""`(accuracy in [0, 1], price) -> reward`."""


class Episode(NamedTuple):
    """A walk over all groups, and what came of it."""

    counts: Mapping[str, int]  # by name of every group
    price: float  # at most the budget
    accuracy: float  # as `evaluate` says; NaN is rewarded as 0
    reward: float
    actions: tuple[float, ...]  # of each group, within the limit, in [0, 1]
    losses: ddpg.Losses | None  # of the agent's learning after it; None while it warms up


def constrained(accuracy: float, price: float) -> float:
    """-error: the reward of a search under a budget."""
    return accuracy - 1


def guaranteed(accuracy: float, price: float) -> float:
    """-error * log(price): the reward of a search that guards accuracy, without a budget (`math.inf`).

    Raises:
      ValueError: a price of 1 or less, whose logarithm would reward error.
    """
    if not price > 1:
        raise ValueError(f"price must be above 1 for its logarithm, got {price!r}; use a smaller unit.")
    return -(1 - accuracy) * math.log(price)


def amc(
    price: Callable[[Counts], float],
    sizes: Mapping[str, int],
    budget: float,
    *,
    layers: Mapping[str, LayerShape],
    evaluate: Callable[[Counts], float],
    key: Key,
    episodes: int = 400,
    agent: ddpg.DDPG = PAPER,
    reward: Reward = constrained,
    least: float = 0.2,
    multiple: int = 1,
    updates: int = 0,
) -> Iterator[Episode]:
    """Searches how many channels each group keeps: an iterator of episodes, each within the budget.

    Args:
      price: of counts, such as one of `prices`, asked some 5 to 15 times a group and episode: measured times
        want one that remembers. It need not rise with the counts.
      sizes: by name of a group, how many indices it has: `Ranking.sizes`.
      budget: what the model may cost, in the unit of the price; `math.inf` where only the reward counts.
      layers: by name of a group, its layer: `group_layers`.
      evaluate: counts -> accuracy in [0, 1], called once an episode, on data that the test set is no part of.
        A model that stays whole and is masked (`found.masks(ranked.keep(counts))` is data) needs no
        compilation for each.
      key: of all that is drawn.
      episodes: how many, > 0.
      agent: how it is built and taught; the first `agent.warmup` episodes are random, and nothing is learned
        before they are over.
      reward: `constrained`, `guaranteed`, or one of your own.
      least: fraction of each group that always stays, in [0, 1].
      multiple: counts are multiples of it, or the whole group.
      updates: of the agent after each episode; 0 is the paper's, as many as there are groups. Where these are
        few, or episodes are, it learns from more.

    Returns:
      The episodes. Nothing is evaluated before it is asked for.

    Raises:
      ValueError: at once, no groups, an option out of range, a group without a layer, fewer places in the
        replay than groups, or a budget below the price of the least counts; on the way, an accuracy outside
        [0, 1] or a reward that is not finite.

    Example:
      >>> layers = {name: LayerShape(8, 8, 4, 4, 1, 3) for name in "ab"}
      >>> walk = amc(lambda c: c["a"] + c["b"], {"a": 8, "b": 8}, 8, layers=layers, episodes=20,
      ...            evaluate=lambda c: c["a"] / 8, key=jax.random.key(0), agent=ddpg.DDPG(warmup=20))
      >>> max(walk, key=lambda one: one.reward).price <= 8
      True

    Source: module docstring.
    """
    if episodes < 1 or updates < 0:
        raise ValueError(
            f"episodes must be from 1 and updates from 0, got {episodes!r} and {updates!r}; leave them out."
        )
    floor = least_counts(price, sizes, budget, least=least, multiple=multiple)
    if missing := sorted(sizes.keys() - layers.keys()):
        raise ValueError(f"layers must name every group, got none of {missing!r}; see group_layers.")
    if agent.capacity < len(sizes):
        raise ValueError(
            f"agent.capacity must be at least the {len(sizes)} groups, got {agent.capacity!r}; leave it out."
        )
    walk = _Walk(price, sizes, budget, layers, floor, least, multiple)
    return _episodes(walk, agent, evaluate, reward, key, episodes, updates or len(sizes))


class _Walked(NamedTuple):
    """The steps of an episode."""

    counts: dict[str, int]
    price: float
    states: list[Any]
    actions: list[float]


class _Walk:
    """The groups one after the other: what the agent sees, and how far it may go."""

    def __init__(
        self,
        price: Callable[[Counts], float],
        sizes: Mapping[str, int],
        budget: float,
        layers: Mapping[str, LayerShape],
        floor: Mapping[str, int],
        least: float,
        multiple: int,
    ) -> None:
        self.price, self.sizes, self.budget, self.floor = price, dict(sizes), budget, dict(floor)
        self.least, self.multiple = least, multiple
        self.whole = price(self.sizes)
        alone = [self._saved({**self.sizes, name: floor[name]}) for name in sizes]
        rows = [(t, *layers[name], saved) for t, (name, saved) in enumerate(zip(sizes, alone, strict=True))]
        self.fixed = spread(np.array(rows, float))  # [groups, 8]

    def _saved(self, counts: Counts) -> float:
        """What these counts save, as a fraction of the price of the whole."""
        return _fraction(self.whole - self.price(counts), self.whole)

    def run(self, answer: Callable[[Float32[np.ndarray, "features"], int], float]) -> _Walked:
        """One walk; `answer` gives the action of a state and step."""
        counts, states, actions = dict(self.floor), [], []
        cost, last = self.price(counts), 1.0
        for t, name in enumerate(self.sizes):
            states.append(self.state(t, counts, last))
            wanted = self.least + (1 - self.least) * answer(states[-1], t)
            most = nearest_count(self.sizes[name], wanted, multiple=self.multiple)
            counts, cost = self.limited(counts, name, most, cost)
            last = self.action(name, counts[name], wanted)
            actions.append(last)
        return _Walked(counts, cost, states, actions)

    def state(self, t: int, counts: Counts, last: float) -> Float32[np.ndarray, "features"]:
        """What the agent sees before it acts on group t; `counts` have it and later ones at their least."""
        names = list(self.sizes)
        whole = {**counts, **{later: self.sizes[later] for later in names[t:]}}
        after = {**whole, **{later: counts[later] for later in names[t + 1 :]}}
        reduced = self._saved(whole)
        rest = self._saved(after) - reduced
        return np.clip(np.nan_to_num([*self.fixed[t], reduced, rest, last]), 0, 1).astype(np.float32)

    def limited(self, counts: Counts, name: str, most: int, cost: float) -> tuple[dict[str, int], float]:
        """Algorithm 1: the largest count of a group, up to `most`, that leaves the later ones affordable.

        `counts`, with this group and all later ones at their least, cost `cost`, which the budget allows.
        """
        best = dict(counts)
        choices = [c for c in self._choices(name) if best[name] < c <= most]
        low, high = 0, len(choices) - 1
        middle = high  # most often all of it can be paid
        while low <= high:
            tried = {**counts, name: choices[middle]}
            if (asked := self.price(tried)) <= self.budget:
                best, cost, low = tried, asked, middle + 1
            else:
                high = middle - 1
            middle = (low + high) // 2
        return best, cost

    def _choices(self, name: str) -> list[int]:
        """The counts that a group may have, the least first."""
        size = self.sizes[name]
        return [*range(self.multiple, size, self.multiple), size]

    def action(self, name: str, count: int, wanted: float) -> float:
        """The action behind a fraction, or behind the count that it was limited to."""
        if nearest_count(self.sizes[name], wanted, multiple=self.multiple) != count:
            wanted = count / self.sizes[name]
        return min(max((wanted - self.least) / (1 - self.least), 0.0), 1.0) if self.least < 1 else 1.0


def _episodes(
    walk: _Walk,
    config: ddpg.DDPG,
    evaluate: Callable[[Counts], float],
    reward: Reward,
    key: Key,
    episodes: int,
    updates: int,
) -> Iterator[Episode]:
    """The search itself."""
    agent = ddpg.start(config, features=FEATURES, key=jax.random.fold_in(key, 0))
    for episode in range(episodes):
        acting, learning = jax.random.split(jax.random.fold_in(key, episode + 1))
        keys = jax.random.split(acting, len(walk.sizes))
        walked = walk.run(lambda state, t: float(ddpg.act(config, agent, state, key=keys[t])[0]))  # noqa: B023
        accuracy = float(evaluate(walked.counts))
        value = _rewarded(reward, accuracy, walked.price)
        agent, losses = ddpg.remember(config, agent, transitions(walked.states, walked.actions, value)), None
        if episode >= config.warmup:
            agent, losses = ddpg.learn(config, agent, key=learning, updates=updates)
        yield Episode(walked.counts, walked.price, accuracy, value, tuple(walked.actions), losses)


def _rewarded(reward: Reward, accuracy: float, price: float) -> float:
    """A finite reward; NaN is no accuracy at all.

    Raises:
      ValueError: an accuracy outside [0, 1], or a reward that is not finite.
    """
    known = known_accuracy(accuracy)
    value = float(reward(known, price))
    if not math.isfinite(value):
        raise ValueError(
            f"reward must be finite, got {value!r} for accuracy {known!r} and price {price!r}; an agent "
            "learns nothing from it."
        )
    return value


def _fraction(part: float, whole: float) -> float:
    """Part over whole; 0 of nothing, and where either is not finite."""
    return part / whole if whole and math.isfinite(part) and math.isfinite(whole) else 0.0
