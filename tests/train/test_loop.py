import jax
import numpy as np
import optax
import pytest

from efficient.core.transform import identity
from efficient.train import Chunks, EarlyStop, JsonLines, create, fit, make_epoch, make_step
from tests.train import tiny

OPTIMIZER = optax.sgd(0.05)
STEP = make_step(tiny.loss, OPTIMIZER, identity())


def begin():
    return create(tiny.params(), identity(), OPTIMIZER, key=jax.random.key(0))


def losses(count):
    """The loss of each step, one by one."""
    state, found = begin(), []
    for batch in tiny.Stream(length=count):
        state, metrics = STEP(state, batch)
        found.append(float(metrics["loss"]))
    return found


def test_rows_are_means_since_the_last_row_and_the_end_has_one():
    scores = iter([0.5, 0.75, 1.0])
    state, history = fit(
        begin(), STEP, tiny.Stream(length=7), every=3, evaluate=lambda s: {"score": next(scores)}
    )
    one_by_one = losses(7)
    assert [row["step"] for row in history] == [3, 6, 7]
    assert [row["eval/score"] for row in history] == [0.5, 0.75, 1.0]
    means = [np.mean(one_by_one[0:3]), np.mean(one_by_one[3:6]), one_by_one[6]]
    np.testing.assert_allclose([row["train/loss"] for row in history], means, rtol=1e-12)
    assert set(history[0]) == {"step", "train/loss", "train/error", "eval/score"}
    assert int(state.step) == 7


def test_the_state_that_is_given_stays_the_callers():
    state = begin()
    first, _ = fit(state, STEP, tiny.Stream(length=2))
    second, _ = fit(state, STEP, tiny.Stream(length=2))
    np.testing.assert_array_equal(first.params["w"], second.params["w"])
    assert int(state.step) == 0


def test_steps_end_a_run_and_take_no_batch_more():
    taken = []

    class Endless:
        def __iter__(self):
            for batch in tiny.Stream(length=10**9):
                taken.append(batch.resume_at.index)
                yield batch

    state, history = fit(begin(), STEP, Endless(), steps=4, every=3)
    assert taken == [1, 2, 3, 4]
    assert [row["step"] for row in history] == [3, 4]
    more, history = fit(state, STEP, Endless(), steps=6, every=3)  # counts the steps before
    assert (int(more.step), len(taken), [row["step"] for row in history]) == (6, 6, [6])
    same, history = fit(more, STEP, Endless(), steps=6)
    assert (int(same.step), len(taken), history) == (6, 6, [])


def test_no_batches_give_no_row():
    state, history = fit(begin(), STEP, tiny.Stream(length=0))
    assert (int(state.step), history) == (0, [])


def test_chunks_are_the_same_steps_in_fewer_calls():
    chunks = Chunks(batches=tiny.Stream(length=8), size=3)
    state, history = fit(begin(), make_epoch(STEP), chunks, every=4)
    plain, _ = fit(begin(), STEP, tiny.Stream(length=8))
    np.testing.assert_allclose(state.params["w"], plain.params["w"], rtol=1e-5)
    assert [row["step"] for row in history] == [6, 8]  # 4 falls inside the second chunk; the last is of two
    one_by_one = losses(8)
    means = [np.mean(one_by_one[:6]), np.mean(one_by_one[6:])]
    np.testing.assert_allclose([row["train/loss"] for row in history], means, rtol=1e-5)


def test_early_stop_ends_a_run():
    scores = iter([1.0, 3.0, 2.0, 2.5, 9.0])
    stop = EarlyStop(metric="eval/score", patience=2, better="higher")
    state, history = fit(
        begin(),
        STEP,
        tiny.Stream(length=20),
        every=2,
        early_stop=stop,
        evaluate=lambda s: {"score": next(scores)},
    )
    assert [row["eval/score"] for row in history] == [1.0, 3.0, 2.0, 2.5]
    assert int(state.step) == 8


def test_every_row_reaches_every_logger(tmp_path):
    rows = []
    _, history = fit(
        begin(),
        STEP,
        tiny.Stream(length=4),
        every=2,
        loggers=(rows.append, JsonLines(tmp_path / "log" / "run.jsonl")),
    )
    assert rows == history
    assert len((tmp_path / "log" / "run.jsonl").read_text().splitlines()) == 2


def test_nothing_is_drawn_where_there_is_no_terminal(capfd):
    fit(begin(), STEP, tiny.Stream(length=3))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("wanted", [True, False])
def test_a_bar_is_drawn_on_a_terminal_unless_told_not_to(wanted, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    fit(begin(), STEP, tiny.Stream(length=3), progress=wanted)
    assert ("3/?" in capfd.readouterr().err) == wanted


def test_out_of_range():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0; count optimizer steps"):
        fit(begin(), STEP, tiny.Stream(length=1), steps=0)
    with pytest.raises(ValueError, match="every must be at least 1, got 0; count optimizer steps"):
        fit(begin(), STEP, tiny.Stream(length=1), every=0)
