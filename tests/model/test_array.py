"""Sets of array indices, against sets of numbers."""

import pytest
from hypothesis import given, strategies as st

from gpud.model.array import INDEX_MAX, IndexSet, index_set, parse_array, parse_indices

spans = st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(1, 4))
sets = st.one_of(
    st.sets(st.integers(0, 60)).map(index_set),
    spans.map(lambda span: parse_indices(f"{span[0]}-{span[0] + span[1]}:{span[2]}")),
)


@given(sets, sets)
def test_sets_of_ranges_reckon_as_sets_of_numbers_do(one, other):
    for made, meant in (
        (one - other, set(one) - set(other)),
        (one & other, set(one) & set(other)),
        (one | other, set(one) | set(other)),
    ):
        assert list(made) == sorted(meant)
        assert len(made) == len(meant)
        assert [index for index in range(100) if index in made] == sorted(meant)


@given(sets)
def test_what_is_written_is_read_back(indices):
    if indices:
        assert list(parse_indices(str(indices))) == list(indices)


def test_a_million_indices_cost_what_their_ranges_cost():
    everything = IndexSet((range(INDEX_MAX),))
    rest = everything - IndexSet((range(5, INDEX_MAX - 5),))

    assert str(rest) == f"0-4,{INDEX_MAX - 5}-{INDEX_MAX - 1}"
    assert str(index_set(range(0, 1000, 2))) == "0-998:2"
    threes, sevens = (IndexSet((range(1, INDEX_MAX, step),)) for step in (3, 7))
    assert (threes & sevens).ranges == (range(1, INDEX_MAX, 21),)


def test_ranges_interleave_only_where_an_array_is_made_of_them():
    assert list(parse_array("0-8:2,1-9:2")[0]) == list(range(10))
    with pytest.raises(ValueError, match="overlap"):
        parse_array("0-99998:2,1-99999:2")
    with pytest.raises(ValueError, match="overlap"):
        parse_indices("0-8:2,1-9:2")


@pytest.mark.parametrize(
    "text", ["", "a", "3-1", "1-2:0", "1:2", "1,1", "0-9,5", "-1", "1-", f"{INDEX_MAX + 1}", "0%0"]
)
def test_what_is_no_array_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_array(text)
