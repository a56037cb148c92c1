"""Scores: what a weight is worth, one a file."""

from efficient.prune.scores.absolute import absolute
from efficient.prune.scores.activation_norm import activation_norm
from efficient.prune.scores.grasp import grasp
from efficient.prune.scores.group_norm import group_norm
from efficient.prune.scores.movement import movement
from efficient.prune.scores.optimal_brain_damage import optimal_brain_damage
from efficient.prune.scores.optimal_brain_surgeon import optimal_brain_surgeon
from efficient.prune.scores.random import random
from efficient.prune.scores.slimming import slimming
from efficient.prune.scores.snip import snip
from efficient.prune.scores.taylor import taylor
from efficient.prune.scores.wanda import wanda
from efficient.prune.scores.zero_fraction import zero_fraction

__all__ = [
    "absolute",
    "activation_norm",
    "grasp",
    "group_norm",
    "movement",
    "optimal_brain_damage",
    "optimal_brain_surgeon",
    "random",
    "slimming",
    "snip",
    "taylor",
    "wanda",
    "zero_fraction",
]
