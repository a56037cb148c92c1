"""Losses between logits: by hand, in their limits, under masks and accumulation, and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.coding import CorruptFileError
from efficient.distill import (
    cached_kl,
    forward_kl,
    jensen_shannon,
    load_top_k,
    mean_over,
    mean_teacher,
    mutual,
    reverse_kl,
    save_top_k,
    skewed_kl,
    squared_logits,
    top_k,
)

KEYS = jax.random.split(jax.random.key(0), 3)
STUDENT, TEACHER = (2 * jax.random.normal(k, (4, 6, 5)) for k in KEYS[:2])
EVERY = {
    "forward": forward_kl,
    "reverse": reverse_kl,
    "jensen_shannon": jensen_shannon,
    "skewed": skewed_kl,
    "squared": squared_logits,
    "top_k": lambda s, t, **kwargs: cached_kl(s, top_k(t, 3), **kwargs),
}


@pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)
class TestEveryLoss:
    def test_it_is_least_at_the_teacher(self, loss):
        assert float(loss(TEACHER, TEACHER)) == pytest.approx(0, abs=1e-4)
        assert float(loss(STUDENT, TEACHER)) > 0.01

    def test_masked_positions_do_not_count_whatever_they_hold(self, loss):
        mask = jax.random.bernoulli(KEYS[2], 0.5, (4, 6))
        spoilt = jnp.where(mask[..., None], STUDENT, jnp.nan)
        value, grad = jax.value_and_grad(lambda s: loss(s, TEACHER, mask=mask))(spoilt)
        rows = STUDENT[mask], TEACHER[mask]
        np.testing.assert_allclose(value, loss(rows[0], rows[1]), rtol=1e-4)
        assert np.isfinite(np.asarray(grad)).all()
        assert np.all(np.asarray(grad)[~np.asarray(mask)] == 0)

    def test_parts_of_uneven_length_add_up_to_the_batch(self, loss):
        """Two microbatches of 9 and 4 tokens, each divided by all 13."""
        mask = (jnp.arange(24) < 13).reshape(4, 6)
        whole = jax.grad(lambda s: loss(s, TEACHER, mask=mask))(STUDENT)
        first = mask & (jnp.arange(24) < 9).reshape(4, 6)

        def part(which):
            return jax.grad(lambda s: loss(s, TEACHER, mask=which, count=13))(STUDENT)

        np.testing.assert_allclose(part(first) + part(mask & ~first), whole, rtol=1e-5, atol=1e-7)


def test_forward_kl_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2).
    teacher, student = jnp.log(jnp.array([[3.0, 1.0]])), jnp.zeros((1, 2))
    want = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert float(forward_kl(student, teacher)) == pytest.approx(want, rel=1e-6)
    assert float(reverse_kl(student, teacher)) == pytest.approx(
        0.5 * np.log(2 / 3) + 0.5 * np.log(2), rel=1e-6
    )


def test_forward_kl_is_torchs():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: no cross-check against it")
    for temperature in (1.0, 4.0):
        q = torch.log_softmax(torch.tensor(np.asarray(STUDENT)) / temperature, -1)
        p = torch.softmax(torch.tensor(np.asarray(TEACHER)) / temperature, -1)
        want = torch.nn.functional.kl_div(q, p, reduction="sum") * temperature**2 / 24
        assert float(forward_kl(STUDENT, TEACHER, temperature=temperature)) == pytest.approx(
            float(want), rel=1e-5
        )


def test_the_gradient_of_one_position_is_t_times_the_difference_of_softmaxes():
    """d/dz of T^2 KL is T (softmax(z_s / T) - softmax(z_t / T))."""
    s, t, temperature = STUDENT[:1, 0], TEACHER[:1, 0], 3.0
    got = jax.grad(lambda z: forward_kl(z, t, temperature=temperature))(s)
    want = temperature * (jax.nn.softmax(s / temperature) - jax.nn.softmax(t / temperature))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_hot_it_is_the_difference_of_logits_and_t_squared_keeps_its_size():
    """As T grows: (z_s - z_t) / classes for centred logits; off by a term in 1 / T."""
    centred = [z - jnp.mean(z, -1, keepdims=True) for z in (STUDENT[:1, 0], TEACHER[:1, 0])]

    def grad(temperature):
        return jax.grad(lambda z: forward_kl(z, centred[1], temperature=temperature))(centred[0])

    want = (centred[0] - centred[1]) / 5
    errors = [float(jnp.max(jnp.abs(grad(t) - want))) for t in (20.0, 200.0)]
    assert errors[1] < 0.05 < 20 * errors[0]
    assert errors[1] < errors[0] / 5
    sizes = [float(jnp.linalg.norm(grad(t))) for t in (20.0, 100.0)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_jensen_shannon_is_symmetric_and_at_most_log_2():
    one, other = jensen_shannon(STUDENT, TEACHER), jensen_shannon(TEACHER, STUDENT)
    assert float(one) == pytest.approx(float(other), rel=1e-5)
    apart = jnp.array([[100.0, 0.0]])
    assert float(jensen_shannon(apart, -apart)) == pytest.approx(np.log(2), rel=1e-5)


def test_skewed_is_forward_at_0_and_finite_where_the_student_gives_nothing():
    np.testing.assert_allclose(
        skewed_kl(STUDENT, TEACHER, alpha=0.0), forward_kl(STUDENT, TEACHER), rtol=1e-6
    )
    apart = jnp.array([[1e4, 0.0]])
    assert float(skewed_kl(apart, -apart, alpha=0.1)) == pytest.approx(np.log(10), rel=1e-4)


class TestCache:
    def test_with_all_classes_it_is_the_whole_loss(self):
        """To float16's 2^-11 of log probabilities of at most 12."""
        got = cached_kl(STUDENT, top_k(TEACHER, 5, temperature=2.0), temperature=2.0)
        np.testing.assert_allclose(
            got, forward_kl(STUDENT, TEACHER, temperature=2.0), rtol=0, atol=4 * 12 * 2**-11
        )

    def test_files_come_back_and_hostile_ones_do_not(self, tmp_path):
        cached = top_k(TEACHER, 2)
        path = tmp_path / "cache.npz"
        save_top_k(path, cached)
        for old, new in zip(cached, load_top_k(path, classes=5), strict=True):
            np.testing.assert_array_equal(old, new)
        with pytest.raises(CorruptFileError, match="must be from 0 to 2, got"):
            load_top_k(path, classes=3)
        with pytest.raises(FileNotFoundError, match="write it first"):
            load_top_k(tmp_path / "none", classes=5)
        whole = path.read_bytes()
        for i in range(
            0, len(whole), 37
        ):  # cut short, or a byte changed: an error or the same shapes, no crash
            (tmp_path / "cut").write_bytes(whole[:i])
            with pytest.raises(CorruptFileError):
                load_top_k(tmp_path / "cut", classes=5)
        np.savez(tmp_path / "wrong.npz", logits=np.zeros((2, 2)), classes=np.zeros(2), rest=np.zeros(2))
        with pytest.raises(CorruptFileError, match="float16 and int32"):
            load_top_k(tmp_path / "wrong.npz", classes=5)
        np.savez(tmp_path / "pickled.npz", logits=np.array([{}]), classes=np.zeros(2), rest=np.zeros(2))
        with pytest.raises(CorruptFileError):
            load_top_k(tmp_path / "pickled.npz", classes=5)


