"""DDPG: its parts by hand, and problems whose best policy is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.search import DDPG, Transition, act, learn, policy, remember, start
from efficient.search.replay import drawn, empty, stored

KEY = jax.random.key(0)
UPDATES = 16  # after an episode: the critic must be ahead of the actor, or the actor saturates
SMALL = DDPG(hidden=(32, 32), actor_rate=3e-4, critic_rate=1e-2, warmup=30, noise_decay=0.95, capacity=300)


def rows(reward, features=2, actions=1):
    reward = jnp.asarray(reward, jnp.float32)
    n = len(reward)
    return Transition(
        jnp.tile(reward[:, None], (1, features)),
        jnp.full((n, actions), 0.5),
        reward,
        jnp.zeros((n, features)),
        jnp.ones(n, bool),
    )


# ---- replay


def test_the_newest_replaces_the_oldest():
    replay = empty(capacity=3, features=2, actions=1)
    assert int(replay.size) == 0
    replay = stored(replay, rows([1.0, 2.0]))
    assert (int(replay.size), replay.rows.reward.tolist()) == (2, [1, 2, 0])
    replay = stored(replay, rows([3.0, 4.0]))
    assert (int(replay.size), replay.rows.reward.tolist()) == (3, [4, 2, 3])
    assert replay.rows.state[:, 0].tolist() == [4, 2, 3]


def test_what_is_drawn_was_stored():
    replay = stored(empty(capacity=50, features=2, actions=1), rows([1.0, 2.0]))
    found = drawn(replay, KEY, batch=64)
    assert set(found.reward.tolist()) == {1.0, 2.0}  # each missing with a chance of 2^-64
    assert drawn(empty(capacity=2, features=2, actions=1), KEY, batch=2).reward.tolist() == [0, 0]


def test_an_episode_longer_than_the_replay_is_refused():
    with pytest.raises(ValueError, match="steps must fit the 2 places of the replay, got 3; raise"):
        stored(empty(capacity=2, features=2, actions=1), rows([1.0, 2.0, 3.0]))


# ---- one agent


def test_the_baseline_is_a_moving_average_by_hand():
    config = DDPG(hidden=(4, 4), baseline_decay=0.75, capacity=8)
    agent = remember(config, start(config, features=2, key=KEY), rows([2.0, 4.0]))
    assert float(agent.baseline) == 3.0  # the first mean
    agent = remember(config, agent, rows([7.0, 7.0]))
    assert float(agent.baseline) == 0.75 * 3 + 0.25 * 7
    assert int(agent.episodes) == 2


def test_an_update_by_hand():
    """One transition that ends: the goal is r - b = 5 - 5 = 0, so the loss is Q(s, a)^2."""
    config = DDPG(hidden=(4, 4), capacity=8, batch=2, tau=0.25)
    agent = start(config, features=2, key=KEY)
    agent = remember(config, agent, rows([5.0]))
    after, losses = learn(config, agent, key=KEY)
    # A goal of 2 = 5 - 3 instead: (2 - Q)^2 = 4 - 4 Q + Q^2 tells Q, and hence the first loss.
    told = learn(config, agent._replace(baseline=jnp.asarray(3.0)), key=KEY)[1].critic
    value = (4 + float(losses.critic) - float(told)) / 4
    assert float(losses.critic) == pytest.approx(value**2, abs=1e-5)
    # The slow copies take a quarter of the weights.
    for slow, before, now in (
        (after.slow_actor, agent.actor, after.actor),
        (after.slow_critic, agent.critic, after.critic),
    ):
        expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, before, now)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), slow, expected)


def test_a_last_step_has_no_future_and_another_has():
    config = DDPG(hidden=(4, 4), capacity=8, batch=2, discount=1.0)
    agent = start(config, features=2, key=KEY)
    heavy = jax.tree.map(lambda w: w + 1.0, agent.slow_critic)  # values every state at more than 1

    def loss(is_last):
        step = rows([0.0])._replace(is_last=jnp.asarray([is_last]))
        return float(learn(config, remember(config, agent, step)._replace(slow_critic=heavy), key=KEY)[1][1])

    assert loss(False) > 1 > 0.01 > loss(True)


def test_an_agent_that_remembers_nothing_stays_as_it_is():
    config = DDPG(hidden=(4, 4), capacity=8, batch=2)
    agent = start(config, features=2, key=KEY)
    after, losses = learn(config, agent, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, (after.actor, after.critic), (agent.actor, agent.critic))
    assert (float(losses.actor), float(losses.critic)) == (0, 0)


def test_actions_are_in_range_random_at_first_and_the_policys_at_last():
    config = DDPG(hidden=(4, 4), warmup=1, noise=0.5, noise_decay=0.5)
    agent = start(config, features=2, actions=3, key=KEY)
    states = jnp.ones((500, 2))
    even = act(config, agent, states, key=KEY)
    assert even.shape == (500, 3)
    assert float(even.std()) == pytest.approx(12**-0.5, abs=0.02)  # even in [0, 1]
    explored = act(config, agent._replace(episodes=jnp.asarray(3)), states, key=KEY)
    assert float(explored.std()) == pytest.approx(0.125, abs=0.01)  # 0.5 * 0.5^2, hardly ever cut off
    for episodes in (1, 3, 10, 1000):
        late = act(config, agent._replace(episodes=jnp.asarray(episodes)), states, key=KEY)
        assert bool(((late >= 0) & (late <= 1)).all())
    np.testing.assert_allclose(late, policy(config, agent, states), atol=1e-4)


# ---- problems


def bandit(key, *, episodes, learns=True):
    """One step; state s in [0, 1], best action 1 - s; mean loss of the policy at the end."""
    agent = start(SMALL, features=1, key=key)
    for i in range(episodes):
        keys = jax.random.split(jax.random.fold_in(key, i), 3)
        state = jax.random.uniform(keys[0], (1,))
        action = act(SMALL, agent, state, key=keys[1])
        reward = -((action[0] - (1 - state[0])) ** 2)
        step = Transition(state[None], action[None], reward[None], state[None], jnp.ones(1, bool))
        agent = remember(SMALL, agent, step)
        if learns and i >= SMALL.warmup:  # as `amc` does: taught by a few steps it saturates
            agent, _ = learn(SMALL, agent, key=keys[2], updates=UPDATES)
    states = jnp.linspace(0, 1, 21)[:, None]
    return float(jnp.mean((policy(SMALL, agent, states) - (1 - states)) ** 2)), agent


def test_a_bandit_is_learned_and_the_same_key_gives_the_same_agent():
    wrong, agent = bandit(KEY, episodes=150)
    # A constant 1/2 is wrong by 0.09 on average, an even draw by 1/6 = 0.17.
    assert wrong < 0.02
    assert bandit(KEY, episodes=3)[0] == bandit(KEY, episodes=3)[0]
    assert bandit(KEY, episodes=3)[0] != bandit(jax.random.key(1), episodes=3)[0]
    assert bandit(KEY, episodes=30, learns=False)[0] == pytest.approx(0.09, abs=0.03)
    assert int(agent.episodes) == 150


WORTH = np.array([0.2, 1.0, 0.6])


def spend(actions):
    """Three steps share 1.5: each takes what it asks for of what is left; worth is concave."""
    left, total = 1.5, 0.0
    for worth, action in zip(WORTH, actions, strict=True):
        taken = min(action, left)
        left -= taken
        total += worth * np.sqrt(taken)
    return total


def walk(key, *, episodes, warmup):
    """The reward of every episode; with a warm-up that never ends, that of random actions."""
    config = DDPG(
        hidden=(32, 32), actor_rate=1e-3, critic_rate=3e-3, warmup=warmup, noise_decay=0.95, capacity=300
    )
    agent, rewards = start(config, features=2, key=key), []
    for episode in range(episodes):
        keys = jax.random.split(jax.random.fold_in(key, episode), 4)
        left, states, actions = 1.5, [], []
        for t in range(3):
            states.append([t / 2, left / 1.5])
            action = float(act(config, agent, jnp.asarray(states[-1]), key=keys[t])[0])
            actions.append(min(action, left))
            left -= actions[-1]
        rewards.append(spend(actions))
        agent = remember(
            config,
            agent,
            Transition(
                jnp.asarray(states),
                jnp.asarray(actions)[:, None],
                jnp.full(3, rewards[-1]),
                jnp.asarray([*states[1:], [0.0, 0.0]]),
                jnp.arange(3) == 2,
            ),
        )
        if episode >= warmup:
            agent, _ = learn(config, agent, key=keys[3], updates=9)
    return np.array(rewards)


def test_a_walk_with_a_budget_and_one_reward_at_its_end_is_learned():
    learned, random = (walk(KEY, episodes=160, warmup=w) for w in (40, 160))
    np.testing.assert_allclose(learned[:40], random[:40])  # both begin at random
    # The best split is in proportion to worth squared where it may be had: 0.04 : 1 : 0.36 of 1.5, at most 1.
    best = max(spend((a, 1.0, 0.5 - a)) for a in np.linspace(0, 0.5, 51))
    assert learned[-30:].mean() > random.mean() + 0.15
    assert learned[-30:].mean() > 0.9 * best
    assert max(learned) <= best + 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": ()}, r"hidden must be sizes from 1, got \(\)"),
        ({"batch": 0}, "batch must be above 0, got 0"),
        ({"actor_rate": 0.0}, "actor_rate must be above 0, got 0.0"),
        ({"critic_rate": -1.0}, "critic_rate must be above 0, got -1.0"),
        ({"noise": 0.0}, "noise must be above 0, got 0.0"),
        ({"capacity": 0}, "capacity must be above 0, got 0"),
        ({"tau": 1.5}, r"tau must be in \(0, 1\], got 1.5"),
        ({"noise_decay": 0.0}, r"noise_decay must be in \(0, 1\], got 0.0"),
        ({"discount": 1.5}, r"discount must be in \[0, 1\].*got 1.5, 0.95 and 100"),
        ({"warmup": -1}, "warmup from 0, got 1.0, 0.95 and -1"),
    ],
)
def test_refusals_of_the_config(options, message):
    with pytest.raises(ValueError, match=message):
        DDPG(**options)


def test_refusals():
    with pytest.raises(ValueError, match="features and actions must be from 1, got 0 and 1"):
        start(DDPG(), features=0, key=KEY)
    config = DDPG(hidden=(4, 4), capacity=1)
    with pytest.raises(ValueError, match="steps must fit the 1 places"):
        remember(config, start(config, features=2, key=KEY), rows([1.0, 2.0]))
