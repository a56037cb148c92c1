import dataclasses
import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from efficient.core.transform import State, identity
from efficient.train import Checkpoints, create
from efficient.train.step import TrainState
from tests.train import killed_run, tiny

ROOT = Path(__file__).resolve().parents[2]


def same_bits(one, other):
    """True where two trees have the same structure and every array the same bits."""
    flat, flat_other = jax.tree.leaves(one), jax.tree.leaves(other)
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False

    def raw(value):
        is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(value) if is_key else value)
        return str(value.dtype), array.shape, array.tobytes()

    return all(raw(a) == raw(b) for a, b in zip(flat, flat_other, strict=True))


def some_state():
    """Every dtype and every awkward value that a state may hold."""
    params = {
        "zeros": jnp.array([-0.0, 0.0, -0.0]),
        "minus_zeros": jnp.full((3,), -0.0),
        "nans": jnp.array([np.nan, np.inf, -np.inf, 1e-45], jnp.float32),
        "bfloat16": jnp.array([1.0, -2.5], jnp.bfloat16),
        "empty": jnp.zeros((0, 4)),
        "scalar": jnp.array(3.0),
    }
    fixed = {
        "bool": jnp.array([True, False]),
        "int4": jnp.array([-8, 7], jnp.int4),
        "uint8": jnp.array([[255]], jnp.uint8),
        "key": jax.random.key(5, impl="rbg"),
    }
    return TrainState(
        params=params,
        model_state={},
        compress=State(train=(), fixed=(fixed, ())),
        opt_state=optax.adam(0.1).init(params),
        step=jnp.array(7, jnp.int32),
        key=jax.random.key(11),
    )


@pytest.fixture(scope="module")
def undisturbed():
    return killed_run.run(None)


@pytest.fixture(scope="module", autouse=True)
def dying(tmp_path_factory):
    """Runs that are killed while the other tests go on, as starting one takes seconds."""
    moments = {"before the second is put in its place": ("os.rename", 6)}
    moments["at random"] = ("any", random.SystemRandom().randrange(1, 75))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = {}
    for name, (event, count) in moments.items():
        folder = tmp_path_factory.mktemp("killed")
        command = [sys.executable, "-m", "tests.train.killed_run", str(folder), event, str(count)]
        with (folder.parent / f"{folder.name}.log").open("w") as log:
            started[name] = (
                folder,
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log),
                count,
            )
    yield started
    for _, process, _ in started.values():
        process.kill()
        process.wait()


def test_a_run_that_an_exception_ended_goes_on_where_its_checkpoint_was(tmp_path, undisturbed):
    class BreaksOnce(tiny.Stream):
        def __iter__(self):
            for index, batch in enumerate(super().__iter__()):
                if index == 20:
                    raise OSError("the disk is gone")
                yield batch

    with pytest.raises(OSError, match="the disk"):
        killed_run.run(tmp_path, stream=BreaksOnce(length=killed_run.STEPS))
    assert [path.name for path in tmp_path.iterdir()] == ["16"]
    (tmp_path / "8").mkdir()  # a removal that was cut short, and a checkpoint that was
    (tmp_path / "24.orbax-checkpoint-tmp" / "arrays").mkdir(parents=True)
    taken = []

    class Watched(tiny.Stream):
        def __iter__(self):
            for batch in super().__iter__():
                taken.append(batch.resume_at.index)
                yield batch

    state, history = killed_run.run(tmp_path, stream=Watched(length=killed_run.STEPS))
    assert taken == list(range(17, 41))  # rows at 8 and 16 had a checkpoint each
    assert same_bits(state, undisturbed[0])
    assert history == undisturbed[1]
    assert [path.name for path in tmp_path.iterdir()] == ["40"]  # nothing unfinished is left behind
    again, _ = killed_run.run(tmp_path, stream=Watched(length=killed_run.STEPS))
    assert taken == list(range(17, 41))  # a run that has ended takes no batch
    assert same_bits(again, state)


def test_checkpoints_wait_but_the_last_step_is_kept(tmp_path):
    killed_run.run(tmp_path, every_s=3600.0)
    assert [path.name for path in tmp_path.iterdir()] == ["40"]


