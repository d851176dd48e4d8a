"""What lrkit refuses, callers can catch as what it is."""

import pytest

import lrkit
from lrkit.errors import FileError, InputError, LrkitError, MissingExtra, StateError, real, whole


@pytest.mark.parametrize("kind", [LrkitError, InputError, ValueError])
def test_a_refused_argument_is_caught_as_what_it_is(kind):
    with pytest.raises(kind, match="did you mean 'cosine'"):
        lrkit.parse("cosin 5")


@pytest.mark.parametrize("kind", [LrkitError, FileError, ValueError])
def test_a_refused_file_is_caught_as_what_it_is(kind):
    with pytest.raises(kind, match="cannot be read"):
        lrkit.read("nothing/here.csv")


def test_the_wrong_moment_is_a_runtime_error():
    assert issubclass(StateError, LrkitError) and issubclass(StateError, RuntimeError)


@pytest.mark.parametrize("value", [True, 1.5, "3", None, 0, 2**60])
def test_whole_numbers_are_checked(value):
    with pytest.raises(InputError, match=r"f\(n=.*: n must be a whole number, at least 1"):
        whole("f", "n", value)


@pytest.mark.parametrize("value", [True, "3", None, float("nan"), float("inf"), 10**400, 1j, 0])
def test_real_numbers_are_checked(value):
    with pytest.raises(InputError, match=r"f\(x=.*: x must be a finite number above 0"):
        real("f", "x", value, above=0.0)


def test_a_missing_extra_names_the_command():
    error = MissingExtra("lrkit.attach", "torch", "torch")
    assert str(error) == "lrkit.attach needs torch, which is not installed. Install it: pip install 'lrkit[torch]'"
    assert isinstance(error, ImportError)


def test_the_tree_in_the_docstring_is_the_tree():
    """Every class is drawn, and every drawn name is a class."""
    import lrkit.errors as errors

    drawn = {word for word in (errors.__doc__ or "").replace("─", " ").split() if word in vars(errors)}
    assert drawn == {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
