import rag.errors
from rag.errors import SmallholdError


def tree(root: type[SmallholdError]) -> list[type[SmallholdError]]:
    return [root, *(c for child in root.__subclasses__() for c in tree(child))]


def test_every_error_maps_to_a_status_and_an_exit_code() -> None:
    for error in tree(SmallholdError):
        assert 400 <= error.http_status <= 599, error
        assert error.exit_code in {2, 3}, error
        assert error.code, error


def test_codes_tell_the_errors_apart() -> None:
    codes = [e.code for e in tree(SmallholdError) if e.__module__ == "rag.errors"]
    assert len(codes) == len(set(codes))


def test_the_drawn_tree_names_every_error() -> None:
    drawn = rag.errors.__doc__ or ""
    named = [e.__name__ for e in tree(SmallholdError) if e.__module__ == "rag.errors"]
    assert [name for name in named if name not in drawn] == []


def test_the_hint_stands_on_a_line_of_its_own() -> None:
    assert str(SmallholdError("broken", hint="mend it")) == "broken\nmend it"
    assert str(SmallholdError("broken")) == "broken"
