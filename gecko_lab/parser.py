"""jsonargparse with one message for a mistake, and the nearest valid names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import UnionType
from typing import Any, NoReturn, Union, get_args, get_origin

import docstring_parser
from jsonargparse import ArgumentParser

from gecko_lab.errors import ConfigurationError, nearest

_QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"|(--\S+)")
_UNION = re.compile(r"Does not validate against any of the Union .*?Errors: (.*) Given value type: .*? value: (.*)")


class HintingMixin:
    """Errors as a `ConfigurationError` of one line that names the nearest options, instead of the whole usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise; argparse calls this."""
        raise ConfigurationError(one_line(message) + self._hint(message)) from ex

    def _hint(self, message: str) -> str:
        """The nearest keys to one that is not known."""
        if not re.search(r"unrecognized|does not accept|not expected|No action|invalid choice|unknown", message, re.I):
            return ""
        known = self._keys()
        owner = re.search(r"Group '([^']+)'", message)
        for match in _QUOTED.finditer(message):
            name = next(group for group in match.groups() if group).lstrip("-").split("=")[0]
            names_owner = re.search(rf"(Group|Subcommand) '{re.escape(name)}'", message)
            if name in known or names_owner:
                continue
            hint = nearest(f"{owner[1]}.{name}" if owner else name, known)
            if "did you mean" in hint:
                return hint.split(" (valid")[0]
        return ""

    def _keys(self) -> set[str]:
        """Every key of the parser and of those of its subcommands."""
        keys: set[str] = set()
        for action in self._actions:  # type: ignore[attr-defined]
            keys.add(action.dest)
            for parser in (getattr(action, "choices", None) or {}).values() if isinstance(action.choices, dict) else ():
                keys |= parser._keys()
        return keys


class Parser(HintingMixin, ArgumentParser):
    """A parser of one of our own verbs."""


def numbers_first(parser: ArgumentParser) -> None:
    """Let `1` be an integer, and `1.0` a fraction, wherever either may be given: one batch, or all of them.

    `typing` gives equal unions in one order, that of whichever module of the process wrote such a union first.
    """
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        members = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
        if int in members and float in members:
            others = [member for member in members if member not in (int, float)]
            action._typehint = Union[(int, float, *others)]  # type: ignore[attr-defined]


def one_line(message: str) -> str:
    """A message of jsonargparse's in plain words, without its layout."""
    message = re.sub(r"\s+", " ", message).strip()
    message = re.sub(r"Parser key \"([^\"]+)\": ", r"\1: ", message)
    message = re.sub(r"Expected an? <class '(\w+)'>\.?", r"expected \1,", message)
    message = re.sub(r"Expected an? typing\.Literal\[([^\]]+)\]\.?", r"expected one of \1,", message)
    message = re.sub(r", Got value: ", ", got ", message)
    return _UNION.sub(_alternatives, message)


def _alternatives(union: re.Match[str]) -> str:
    """`expected int or null, got two`; the message as it is where a type had more to say."""
    errors, value = union.groups()
    before, *types = re.split(r",? ?- expected ", errors.rstrip(", "))
    if before or any(" - " in text for text in types):
        return union[0]
    return f"expected {' or '.join(types).replace('NoneType', 'null')}, got {value}"


def run_function(function: Callable[..., Any], program: str, arguments: list[str]) -> Any:
    """Call a function with what the command line gives: its signature and docstring are the options.

    Keyword-only parameters are flags; the others may be left out and are given by place, `*names` as many as one likes.
    """
    described = docstring_parser.parse(inspect.getdoc(function) or "")
    description = "\n\n".join(text for text in (described.short_description, described.long_description) if text)
    parser = Parser(prog=program, description=description, allow_abbrev=False)
    parameters = inspect.signature(function).parameters.values()
    places = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    switches = {f"--{p.name}" for p in parameters if p.annotation in (bool, "bool")}
    parser.add_function_arguments(function, as_group=False, skip={p.name for p in places})
    for place in places:
        text = next((p.description for p in described.params if p.arg_name == place.name), None)
        several = place.kind is place.VAR_POSITIONAL
        default = [] if several else place.default
        parser.add_argument(place.name, nargs="*" if several else "?", default=default, help=text)
    following = [*arguments[1:], ""]
    arguments = [  # `--json` alone is `--json true`
        f"{word}=true" if word in switches and after.lower() not in ("true", "false") else word
        for word, after in zip(arguments, following, strict=False)
    ]
    values = parser.parse_args(arguments).as_dict()
    given: list[Any] = []
    for place in places:
        value = values.pop(place.name)
        given += value if place.kind is place.VAR_POSITIONAL else [value]
    return function(*given, **values)
