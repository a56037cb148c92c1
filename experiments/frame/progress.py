"""What a `run` tells its caller while it works; silent by default, so that `run` stays a pure function."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from experiments.frame.claim import ARM

T = TypeVar("T")


class Progress:
    """The silent one: computes every part, draws nothing. The app's draws bars and keeps finished parts."""

    def part(self, name: str, compute: Callable[[], Any]) -> Any:
        """`compute()`, a JSON value; the app takes it from a killed run's finished parts where it can."""
        return compute()

    def track(self, items: Iterable[T], label: str, *, total: int | None = None) -> Iterable[T]:
        """`items`, counted on a bar; `total` where they have no length."""
        return items


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuses seeds that would measure nothing, or one thing twice.

    Raises:
        ValueError: no seeds, or one twice.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(
            f"seeds must be at least one and different, got {tuple(seeds)!r}; e.g. --seeds=0,1,2."
        )


def by_seed(
    one: Callable[[int, Progress], Mapping[str, Mapping[str, Any]]],
    seeds: Sequence[int],
    *,
    progress: Progress | None = None,
) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Runs `one(seed, progress) -> {arm: {metric: value}}` for each seed; a killed run keeps finished seeds.

    Args:
        one: the experiment at one seed, all arms. For finer parts it calls `progress.part` itself.
        seeds: at least one, all different.
        progress: None is silent.

    Returns:
        The metrics, arm -> seed -> metric -> value.

    Raises:
        ValueError: no seeds, or one twice; after the first seed, an arm that no record can name.
    """
    check_seeds(seeds)
    watch = progress or Progress()
    metrics: dict[str, dict[int, Mapping[str, Any]]] = {}
    for seed in watch.track(seeds, "seeds"):
        for arm, values in watch.part(f"seed-{seed}", functools.partial(one, seed, watch)).items():
            if not ARM.fullmatch(arm):
                raise ValueError(f"arms must be named by letters, digits and _.+-, got {arm!r}; rename it.")
            metrics.setdefault(arm, {})[seed] = values
    return metrics
