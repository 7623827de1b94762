"""Signatures read from source text: what a class takes is known without importing it (torch takes seconds)."""

import ast
import functools
import importlib.machinery
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

UNKNOWN = object()  # stands for a default or a class attribute that is no plain constant


@dataclass(frozen=True)
class Definition:
    """Where a name leads: a class or function of a module's source."""

    module: str
    node: ast.ClassDef | ast.FunctionDef

    @property
    def is_class(self) -> bool:
        """Whether the name is a class."""
        return isinstance(self.node, ast.ClassDef)


@dataclass(frozen=True)
class Missing:
    """A name that does not exist: `name` is not in `module` (None: no such package), which has `candidates`."""

    name: str
    module: str | None
    candidates: tuple[str, ...] = ()


@dataclass
class Parameter:
    """One argument: its annotation as source, its default (UNKNOWN when it is no constant), whether it must be given, who declares it."""

    annotation: ast.expr | None
    default: Any
    required: bool
    module: str = ""


@dataclass
class Signature:
    """The arguments of a class or function; `is_open` when it takes further ones that cannot be seen."""

    parameters: dict[str, Parameter] = field(default_factory=dict)
    is_open: bool = False


@functools.cache
def _module(dotted: str) -> tuple[ast.Module, bool] | None:
    """Parsed source of a module and whether it is a package; None where there is none to read."""
    path = None
    parts = dotted.split(".")
    for end in range(1, len(parts) + 1):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations) if spec.submodule_search_locations is not None else []
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8")), spec.submodule_search_locations is not None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body, those inside if, try and with included."""
    for statement in body:
        yield statement
        for block in ("body", "orelse", "handlers", "finalbody"):
            if isinstance(statement, ast.If | ast.Try | ast.With | ast.ExceptHandler):
                yield from _statements(getattr(statement, block, []))


def _origin(statement: ast.ImportFrom, module: str, is_package: bool) -> str:
    """The absolute module that a `from ... import` reads."""
    if not statement.level:
        return statement.module or ""
    base = module.split(".") if is_package else module.split(".")[:-1]
    base = base[: len(base) - statement.level + 1]
    return ".".join([*base, statement.module] if statement.module else base)


@functools.cache
def _names(module: str) -> tuple[dict[str, Definition | str | None], list[str]] | None:
    """What a module's names lead to (a definition, another dotted name, or None: not told), and its star imports."""
    if (parsed := _module(module)) is None:
        return None
    tree, is_package = parsed
    names: dict[str, Definition | str | None] = {}
    stars = []
    for s in _statements(tree.body):
        match s:
            case ast.ClassDef() | ast.FunctionDef():
                names[s.name] = Definition(module, s)
            case ast.ImportFrom():
                origin = _origin(s, module, is_package)
                for alias in s.names:
                    if alias.name == "*":
                        stars.append(origin)
                    else:
                        names[alias.asname or alias.name] = f"{origin}.{alias.name}"
            case ast.Import():
                for alias in s.names:
                    names[alias.asname or alias.name.split(".")[0]] = (
                        alias.name if alias.asname else alias.name.split(".")[0]
                    )
            case ast.Assign() | ast.AnnAssign():
                for target in s.targets if isinstance(s, ast.Assign) else [s.target]:
                    if isinstance(target, ast.Name):
                        names[target.id] = None
    if any(isinstance(s, ast.FunctionDef) and s.name == "__getattr__" for s in tree.body):
        stars.append("?")
    return names, stars