def test_a_mean_of_teachers_is_the_mean_of_their_distributions():
    both = mean_teacher([STUDENT, TEACHER], weights=[1, 3], temperature=2.0)
    got = jax.nn.softmax(both / 2.0)
    want = 0.25 * jax.nn.softmax(STUDENT / 2.0) + 0.75 * jax.nn.softmax(TEACHER / 2.0)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_peers_are_taught_by_all_others_and_not_through_them():
    losses = mutual([STUDENT, TEACHER, STUDENT])
    np.testing.assert_allclose(losses[0], forward_kl(STUDENT, TEACHER) / 2, rtol=1e-5)
    np.testing.assert_allclose(losses[1], forward_kl(TEACHER, STUDENT), rtol=1e-5)
    grad = jax.grad(lambda other: mutual([STUDENT, other])[0])(TEACHER)
    assert not np.asarray(grad).any()


def test_nothing_counts():
    assert float(mean_over(jnp.full(3, jnp.nan), jnp.zeros(3, bool))) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: forward_kl(STUDENT, TEACHER, temperature=0.0), "temperature must be above 0"),
        (lambda: jensen_shannon(STUDENT, TEACHER, beta=1.0), r"beta must be in \(0, 1\)"),
        (lambda: skewed_kl(STUDENT, TEACHER, alpha=1.0), r"alpha must be in \[0, 1\)"),
        (lambda: top_k(TEACHER, 6), "k must be from 1 to the 5 classes, got 6"),
        (lambda: mean_teacher([]), "teachers must be one or more"),
        (lambda: mean_teacher([TEACHER], weights=[0.0]), "weights must be one a teacher"),
        (lambda: mutual([TEACHER]), "peers must be two or more, got 1"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
