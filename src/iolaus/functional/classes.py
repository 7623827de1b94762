"""Classes by their names, as settings write them."""

from collections.abc import Sequence


def find_class(name: object, class_names: Sequence[object]) -> int | None:
    """The number of the class that a setting names; None where there is none.

    YAML turns `true`, `1` and `1.0` into values that are no texts; they find the classes that are written so.
    """
    names = [str(each) for each in class_names]
    if str(name) in names:
        return names.index(str(name))
    if isinstance(name, bool):
        lower = [each.lower() for each in names]
        return lower.index(str(name).lower()) if lower.count(str(name).lower()) == 1 else None
    return None
