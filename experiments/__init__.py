"""Experiments: one file a paper's claim, run by `python -m experiments.<name>`.

To add one, write `experiments/<name>.py`, whose docstring states the claim, command, cost and what was seen:

    from experiments.frame import Claim, Outcome, by_seed, column, main

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:                                     # every field becomes a flag, its comment the help
        steps: int = 1000                             # optimizer steps, > 0
        seeds: tuple[int, ...] = (0, 1, 2)            # one whole run each
        @classmethod
        def smoke(cls): return cls(steps=2)           # the same path at tiny sizes

    def run(config, *, progress=None):                # pure: no flags, files or clock
        def one(seed, progress): return {"baseline": {"accuracy": 0.9}, "pruned": {"accuracy": 0.9}}
        return by_seed(one, config.seeds, progress=progress)          # {arm: {seed: {metric: value}}}

    CLAIMS = (Claim(id=..., paper=..., metric=..., published=99.0, rule="a sentence", check=function), ...)

    if __name__ == "__main__":
        main()

`tables(record)` (rich tables) and `figures(record)` (`{name: Figure}`) are optional. Every experiment has the
flags `--smoke`, `--record=PATH` and `--fresh`. A run at the default config writes the committed record
`experiments/records/<name>.json` and its figures; then `python -m experiments.ledger` rewrites the ledger.
"""
