from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dogbreed.data.index import stratified_split

KEYS = [f"{number:03d}/{image:03d}.jpg" for number in range(5) for image in range(20)]
LABELS = [number for number in range(5) for _ in range(20)]


def test_each_class_contributes_its_fraction() -> None:
    val, test, train = stratified_split(KEYS, LABELS, [0.1, 0.2], seed=0)
    for positions, count in ((val, 2), (test, 4), (train, 14)):
        assert Counter(LABELS[position] for position in positions) == dict.fromkeys(range(5), count)


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    fractions=st.tuples(st.floats(0, 0.49), st.floats(0, 0.49)),
    seed=st.integers(0, 100),
)
def test_splits_are_disjoint_and_train_keeps_every_class(
    counts: list[int], fractions: tuple[float, float], seed: int
) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    keys = [str(number) for number in range(len(labels))]
    *made, train = stratified_split(keys, labels, fractions, seed)
    assert sorted(position for positions in [*made, train] for position in positions) == list(range(len(labels)))
    assert {labels[position] for position in train} == set(range(len(counts)))
    for positions, fraction in zip(made, fractions, strict=True):
        assert positions or not fraction or max(counts) < 3


def test_split_depends_only_on_seed_and_keys() -> None:
    first = stratified_split(KEYS, LABELS, [0.1, 0.1], seed=0)
    assert first == stratified_split(KEYS, LABELS, [0.1, 0.1], seed=0)
    assert first != stratified_split(KEYS, LABELS, [0.1, 0.1], seed=1)
    backwards = stratified_split(KEYS[::-1], LABELS[::-1], [0.1, 0.1], seed=0)
    assert [{KEYS[::-1][i] for i in positions} for positions in backwards] == [{KEYS[i] for i in p} for p in first]


def test_new_image_moves_few_others() -> None:
    before = {KEYS[i] for i in stratified_split(KEYS, LABELS, [0.1], seed=0)[0]}
    keys, labels = [*KEYS, "000/new.jpg"], [*LABELS, 0]
    after = {keys[i] for i in stratified_split(keys, labels, [0.1], seed=0)[0]}
    assert len(before - after) <= 1
