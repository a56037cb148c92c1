"""DDPG: an actor that answers a state with numbers in [0, 1], taught by a critic that values them.

    agent = start(config, features=11, key=key)
    for episode in ...:
        action = act(config, agent, state, key=key)            # explores
        agent = remember(config, agent, transitions)           # of one whole episode
        agent, losses = learn(config, agent, key=key, updates=8)
    action = policy(config, agent, state)                      # does not explore

With actor mu, critic Q, their slow copies mu' and Q', reward r, baseline b and discount g, a batch of
transitions (s, a, r, s') gives the goal and the two losses

    y = r - b + g Q'(s', mu'(s'))        (y = r - b after the last step)
    critic: mean (y - Q(s, a))^2         actor: -mean Q(s, mu(s))

and every copy w' becomes (1 - tau) w' + tau w.

Source: Lillicrap et al., 2016, arXiv:1509.02971, algorithm 1 and section 7; He et al., 2018,
arXiv:1802.03494, section 3.2, for noise, baseline, undiscounted rewards and sizes.
*Differs:* noise is a normal cut off at 0 and 1 (as in the second paper), not an Ornstein-Uhlenbeck process;
no batch normalization and no weight decay; warm-up actions are even in [0, 1].
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from efficient.core.transform import Key
from efficient.search.replay import Replay, Transition, drawn, empty, stored


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPG:
    """How an agent is built and taught."""

    hidden: tuple[int, ...] = (300, 300)  # units of each layer of actor and critic
    tau: float = 0.01  # share of the weights that a slow copy takes at an update, in (0, 1]
    discount: float = 1.0  # of the value of the next state, in [0, 1]
    batch: int = 64  # transitions an update, > 0
    actor_rate: float = 1e-4  # learning rate of Adam, > 0
    critic_rate: float = 1e-3  # the same of the critic
    noise: float = 0.5  # standard deviation of exploration, > 0
    noise_decay: float = 0.95  # factor of it an episode after warm-up, in (0, 1]
    warmup: int = 100  # episodes of random actions, >= 0
    capacity: int = 2000  # transitions remembered, > 0
    baseline_decay: float = 0.95  # share that the moving average of rewards keeps an episode, in [0, 1)

    def __post_init__(self) -> None:
        if not self.hidden or any(units < 1 for units in self.hidden):
            raise ValueError(f"hidden must be sizes from 1, got {self.hidden!r}; the papers' is (300, 300).")
        for name in ("batch", "actor_rate", "critic_rate", "noise", "capacity"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)!r}; leave it out.")
        for name in ("tau", "noise_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)!r}; leave it out.")
        if not 0 <= self.discount <= 1 or not 0 <= self.baseline_decay < 1 or self.warmup < 0:
            raise ValueError(
                "discount must be in [0, 1], baseline_decay in [0, 1) and warmup from 0, got "
                f"{self.discount!r}, {self.baseline_decay!r} and {self.warmup!r}; leave them out."
            )


class Agent(NamedTuple):
    """All that an agent is: weights, their slow copies, optimizer states, and what it has lived through."""

    actor: Any
    critic: Any
    slow_actor: Any
    slow_critic: Any
    actor_moments: optax.OptState
    critic_moments: optax.OptState
    replay: Replay
    baseline: Float[Array, ""]  # moving average of the mean reward of an episode
    episodes: Int[Array, ""]  # remembered


class Losses(NamedTuple):
    """Means over the updates of one call of `learn`."""

    actor: Float[Array, ""]
    critic: Float[Array, ""]


def _even(scale: float) -> Any:
    """An initialiser: even in [-scale, scale]."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -scale, scale)


_HIDDEN = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # even in +-1/sqrt(fan-in)
_LAST = _even(3e-3)


class _Actor(nn.Module):
    """State -> actions in [0, 1]."""

    hidden: tuple[int, ...]
    actions: int

    @nn.compact
    def __call__(self, state: Float[Array, "*b features"]) -> Float[Array, "*b actions"]:
        x = state
        for units in self.hidden:
            x = nn.relu(nn.Dense(units, kernel_init=_HIDDEN)(x))
        return nn.sigmoid(nn.Dense(self.actions, kernel_init=_LAST, bias_init=_LAST)(x))


class _Critic(nn.Module):
    """State and actions -> value; actions enter at the second layer."""

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(
        self, state: Float[Array, "*b features"], action: Float[Array, "*b actions"]
    ) -> Float[Array, "*b"]:
        x = nn.relu(nn.Dense(self.hidden[0], kernel_init=_HIDDEN)(state))
        x = jnp.concatenate([x, action], -1)
        for units in self.hidden[1:]:
            x = nn.relu(nn.Dense(units, kernel_init=_HIDDEN)(x))
        return nn.Dense(1, kernel_init=_LAST, bias_init=_LAST)(x)[..., 0]