@functools.cache
def find(dotted: str, depth: int = 0) -> Definition | Missing | None:
    """Follow a dotted name through re-exports to its definition.

    Returns:
        the definition; Missing when the name surely does not exist; None when the source does not tell
        (compiled modules, names that are made at run time).
    """
    parts = dotted.split(".")
    if depth > 20:
        return None
    for cut in range(len(parts) - 1, 0, -1):
        module, name, rest = ".".join(parts[:cut]), parts[cut], parts[cut + 1 :]
        if (listed := _names(module)) is None:
            continue
        names, stars = listed
        if name in names:
            match names[name]:
                case str() as other:
                    return find(".".join([other, *rest]), depth + 1)
                case Definition() as definition if not rest:
                    return definition
                case _:
                    return None
        for star in stars:
            if star == "?" or (found := find(".".join([star, name, *rest]), depth + 1)) is None:
                return None
            if isinstance(found, Definition):
                return found
        return Missing(name, module, tuple(n for n in names if not n.startswith("_")))
    return None if _module(parts[0]) is not None and len(parts) == 1 else Missing(parts[0], None)


def _bases(definition: Definition) -> Iterator[Definition]:
    """The class itself, then its base classes, nearest first, as far as the source tells."""
    yield definition
    assert isinstance(definition.node, ast.ClassDef)
    for base in definition.node.bases:
        found = find(f"{definition.module}.{ast.unparse(base)}")
        if isinstance(found, Definition) and found.is_class:
            yield from _bases(found)


def attribute(definition: Definition, name: str) -> Any:
    """The constant value of a class attribute, inherited ones included; UNKNOWN where there is none."""
    for cls in _bases(definition):
        for s in cls.node.body:
            if isinstance(s, ast.Assign | ast.AnnAssign) and s.value is not None:
                targets = s.targets if isinstance(s, ast.Assign) else [s.target]
                if any(isinstance(t, ast.Name) and t.id == name for t in targets):
                    return _constant(s.value)
    return UNKNOWN


def _constant(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, SyntaxError):
        return UNKNOWN


def signature(definition: Definition) -> Signature | None:
    """The arguments of a class or function; those that `**kwargs` hands to a base class or pops by name included."""
    if not definition.is_class:
        assert isinstance(definition.node, ast.FunctionDef)
        return _arguments(definition.node, bound=False)
    merged = Signature(is_open=True)
    fixed: set[str] = set()  # arguments of the base class that the derived one sets itself
    for cls in _bases(definition):
        inits = [s for s in _statements(cls.node.body) if isinstance(s, ast.FunctionDef) and s.name == "__init__"]
        if not inits:
            continue
        own = _arguments(inits[-1], bound=True)  # the last one: overloads stand before it
        seen = fixed | merged.parameters.keys()
        new = {name: p for name, p in own.parameters.items() if name not in seen}
        merged.parameters |= {name: replace(p, module=cls.module) for name, p in new.items()}
        merged.is_open = own.is_open
        if not own.is_open:
            break
        fixed |= {k.arg for call in _handing_on(inits[-1]) for k in call.keywords if k.arg is not None}
    return merged if merged.parameters or not merged.is_open else None


def _handing_on(function: ast.FunctionDef) -> list[ast.Call]:
    """The calls that hand `**kwargs` on."""
    name = function.args.kwarg.arg if function.args.kwarg else None
    calls = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
    return [c for c in calls if any(k.arg is None and ast.unparse(k.value) == name for k in c.keywords)]


