"""Search: agents and populations that look for a good vector in [0, 1]; they know no technique and no model.

`ddpg` learns a policy for a walk of several steps whose reward comes at the end; `evolution` breeds vectors.
"""

from efficient.search.ddpg import DDPG, Agent, Losses, act, learn, policy, remember, start
from efficient.search.evolution import Evolution, Evolved, Trial, evolve
from efficient.search.replay import Replay, Transition, drawn, empty, stored

__all__ = [
    "DDPG",
    "Agent",
    "Evolution",
    "Evolved",
    "Losses",
    "Replay",
    "Transition",
    "Trial",
    "act",
    "drawn",
    "empty",
    "evolve",
    "learn",
    "policy",
    "remember",
    "start",
    "stored",
]