def start(config: DDPG, *, features: int, actions: int = 1, key: Key) -> Agent:
    """An agent that knows nothing.

    Args:
      config: how it is built.
      features: numbers of a state, > 0; keep them in [0, 1].
      actions: numbers of an action, > 0.
      key: of its first weights.

    Raises:
      ValueError: `features` or `actions` is below 1.
    """
    if features < 1 or actions < 1:
        raise ValueError(
            f"features and actions must be from 1, got {features} and {actions}; give the sizes of a state "
            "and of an action."
        )
    actor_key, critic_key = jax.random.split(key)
    state, action = jnp.zeros(features), jnp.zeros(actions)
    actor = _Actor(config.hidden, actions).init(actor_key, state)
    critic = _Critic(config.hidden).init(critic_key, state, action)
    return Agent(
        actor=actor,
        critic=critic,
        slow_actor=actor,
        slow_critic=critic,
        actor_moments=optax.adam(config.actor_rate).init(actor),
        critic_moments=optax.adam(config.critic_rate).init(critic),
        replay=empty(capacity=config.capacity, features=features, actions=actions),
        baseline=jnp.zeros(()),
        episodes=jnp.zeros((), jnp.int32),
    )


@functools.partial(jax.jit, static_argnames="config")
def policy(config: DDPG, agent: Agent, state: Float[Array, "*b features"]) -> Float[Array, "*b actions"]:
    """What the actor holds for best, in [0, 1]."""
    return _acted(config, agent, agent.actor, state)


@functools.partial(jax.jit, static_argnames="config")
def act(
    config: DDPG, agent: Agent, state: Float[Array, "*b features"], *, key: Key
) -> Float[Array, "*b actions"]:
    """An action in [0, 1] that explores: even while warming up, then normal about the actor's, cut off."""
    best = _acted(config, agent, agent.actor, state)
    learned = jnp.maximum(agent.episodes - config.warmup, 0)
    sigma = config.noise * config.noise_decay ** learned.astype(jnp.float32)
    sigma = jnp.maximum(sigma, 1e-6)  # what it decays to, so that nothing is divided by zero
    offset = jax.random.truncated_normal(key, -best / sigma, (1 - best) / sigma)
    explored = jnp.clip(best + sigma * offset, 0, 1)
    return jnp.where(agent.episodes < config.warmup, jax.random.uniform(key, best.shape), explored)


def _acted(config: DDPG, agent: Agent, weights: Any, state: Any) -> Any:
    """The actor's answer under these weights."""
    return _Actor(config.hidden, agent.replay.rows.action.shape[-1]).apply(weights, state)


@functools.partial(jax.jit, static_argnames="config")
def remember(config: DDPG, agent: Agent, episode: Transition) -> Agent:
    """The agent after an episode: its steps stored, the baseline moved to its mean reward.

    Args:
      config: how the agent is taught.
      agent: before.
      episode: its steps along a leading axis, each with the reward that it shall be taught with.

    Raises:
      ValueError: an episode longer than `capacity`.
    """
    mean = jnp.mean(episode.reward)
    moved = config.baseline_decay * agent.baseline + (1 - config.baseline_decay) * mean
    return agent._replace(
        replay=stored(agent.replay, episode),
        baseline=jnp.where(agent.episodes == 0, mean, moved),
        episodes=agent.episodes + 1,
    )


@functools.partial(jax.jit, static_argnames=("config", "updates"))
def learn(config: DDPG, agent: Agent, *, key: Key, updates: int = 1) -> tuple[Agent, Losses]:
    """The agent after so many updates; one that remembers nothing stays as it is.

    Args:
      config: how it is taught.
      agent: before.
      key: of the batches.
      updates: how many, > 0.
    """
    agent, losses = jax.lax.scan(
        lambda held, one: _updated(config, held, one), agent, jax.random.split(key, updates)
    )
    return agent, jax.tree.map(jnp.mean, losses)


def _updated(config: DDPG, agent: Agent, key: Key) -> tuple[Agent, Losses]:
    """One update of both networks, then of their slow copies."""
    rows, critic = drawn(agent.replay, key, batch=config.batch), _Critic(config.hidden)
    knows = (agent.replay.size > 0).astype(jnp.float32)
    answer: Any = _acted(config, agent, agent.slow_actor, rows.next_state)
    future: Any = critic.apply(agent.slow_critic, rows.next_state, answer)
    goal = rows.reward - agent.baseline + jnp.where(rows.is_last, 0, config.discount * future)

    def critic_loss(weights: Any) -> Any:
        value: Any = critic.apply(weights, rows.state, rows.action)
        return knows * jnp.mean(jnp.square(goal - value))

    def actor_loss(weights: Any, judge: Any) -> Any:
        value: Any = critic.apply(judge, rows.state, _acted(config, agent, weights, rows.state))
        return -knows * jnp.mean(value)

    wrong, slope = jax.value_and_grad(critic_loss)(agent.critic)
    step, critic_moments = optax.adam(config.critic_rate).update(slope, agent.critic_moments)
    new_critic = optax.apply_updates(agent.critic, step)
    low, slope = jax.value_and_grad(actor_loss)(agent.actor, new_critic)
    step, actor_moments = optax.adam(config.actor_rate).update(slope, agent.actor_moments)
    new_actor = optax.apply_updates(agent.actor, step)
    after = agent._replace(
        actor=new_actor,
        critic=new_critic,
        slow_actor=optax.incremental_update(new_actor, agent.slow_actor, config.tau),
        slow_critic=optax.incremental_update(new_critic, agent.slow_critic, config.tau),
        actor_moments=actor_moments,
        critic_moments=critic_moments,
    )
    return after, Losses(actor=low, critic=wrong)
