"""Axes: products and sums of atoms, cut and made the same."""

import pytest

from efficient.core.axes import Atom, Spaces, Sum, atom, size_of


@pytest.fixture
def spaces():
    return Spaces()


def sizes(axis):
    """A solved axis as sizes: an atom is a number, a sum is a list of its parts."""
    return tuple(f.size if isinstance(f, Atom) else [sizes(part) for part in f.parts] for f in axis)


def test_an_atom_becomes_what_it_meets(spaces):
    one, product = atom(12), (*atom(3), *atom(4))
    spaces.unify(one, product, "here")
    assert spaces.resolve(one) == product


def test_products_are_split_until_they_match(spaces):
    # 24 = 4 x 6 = 2 x 12: the 4 is 2 x 2, the 12 is 2 x 6.
    one, other = (*atom(4), *atom(6)), (*atom(2), *atom(12))
    spaces.unify(one, other, "here")
    assert sizes(spaces.resolve(one)) == sizes(spaces.resolve(other)) == (2, 2, 6)
    assert spaces.resolve(one) == spaces.resolve(other)


def test_what_cannot_be_split_is_locked(spaces):
    one, other = (*atom(4), *atom(6)), (*atom(6), *atom(4))
    spaces.unify(one, other, "at 'add'")
    for axis in (one, other):
        assert all("cut in two ways at 'add'" in spaces.why_locked(a) for a in spaces.atoms(axis))


def test_sums_are_cut_where_the_other_is(spaces):
    # [5 + 3] and [2 + 6]: cut at 2 and 5 into 2, 3, 3.
    one, other = (Sum((atom(5), atom(3))),), (Sum((atom(2), atom(6))),)
    spaces.unify(one, other, "here")
    assert sizes(spaces.resolve(one)) == sizes(spaces.resolve(other)) == ([(2,), (3,), (3,)],)
    assert list(spaces.atoms(one)) == list(spaces.atoms(other))


def test_a_sum_may_stand_inside_a_product(spaces):
    # Places x (channels of two branches), flattened: what a dense layer after a concatenation sees.
    flat, places = atom(4 * 8), atom(4)
    joined = (*places, Sum((atom(5), atom(3))))
    spaces.unify(flat, joined, "here")
    assert sizes(spaces.resolve(flat)) == (4, [(5,), (3,)])


def test_cut_of_an_atom_a_product_and_a_sum(spaces):
    whole = atom(6)
    first, second = spaces.cut(whole, [2, 6])
    assert (sizes(first), sizes(second)) == ((2,), (4,))
    assert sizes(spaces.resolve(whole)) == ([(2,), (4,)],)
    product = (*atom(3), *atom(4))
    head, tail = spaces.cut(product, [4, 12])
    assert (size_of(head), size_of(tail)) == (4, 8)
    assert spaces.cut((*atom(3), *atom(4)), [5, 12]) is None


def test_regroup_splits_and_merges(spaces):
    # [6, 4] as [3, 8]: 6 = 3 x 2 and 2 x 4 is the last.
    six, four = atom(6), atom(4)
    first, last = spaces.regroup((six, four), (3, 8), "here")
    assert (sizes(first), sizes(last)) == ((3,), (2, 4))
    assert spaces.resolve(six) == (first[0], last[0])


def test_regroup_that_cuts_through_an_axis_locks_it(spaces):
    made = spaces.regroup((atom(6), atom(4)), (4, 6), "at 'reshape'")
    assert all(spaces.is_locked(axis) for axis in made)


def test_a_lock_follows_what_is_bound(spaces):
    one, other = atom(6), (*atom(2), *atom(3))
    spaces.lock(one, "the first reason")
    spaces.unify(one, other, "here")
    spaces.lock(other, "a later one")
    assert [spaces.why_locked(a) for a in spaces.atoms(other)] == ["the first reason"] * 2


def test_a_part_of_itself_is_locked(spaces):
    # [a, b] and [b, a] of sizes 2 and 2 are one; then a x b meets a again through a sum.
    a, b = atom(2), atom(2)
    spaces.unify((Sum((a, b)),), (*atom(2), *b), "at 'add'")
    assert spaces.is_locked(b)


def test_axes_of_other_sizes_never_meet(spaces):
    with pytest.raises(AssertionError, match="axes of 2 and 3 indices meet here"):
        spaces.unify(atom(2), atom(3), "here")
