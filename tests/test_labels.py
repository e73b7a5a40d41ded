from hypothesis import given
from hypothesis import strategies as st

from dogbreed.labels import ClassName, parse_class, parse_classes


def test_folder_with_number_is_split() -> None:
    assert parse_class("069.French_bulldog") == ClassName("069", "French_bulldog")
    assert parse_class("1.a.b") == ClassName("1", "a.b")


def test_folder_without_number_is_label_and_name() -> None:
    for folder in ("pug", "St. Bernard", "v1.2", "069.", ".5", "n02085620-Chihuahua", "069"):
        assert parse_class(folder) == ClassName(folder, folder)


@given(st.integers(0, 9999), st.text(min_size=1))
def test_any_name_round_trips(number: int, name: str) -> None:
    assert parse_class(f"{number:03d}.{name}") == ClassName(f"{number:03d}", name)


@given(st.text())
def test_label_and_name_contain_the_whole_folder(folder: str) -> None:
    label, name = parse_class(folder)
    assert folder in (f"{label}.{name}", label)


def test_classes_with_unique_numbers_are_split() -> None:
    assert parse_classes(["1.pug", "02.a.b"]) == [ClassName("1", "pug"), ClassName("02", "a.b")]


@given(st.lists(st.sampled_from(["1.5L", "1.6L", "2.0L", "pug", "003.pug", "3"]), min_size=2, unique=True))
def test_labels_of_classes_are_unique(folders: list[str]) -> None:
    parsed = parse_classes(folders)
    assert len({label for label, _ in parsed}) == len(folders)
    assert parse_classes(["1.5L", "1.6L"]) == [ClassName("1.5L", "1.5L"), ClassName("1.6L", "1.6L")]
