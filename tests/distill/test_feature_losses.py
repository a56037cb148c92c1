"""Losses between features, relations and outputs: by hand, and what must not change them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import at
from efficient.distill import (
    angle_relation,
    attention,
    attention_map,
    augmented,
    boundaries,
    bounded_boxes,
    box_edges,
    by_layers,
    channelwise,
    contrastive,
    contrastive_memory,
    distance_relation,
    drawn_width,
    flow,
    flow_matrix,
    forward_kl,
    hint,
    masked_subnet,
    memory,
    own_teacher,
    pairwise,
    pixelwise,
    regressor,
    remembered,
    selectivity,
    slopes,
    subnet,
    weighted_classes,
)
from efficient.quantize import linear

KEYS = jax.random.split(jax.random.key(0), 4)
A, B = (jax.random.normal(k, (3, 4, 4, 6)) for k in KEYS[:2])
ROWS, OTHERS = (jax.random.normal(k, (7, 5)) for k in KEYS[2:])
TURN = jnp.linalg.qr(jax.random.normal(KEYS[0], (5, 5)))[0]
OF_MAPS = {
    "hint": hint,
    "attention": attention,
    "linear": functools.partial(selectivity, kernel="linear"),
    "polynomial": selectivity,
    "gaussian": functools.partial(selectivity, kernel="gaussian"),
    "flow": lambda a, b: flow((a, a * 2), (b, b * 2)),
    "pixelwise": pixelwise,
    "channelwise": channelwise,
    "pairwise": pairwise,
}
OF_ROWS = {"distance": distance_relation, "angle": angle_relation}


@pytest.mark.parametrize("loss", OF_MAPS.values(), ids=OF_MAPS)
def test_of_maps_it_is_zero_at_the_teacher_and_teaches_the_student_alone(loss):
    assert float(loss(A, A)) == pytest.approx(0, abs=1e-6)
    assert float(loss(A, B)) > 1e-4
    of_student, of_teacher = jax.grad(loss, (0, 1))(A, B)
    assert float(jnp.max(jnp.abs(of_student))) > 0
    assert not np.asarray(of_teacher).any()
    assert np.isfinite(np.asarray(jax.grad(loss)(jnp.zeros_like(A), B))).all()


@pytest.mark.parametrize("loss", OF_ROWS.values(), ids=OF_ROWS)
def test_relations_do_not_see_turns_shifts_and_scales(loss):
    moved = 3 * ROWS @ TURN + 1.5
    assert float(loss(ROWS, moved)) == pytest.approx(0, abs=1e-6)
    assert float(loss(ROWS, OTHERS)) > 1e-3
    assert np.isfinite(np.asarray(jax.grad(loss)(jnp.zeros_like(ROWS), OTHERS))).all()


def test_attention_by_hand():
    # Two places, one channel: |3|^2, |1|^2 of length sqrt(82); scaling features changes nothing.
    map_ = attention_map(jnp.array([[[3.0], [-1.0]]]))
    np.testing.assert_allclose(map_, np.array([[9, 1]]) / np.sqrt(82), rtol=1e-6)
    assert float(attention(A, 5 * A)) == pytest.approx(0, abs=1e-12)


def test_flow_by_hand():
    # Places 2: G = (1*3 + 2*4) / 2.
    got = flow_matrix(jnp.array([[[1.0], [2.0]]]), jnp.array([[[3.0], [4.0]]]))
    np.testing.assert_allclose(got, [[[5.5]]])


def test_selectivity_does_not_see_the_order_of_channels():
    assert float(selectivity(A, A[..., ::-1])) == pytest.approx(0, abs=1e-6)


def test_distances_by_hand():
    # Points 0, 1, 3: distances 1, 3, 2 of mean 2; the others twice that. Angles on a line are 1 or -1.
    line, twice = jnp.array([[0.0], [1.0], [3.0]]), jnp.array([[0.0], [2.0], [6.0]])
    assert float(distance_relation(line, twice)) == 0
    bent = jnp.array(
        [[0.0], [2.0], [3.0]]
    )  # 2, 3, 1 of mean 2: differences 1/2, 0, 1/2 of six pairs, over nine
    assert float(distance_relation(line, bent)) == pytest.approx(4 * 0.125 / 9, rel=1e-5)


def test_a_regressor_maps_channels():
    params = regressor(KEYS[0], 6, 9)
    teacher = A @ jnp.ones((6, 9))
    assert float(hint(A, teacher, params)) > 0
    exact = {"kernel": jnp.ones((6, 9)), "bias": jnp.zeros(9)}
    assert float(hint(A, teacher, exact)) == pytest.approx(0, abs=1e-9)


def test_boundaries_by_hand():
    # Teacher active: (1 - 0.5)^2; not: (1 + 0.5)^2; beyond the margin nothing.
    student, teacher = jnp.array([[0.5, 0.5, -3.0]]), jnp.array([[1.0, -1.0, -1.0]])
    assert float(boundaries(student, teacher)) == pytest.approx((0.25 + 2.25) / 3)


def test_contrastive_prefers_its_own_example():
    own, other = contrastive(ROWS, ROWS), contrastive(ROWS, ROWS[::-1])
    assert float(own) < float(other)
    # One example apart from all: T -> 0 makes it zero; by hand of two orthogonal rows: log(1 + e^(-1 / T)).
    eye = jnp.eye(2)
    assert float(contrastive(eye, eye, temperature=1.0)) == pytest.approx(np.log(1 + np.exp(-1)), rel=1e-5)


def test_contrast_with_a_memory_learns():
    bank = memory(KEYS[0], 20, 5)
    indices, negatives = jnp.arange(7), 7 + jnp.arange(7 * 4).reshape(7, 4) % 13
    loss = lambda s: contrastive_memory(s, indices, bank, negatives, temperature=0.5)  # noqa: E731
    assert float(loss(bank.teacher[:7])) < float(loss(ROWS))
    new = remembered(bank, indices, ROWS, OTHERS)
    np.testing.assert_allclose(jnp.linalg.norm(new.teacher, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(new.teacher[7:], bank.teacher[7:])


def test_slopes_of_linear_networks_are_their_weights():
    teacher = lambda x: x @ jnp.eye(5)  # noqa: E731
    assert float(slopes(lambda x: x @ (3 * jnp.eye(5)), teacher, ROWS)) == pytest.approx(0, abs=1e-6)
    assert float(slopes(lambda x: x @ (-jnp.eye(5)), teacher, ROWS)) == pytest.approx(4, rel=1e-5)


def test_own_teacher_by_hand():
    labels, exits = jnp.arange(5), [ROWS[:5], OTHERS[:5]]
    cross = [float(-jnp.mean(jnp.diagonal(jax.nn.log_softmax(z)))) for z in exits]
    want = cross[1] + 0.7 * cross[0] + 0.3 * float(forward_kl(*exits, temperature=3.0))
    assert float(own_teacher(exits, labels)) == pytest.approx(want, rel=1e-5)
    with_hints = own_teacher(exits, labels, features=[ROWS, OTHERS], regressors=[None])
    assert float(with_hints) == pytest.approx(want + 0.03 * float(hint(ROWS, OTHERS)), rel=1e-5)


def test_boxes_are_pulled_only_where_the_teacher_is_better():
    truth, student = jnp.zeros((2, 4)), jnp.array([[1.0, 0, 0, 0], [0.1, 0, 0, 0]])
    teacher = jnp.array([[0.5, 0, 0, 0], [0.5, 0, 0, 0]])
    assert float(bounded_boxes(student, teacher, truth)) == pytest.approx(0.5)  # of two boxes the first
    mask = jnp.array([False, True])
    assert float(bounded_boxes(student.at[0].set(jnp.nan), teacher, truth, mask=mask)) == 0


def test_weighted_classes_by_hand():
    # p = q = (1/2, 1/2), the background weighs 3: log 2 (3/2 + 1/2).
    got = weighted_classes(jnp.zeros((1, 2)), jnp.zeros((1, 2)), weight=3.0)
    assert float(got) == pytest.approx(2 * np.log(2), rel=1e-6)


def test_box_edges_are_masked_by_box():
    student, teacher = (jax.random.normal(k, (3, 4, 8)) for k in KEYS[:2])
    mask = jnp.array([True, False, True])
    got = box_edges(student, teacher, mask=mask)
    np.testing.assert_allclose(got, forward_kl(student[mask], teacher[mask], temperature=10.0), rtol=1e-5)


class TestNetAug:
    PARAMS = {"a": {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.arange(4.0)}}

    def test_a_subnet_is_a_slice_through_which_gradients_flow(self):
        shapes = {
            "a": {
                "kernel": jax.ShapeDtypeStruct((3, 2), jnp.float32),
                "bias": jax.ShapeDtypeStruct((2,), jnp.float32),
            }
        }
        small = subnet(self.PARAMS, shapes)
        np.testing.assert_array_equal(small["a"]["kernel"], [[0, 1], [4, 5], [8, 9]])
        grad = jax.grad(lambda p: jnp.sum(subnet(p, shapes)["a"]["kernel"]))(self.PARAMS)["a"]["kernel"]
        np.testing.assert_array_equal(grad, [[1, 1, 0, 0]] * 3)

    def test_masked_it_computes_the_same(self):
        keeps = {"a/kernel": (3, 2), "a/bias": (2,)}
        x = jnp.ones((1, 3))
        run = jax.jit(lambda counts: x @ masked_subnet(self.PARAMS, counts)["a"]["kernel"])
        np.testing.assert_array_equal(run(keeps)[:, 2:], 0)
        np.testing.assert_array_equal(run(keeps)[:, :2], (x @ self.PARAMS["a"]["kernel"])[:, :2])

    def test_widths_are_drawn_above_the_tiny_one(self):
        drawn = {drawn_width(jax.random.key(i), 4, 12) for i in range(40)}
        assert drawn == {6, 8, 10, 12}
        assert augmented(2.0, 3.0, alpha=0.5) == 3.5


def test_layers_are_mapped_by_name():
    student, teacher = {"a": ROWS, "b": A}, {"x": OTHERS, "y": B}
    got = by_layers(
        lambda s, t: jnp.mean((s - t) ** 2), {"a": "x", "b": "y"}, student, teacher, weights={"b": 2.0}
    )
    np.testing.assert_allclose(got, jnp.mean((ROWS - OTHERS) ** 2) + 2 * jnp.mean((A - B) ** 2), rtol=1e-6)


def test_a_quantized_student_is_taught_through_its_rounding():
    """Quantization-aware distillation needs no loss of its own: the student is what its transform shows."""
    params = {"kernel": jax.random.normal(KEYS[0], (5, 4))}
    t = at("kernel", linear(3))
    state = t.init(params)
    teacher = ROWS @ params["kernel"]
    loss = lambda p: forward_kl(ROWS @ t.apply(p, state)["kernel"], teacher)  # noqa: E731
    start = float(loss(params))
    for _ in range(40):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
    assert float(loss(params)) < start


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hint(A, ROWS), "student features must have the shape"),
        (lambda: regressor(KEYS[0], 0, 3), "channels must be from 1, got 0"),
        (lambda: attention(A, B[:, :2]), "student features must have the places"),
        (lambda: selectivity(A, B, kernel="cubic"), "kernel must be linear, polynomial or gaussian"),
        (lambda: selectivity(A, B[:2]), "student features must have the places"),
        (lambda: flow_matrix(A, B[:, :2]), "both layers must have the same places"),
        (lambda: flow((A, A), (B, B[..., :2])), "flow matrices must have one shape"),
        (lambda: distance_relation(ROWS[:1], OTHERS[:1]), "must embed the same 2 examples or more"),
        (lambda: angle_relation(ROWS, OTHERS[:3]), "must embed the same 3 examples or more"),
        (lambda: memory(KEYS[0], 1, 3), "examples must be from 2"),
        (lambda: boundaries(ROWS, OTHERS, margin=0.0), "margin must be above 0"),
        (lambda: boundaries(ROWS, OTHERS[:3]), "student features must have the shape"),
        (lambda: own_teacher([ROWS], jnp.arange(7)), "exits must be two or more"),
        (lambda: own_teacher([ROWS, ROWS], jnp.arange(7), features=[A]), "features must be one an exit"),
        (lambda: weighted_classes(ROWS, OTHERS, background=9), "background a class below 5"),
        (lambda: bounded_boxes(ROWS[:, :4], ROWS[:, :4], ROWS[:, :4], margin=-1.0), "margin must be from 0"),
        (lambda: pairwise(A, B[:, :2]), "student features must have the places"),
        (lambda: subnet({"a": ROWS}, {"b": ROWS}), "shapes must have the paths of params"),
        (lambda: subnet({"a": ROWS}, {"a": jnp.ones((9, 9))}), "'a' must be a part of"),
        (lambda: masked_subnet({"a": ROWS}, {"b": (1, 1)}), "keeps must name paths of params"),
        (lambda: drawn_width(KEYS[0], 4, 4), "least must be below most"),
        (lambda: augmented(1.0, 1.0, alpha=-1.0), "alpha must be from 0"),
        (lambda: by_layers(hint, {}, {}, {}), "layers must map one path or more"),
        (lambda: by_layers(hint, {"a": "x"}, {"a": A}, {"y": A}), "layers must name teacher features"),
        (lambda: by_layers(hint, {"a": "x"}, {"a": A}, {"x": A}, weights={"b": 1}), "weights must be of"),
    ],
)  # fmt: skip
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