def test_every_bit_comes_back(tmp_path):
    state = some_state()
    rows = [{"step": 7, "train/loss": 0.1 + 0.2, "eval/accuracy": float("nan")}]
    checkpoints = Checkpoints(folder=tmp_path / "new" / "folder")
    assert checkpoints.restore(state) is None
    checkpoints.save(state, position=(2, 5), history=rows)
    like = jax.tree.map(
        lambda v: v if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else jnp.ones_like(v), state
    )
    kept = checkpoints.restore(like)
    assert same_bits(kept.state, state)
    assert not same_bits(kept.state, like)
    assert kept.position == (2, 5)
    assert repr(kept.history) == repr(rows)
    assert [v.weak_type for v in jax.tree.leaves(kept.state.params)] == [False] * 6


def test_a_sharded_state_comes_back_sharded(tmp_path):
    mesh = jax.make_mesh((2,), ("d",), devices=jax.devices()[:2])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    state = create({"w": jnp.arange(4.0)}, identity(), optax.sgd(0.1), key=jax.random.key(0))
    state = dataclasses.replace(state, params=jax.device_put(state.params, sharding))
    checkpoints = Checkpoints(folder=tmp_path)
    checkpoints.save(state, position=(), history=[])
    restored = checkpoints.restore(state).state
    chex.assert_trees_all_equal(restored.params, state.params)
    assert restored.params["w"].sharding == sharding


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    state = create(tiny.params(), identity(), optax.adam(0.1), key=jax.random.key(0))
    Checkpoints(folder=folder).save(state, position=(1,), history=[{"step": 0}])
    return folder, state


def test_a_checkpoint_of_another_run_is_refused(saved):
    folder, state = saved
    other = dataclasses.replace(state, params={**state.params, "w": jnp.zeros((2, 2))})
    with pytest.raises(
        ValueError,
        match=r"0 must be a checkpoint of this run, whose arrays go \['params/w', 'float32', "
        r"\[2, 2\]\], got \['params/w', 'float32', \[3\]\]; use another folder",
    ):
        Checkpoints(folder=folder).restore(other)
    other = dataclasses.replace(state, key=())
    with pytest.raises(ValueError, match=r"this run, which has \d+ arrays, got \d+; use another folder"):
        Checkpoints(folder=folder).restore(other)


@pytest.mark.parametrize(
    "damage",
    [
        lambda facts: "{",
        lambda facts: json.dumps([]),
        lambda facts: json.dumps({**facts, "more": 1}),
        lambda facts: json.dumps({**facts, "position": 3}),
        lambda facts: json.dumps({**facts, "position": [1.5]}),
        lambda facts: json.dumps({**facts, "history": [{"step": "x"}]}),
    ],
)
def test_damaged_facts_are_refused(saved, damage):
    folder, state = saved
    place = folder / "0" / "facts" / "metadata"
    whole = place.read_text()
    place.write_text(damage(json.loads(whole)))
    try:
        with pytest.raises(
            ValueError, match=r"0 must be a whole checkpoint, got \w+: .*; remove it, and the run goes"
        ):
            Checkpoints(folder=folder).restore(state)
    finally:
        place.write_text(whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_arrays_are_refused(saved):
    folder, state = saved
    for path in (folder / "0" / "arrays").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(
        ValueError, match=r"(?s)0 must be a whole checkpoint, got \w+: .*; remove it, and the run goes"
    ):
        Checkpoints(folder=folder).restore(state)
    time.sleep(0.2)  # orbax leaves reads behind whose event loop is closed: let them end, and complain, here
    gc.collect()


def test_out_of_range():
    with pytest.raises(ValueError, match="every_s must be at least 0, got -1; 0 keeps one at every row"):
        Checkpoints(folder="x", every_s=-1)
    with pytest.raises(ValueError, match="most must be at least 1, got 0; 2 also keep the one before"):
        Checkpoints(folder="x", most=0)


@pytest.mark.parametrize("moment", ["before the second is put in its place", "at random"])
def test_a_killed_run_ends_with_the_same_bits(moment, dying, undisturbed):
    folder, process, count = dying[moment]
    assert process.wait(timeout=120) == -signal.SIGKILL, (folder.parent / f"{folder.name}.log").read_text()
    kept = {path.name for path in folder.iterdir() if path.name.isdigit()}
    assert kept == {"8"} or moment == "at random"
    state, history = killed_run.run(folder)
    assert same_bits(state, undisturbed[0]), f"killed at event {count}, with {kept}"
    assert history == undisturbed[1]
    assert [path.name for path in folder.iterdir()] == ["40"]
