"""Who may import whom, read from the syntax tree: nothing is run, so an import inside a function counts too."""

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.source_tree import modules


@dataclass(frozen=True)
class Rule:
    """What the modules under `who` may import: beside the standard library only `only` (where given), never `never`."""

    who: str
    why: str
    only: tuple[str, ...] | None = None
    never: tuple[str, ...] = ()
    # module: the reason why the rule does not hold for it
    exceptions: tuple[tuple[str, str], ...] = ()


RULES = [
    Rule(
        who="gecko_lab.kernels",
        why="an operation stands alone and can be lifted out",
        only=("torch", "triton", "gecko_lab.kernels"),
    ),
    Rule(
        who="gecko_lab.slots",
        why="the contracts know no implementation",
        only=("torch", "gecko_lab.state"),
    ),
    Rule(
        who="gecko_lab.state",
        why="the contracts know no implementation",
        only=("torch",),
    ),
    Rule(
        who="gecko_lab.components",
        why="a component says what is computed; the platform lives elsewhere",
        only=("torch", "gecko_lab.slots", "gecko_lab.state", "gecko_lab.kernels", "gecko_lab.components"),
    ),
    Rule(
        who="gecko_lab.data",
        why="the data is the same for every model",
        never=tuple(f"gecko_lab.{name}" for name in ("components", "kernels", "network", "registry", "slots", "state")),
    ),
    Rule(
        who="gecko_lab",
        why="the platform works with slots, never with a concrete component",
        never=("gecko_lab.components",),
        exceptions=(
            ("gecko_lab.components", "components compose one another"),
            ("gecko_lab.registry", "the catalogue imports every component"),
            ("gecko_lab.families", "a family of models is a choice of components"),
            ("gecko_lab.cli", "the command line reaches everything"),
            ("gecko_lab.__main__", "the command line reaches everything"),
        ),
    ),
    Rule(
        who="gecko_lab",
        why="nothing depends on tests or experiments",
        never=("tests", "experiments", "gecko_lab.experiments"),
    ),
    Rule(
        who="gecko_lab",
        why="a second name for a package makes a second copy of it: write gecko_lab.kernels",
        never=("components", "data", "kernels"),
    ),
]


def within(name: str, packages: tuple[str, ...]) -> bool:
    """Whether the dotted name is one of the packages or lies inside one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def imported(module: str, source: str, is_package: bool) -> list[tuple[int, str]]:
    """Line and full dotted name of everything that a module imports, by statement or by `import_module("...")`."""
    found = []
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{origin}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
            found += [
                (node.lineno, argument.value)
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            ]
    return found


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """One line for each import of the module that a rule forbids."""
    rules = [
        rule
        for rule in RULES
        if within(module, (rule.who,)) and not within(module, tuple(name for name, _ in rule.exceptions))
    ]
    return [
        f"{module}:{line} imports {name} ({rule.why})"
        for line, name in imported(module, source, is_package)
        for rule in rules
        if within(name, rule.never)
        or (rule.only is not None and name.split(".")[0] not in sys.stdlib_module_names and not within(name, rule.only))
    ]


def test_every_module_keeps_the_rules() -> None:
    found = [
        line
        for module, path in modules().items()
        for line in violations(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gecko_lab.kernels.cema.op", "import numpy"),
        ("gecko_lab.kernels.cema.op", "import gecko_lab"),
        ("gecko_lab.kernels.cema.op", "from gecko_lab.slots import Memory"),
        ("gecko_lab.kernels.cema.op", "from ...slots import Memory"),
        ("gecko_lab.kernels.cema.op", "from gecko_lab import *"),
        ("gecko_lab.slots", "from gecko_lab import registry"),
        ("gecko_lab.slots", "import lightning"),
        ("gecko_lab.state", "def late():\n    import gecko_lab.slots"),
        ("gecko_lab.components.memory.adaptive", "import triton"),
        ("gecko_lab.components.memory.adaptive", "from gecko_lab.network import Network"),
        ("gecko_lab.components.memory.adaptive", "from ...data import text"),
        ("gecko_lab.network", "from gecko_lab.components.memory import AdaptiveWorkingMemory"),
        ("gecko_lab.network", "from .components.memory.adaptive import AdaptiveWorkingMemory"),
        ("gecko_lab.network", "from gecko_lab import components"),
        ("gecko_lab.network", "import importlib\nimportlib.import_module('gecko_lab.components.memory')"),
        ("gecko_lab.data.module", "from gecko_lab.state import State"),
        ("gecko_lab.data.module", "import torch, gecko_lab.kernels.cema"),
        ("gecko_lab.registry", "from tests.source_tree import modules"),
        ("gecko_lab.__main__", "from gecko_lab.experiments import quickstart"),
        ("gecko_lab.components.memory.adaptive", "from kernels.cema import cema"),
        ("gecko_lab.network", "import kernels.cema"),
    ],
)
def test_violations_finds_a_planted_import(module: str, source: str) -> None:
    assert len(violations(module, source)) >= 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gecko_lab.kernels.cema.torch", "import math\nimport torch\nfrom torch.nn import functional"),
        ("gecko_lab.kernels.cema.triton", "import triton.language as tl\nfrom ..scan import scan"),
        ("gecko_lab.slots", "from gecko_lab.state import State"),
        ("gecko_lab.components.memory.adaptive", "from gecko_lab.kernels.cema import cema\nfrom .base import Base"),
        ("gecko_lab.registry", "import gecko_lab.components.memory"),
        ("gecko_lab.network", "import lightning\nfrom gecko_lab.slots import Layer\nfrom . import state"),
        ("gecko_lab.data.module", "import lightning, litdata\nfrom gecko_lab.data.text import documents"),
        ("gecko_lab.networks", "import kernels_of_others, datasets"),
    ],
)
def test_violations_lets_a_permitted_import_pass(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_imported_resolves_relative_imports_of_a_package() -> None:
    assert imported("gecko_lab.kernels.cema", "from .op import cema", is_package=True) == [
        (1, "gecko_lab.kernels.cema.op.cema")
    ]


def test_modules_names_files_at_their_real_place() -> None:
    found = modules()
    assert found, "no module was found: the rules above would hold for nothing"
    assert len(set(found.values())) == len(found)
    assert all(isinstance(path, Path) and path.resolve() == path for path in found.values())
