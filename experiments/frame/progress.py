"""What a `run` tells its caller while it works; silent by default, so that `run` stays a pure function."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class Progress:
    """The silent one: computes every part and draws nothing. The app's draws bars and keeps finished parts."""

    def part(self, name: str, compute: Callable[[], Any]) -> Any:
        """`compute()`, a JSON value; the app takes it from a killed run's finished parts where it can."""
        return compute()

    def track(self, items: Iterable[T], label: str, *, total: int | None = None) -> Iterable[T]:
        """`items`, counted on a bar; `total` where they have no length."""
        return items


def by_seed(
    one: Callable[[int, Progress], Mapping[str, Mapping[str, Any]]],
    seeds: Sequence[int],
    *,
    progress: Progress | None = None,
) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Runs `one(seed, progress) -> {arm: {metric: value}}` for each seed, each a part that a killed run keeps.

    Args:
        one: the experiment at one seed, all arms. For finer parts it calls `progress.part` itself.
        seeds: at least one, all different.
        progress: None is silent.

    Returns:
        The metrics, arm -> seed -> metric -> value.

    Raises:
        ValueError: no seeds, or one twice.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be different and at least one, got {tuple(seeds)!r}; write e.g. --seeds=0,1,2.")
    watch = progress or Progress()
    metrics: dict[str, dict[int, Mapping[str, Any]]] = {}
    for seed in watch.track(seeds, "seeds"):
        for arm, values in watch.part(f"seed-{seed}", lambda seed=seed: one(seed, watch)).items():
            metrics.setdefault(arm, {})[seed] = values
    return metrics
