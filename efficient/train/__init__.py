"""Train: one loop for every experiment.

- `create`, `make_step`, `make_epoch`: a `TrainState`, and the pure jitted functions that advance it;
  `restart` makes an optimizer forget the moments of some weights.
- `fit`: steps over batches, rows of measurements, early stop (`EarlyStop`), logs (`JsonLines`,
  `TensorBoard`) and `Checkpoints`, from which a killed run goes on bit for bit; `Chunks` stacks batches for
  `make_epoch`.
- `evaluate`, `evaluator`: exact means over padded, masked batches.
- `classifier`: loss and scores of a Linen image classifier; `losses` has their parts.
"""

from efficient.train.checkpoint import Checkpoints
from efficient.train.classify import Classifier, classifier
from efficient.train.early_stop import EarlyStop
from efficient.train.evaluate import evaluate, evaluator
from efficient.train.log import JsonLines, TensorBoard
from efficient.train.loop import fit
from efficient.train.restart import restart
from efficient.train.source import Chunks
from efficient.train.step import TrainState, create, make_epoch, make_step

__all__ = [
    "Checkpoints",
    "Chunks",
    "Classifier",
    "EarlyStop",
    "JsonLines",
    "TensorBoard",
    "TrainState",
    "classifier",
    "create",
    "evaluate",
    "evaluator",
    "fit",
    "make_epoch",
    "make_step",
    "restart",
]
