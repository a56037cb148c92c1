"""Digits: 1,797 handwritten digits of 8x8 pixels, the smallest real images there are; for smoke tests.

Source: Alpaydin and Kaynak, 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository; the copy (UCI's test part) that ships in scikit-learn.
"""

import numpy as np

from efficient.data.dataset import Dataset, from_pool, verified
from efficient.data.packaged import packaged_table
from efficient.data.sampling import STATED

SHA256 = "4d83317687416e8f5632192e2c372a9c576b48a537f44b04025a51bf45ecf7fa"
WAYS = (
    "pip install 'efficient[data]'",
    "pip install scikit-learn (it holds the images in sklearn/datasets/data/digits.csv.gz)",
)


def digits() -> Dataset:
    """1,438 training and 359 test images [8, 8, 1], ten classes.

    A pixel counts the ink of a 4x4 block, v = 0 .. 16; it is stored as x = floor(255 v / 16 + 1/2), from
    which round(16 x / 255) gives v back. The source has no split: this one is stratified, 20 % held out with
    seed 0.

    Raises:
      MissingDataError: scikit-learn is not installed.
      DataFormatError: the installed file is damaged, or is not the known data.
    """
    table, origin = packaged_table(
        "sklearn", "datasets/data/digits.csv.gz", distribution="scikit-learn", shape=(1797, 65), ways=WAYS
    )
    ink, labels = table[:, :-1].astype(np.int32), table[:, -1]
    images = ((255 * ink + 8) // 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    kept, held = STATED.cut(labels)
    dataset = from_pool(
        images,
        labels,
        kept,
        held,
        name="digits",
        classes=tuple("0123456789"),
        source=f"{origin}; ink 0 .. 16 scaled to 0 .. 255; stratified {STATED}",
    )
    return verified(dataset, sha256=SHA256)
