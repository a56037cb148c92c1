"""A run that kills itself: `killed_run.py FOLDER EVENT COUNT` dies at the COUNT-th EVENT inside FOLDER.

Events are those of `sys.addaudithook`, raised *before* the file system is touched: os.rename, os.rmdir, ...
or any.
"""

import os
import signal
import sys

import jax
import optax

from efficient.core.transform import chain
from efficient.train import Checkpoints, create, fit, make_step
from tests.train import tiny

STEPS = 40


def run(folder, *, stream=None, every_s=0.0):
    """The whole run, or what is left of it."""
    transform, optimizer = chain(tiny.mask(0, 2), tiny.shift()), optax.adamw(0.05, weight_decay=0.1)
    return fit(
        create(tiny.params(), transform, optimizer, key=jax.random.key(3)),
        make_step(tiny.noisy_loss, optimizer, transform),
        tiny.Stream(length=STEPS) if stream is None else stream,
        every=8,
        checkpoints=None if folder is None else Checkpoints(folder=folder, every_s=every_s, most=1),
        progress=False,
    )


def main(folder, event, count):
    left = int(count)

    def die(name, arguments):
        nonlocal left
        is_it = name == event or (event == "any" and name.startswith("os."))
        if is_it and any(str(a).startswith(folder) for a in arguments):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    run(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
