"""What lrkit refuses, callers can catch as what it is."""

import pytest

from lrkit.errors import FileError, InputError, LrkitError, MissingExtra, StateError


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [(InputError, ValueError), (FileError, ValueError), (StateError, RuntimeError)],
)
def test_each_error_is_lrkits_and_the_builtin_that_it_is(kind, builtin):
    with pytest.raises(LrkitError):
        raise kind("call: rule. What to do.")
    assert issubclass(kind, builtin)


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
