"""What every experiment's tests ask of its tables, figures and claims."""

import dataclasses
import types

from experiments.frame import style


def assert_shown(module, metrics):
    """Tables have rows, figures can be drawn, and every claim can be asked."""
    config = dataclasses.asdict(module.Config.smoke())
    record = types.SimpleNamespace(metrics=metrics, config=config)
    assert all(table.row_count for table in module.tables(record))
    for figure in module.figures(record).values():
        assert style.render(figure, "png")
    assert all(claim.evaluate(metrics).verdict for claim in module.CLAIMS)


def made(metric="accuracy", **arms):
    """Metrics of arms from one value a seed."""
    return {arm: {i: {metric: value} for i, value in enumerate(values)} for arm, values in arms.items()}


def verdict(module, claim, metrics):
    """Whether a claim holds."""
    return {one.id: one for one in module.CLAIMS}[claim].evaluate(metrics).holds
