"""A part of a Dataset as grain's loaders read it: by length and index."""

import dataclasses
from typing import SupportsIndex

import numpy as np

from efficient.data.dataset import Dataset


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GrainSource:
    """Random access to one part; satisfies `grain.sources.RandomAccessDataSource` without importing grain."""

    dataset: Dataset
    part: str  # "train" or "test"

    def __post_init__(self) -> None:
        if self.part not in ("train", "test"):
            raise ValueError(f"part must be 'train' or 'test', got {self.part!r}; choose one.")

    def __len__(self) -> int:
        return len(getattr(self.dataset, f"{self.part}_labels"))

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        row = index.__index__()
        return {
            "image": getattr(self.dataset, f"{self.part}_images")[row],
            "label": np.asarray(getattr(self.dataset, f"{self.part}_labels")[row]),
        }


def as_grain_source(dataset: Dataset, *, part: str) -> GrainSource:
    """A source of {"image": uint8 [h, w, c], "label": int32 []} for grain.

    Give it to `grain.MapDataset.source` or to a `grain.DataLoader`.

    Raises:
      ValueError: `part` is neither "train" nor "test".
    """
    return GrainSource(dataset=dataset, part=part)