def _arguments(function: ast.FunctionDef, bound: bool) -> Signature:
    a = function.args
    positional = [*a.posonlyargs, *a.args][bound:]
    defaults: list[ast.expr | None] = [*[None] * (len(positional) - len(a.defaults)), *a.defaults]
    if bound:
        defaults = defaults[-len(positional) :] if positional else []
    pairs = [*zip(positional, defaults, strict=True), *zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    parameters = {
        p.arg: Parameter(p.annotation, UNKNOWN if d is None else _constant(d), required=d is None) for p, d in pairs
    }
    if a.kwarg is None:
        return Signature(parameters)
    calls = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
    popped = [
        c.args[0].value
        for c in calls
        if ast.unparse(c.func) == f"{a.kwarg.arg}.pop" and isinstance(c.args[0], ast.Constant)
    ]
    parameters |= {name: Parameter(None, UNKNOWN, required=False) for name in popped if isinstance(name, str)}
    return Signature(parameters, is_open=bool(_handing_on(function)) or not popped)


_SCALARS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
_SEQUENCES = {"list", "List", "tuple", "Tuple", "Sequence", "Iterable"}
_OBJECTS = {"Tensor", "Module", "Optimizer", "Generator", "Callable", "timedelta"}  # never plain YAML values
_TENSORS = {
    "Optional[Tensor]",
    "Tensor | None",
    "Optional[torch.Tensor]",
    "torch.Tensor | None",
}  # made of lists by build


def accepts(annotation: ast.expr | None, value: Any) -> bool | None:
    """Whether a plain YAML value fits an annotation; None when the annotation does not tell.

    Unions, Optional, Literal, sequences of scalars and quoted annotations are understood. A whole number fits
    float; true and false fit bool alone.
    """
    match annotation:
        case ast.expr() if ast.unparse(annotation) in _TENSORS:
            return value is None or (isinstance(value, list) and all(isinstance(v, int | float) for v in value))
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str() as quoted):
            return accepts(ast.parse(quoted, mode="eval").body, value)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            if name in _SCALARS:
                return isinstance(value, _SCALARS[name]) and (name == "bool" or not isinstance(value, bool))
            if name in _SEQUENCES:
                return isinstance(value, list)
            return False if name in _OBJECTS else None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _any([accepts(left, value), accepts(right, value)])
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            options = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if name == "Optional":
                return _any([value is None, accepts(inner, value)])
            if name == "Union":
                return _any([accepts(o, value) for o in options])
            if name == "Literal":
                return any(ast.literal_eval(o) == value for o in options)
            if name in _SEQUENCES:
                if not isinstance(value, list):
                    return False
                if _is_pair(name, options):
                    fits = [accepts(o, v) for o, v in zip(options, value, strict=False)]
                    return False if len(value) != len(options) else _all(fits)
                return _all([accepts(options[0], v) for v in value])
            if name in ("dict", "Dict", "Mapping"):
                return isinstance(value, dict)
    return None


def _is_pair(name: str, options: list[ast.expr]) -> bool:
    """Whether a tuple's annotation tells each of its items, as tuple[float, float] does and tuple[int, ...] does not."""
    last = options[-1]
    return name in ("tuple", "Tuple") and not (isinstance(last, ast.Constant) and last.value is ...)


def _all(results: list[bool | None]) -> bool | None:
    return False if False in results else None if None in results else True


def _any(results: list[bool | None]) -> bool | None:
    return True if True in results else None if None in results else False


_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "None": "null"}


def describe(annotation: ast.expr) -> str:
    """What an annotation wants of a YAML value, in words; types that YAML cannot hold are left out."""
    match annotation:
        case ast.expr() if ast.unparse(annotation) in _TENSORS:
            return "a list of numbers or null"
        case ast.Constant(value=None):
            return _WORDS["None"]
        case ast.Constant(value=str() as quoted):
            return describe(ast.parse(quoted, mode="eval").body)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return "" if name in _OBJECTS else "a list" if name in _SEQUENCES else _WORDS.get(name, name)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _alternatives([left, right])
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            options = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if name == "Optional":
                return f"{describe(inner)} or null"
            if name == "Union":
                return _alternatives(options)
            if name == "Literal":
                return " or ".join(str(ast.literal_eval(o)) for o in options)
            if name in _SEQUENCES:
                item = describe(options[0]).removeprefix("a ")
                count = f"{len(options)} " if _is_pair(name, options) else ""
                return f"a list of {count}{item + 's' if item.endswith('number') else item}"
    return ast.unparse(annotation)


def _alternatives(options: list[ast.expr]) -> str:
    return " or ".join(dict.fromkeys(text for option in options if (text := describe(option))))
