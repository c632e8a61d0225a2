"""What a training command line says: configuration files found, network options merged, a folder for the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gecko_lab.assembly import merge
from gecko_lab.errors import ConfigurationError, nearest
from gecko_lab.runs.record_file import CONFIG_FILE
from gecko_lab.yaml_files import read_yaml, read_yaml_value

EXPERIMENTS = Path(__file__).parent / "experiments"
_NETWORK = "--model.network"
_GROUPS = ("model", "data", "trainer", "checkpoint", "text_sample", "summary", "stability", "norms", "microscope")
DEFAULT_MODULE = "LanguageModel"


@dataclass
class Invocation:
    """A command line, read.

    Attributes:
        arguments: what is left for LightningCLI, in order; configuration files as JSON without `model.network`.
        network: the keys of `model.network` from all files and flags, the last winning.
        module: what is learned.
        name: of the configuration: its file's, or that of the run whose `config.yaml` it is.
        run: the run's folder as the user named it, if so.
        fresh: start over beside a run that exists.
    """

    arguments: list[str]
    network: dict[str, Any]
    module: str
    name: str
    run: Path | None
    fresh: bool


def read_invocation(arguments: list[str]) -> Invocation:
    """Read the arguments that follow the verb.

    Raises:
        ConfigurationError: for a file that is missing or is not YAML, or a flag without its value.
    """
    rest: list[str] = []
    network: Any = {}
    run: Path | None = None
    fresh = False
    name, module = "run", DEFAULT_MODULE
    queue = list(arguments)
    while queue:
        flag, has_value, value = queue.pop(0).partition("=")

        def take(flag: str = flag, has_value: str = has_value, value: str = value) -> str:
            if not has_value and not queue:
                raise ConfigurationError(f"{flag} needs a value")
            return value if has_value else queue.pop(0)

        if flag in ("--config", "-c"):
            path = find_config(take())
            name = path.resolve().parent.name if path.name == CONFIG_FILE else path.stem
            settings = read_yaml(path)
            settings.pop("grid", None)  # for `gecko-lab grid`
            module = _module(settings.get("module", module), f"{path}: module")
            for group in _GROUPS:  # jsonargparse passes over what is not keys and values
                if not isinstance(settings.get(group, {}), Mapping | None):
                    raise ConfigurationError(f"{path}: {group}: expected keys and values, got {settings[group]!r}")
            model = settings.get("model")
            if isinstance(model, Mapping) and "network" in model:
                network = merge(network, model["network"] or {})
                settings = {**settings, "model": {key: value for key, value in model.items() if key != "network"}}
            rest += ["--config", json.dumps(settings)]
        elif flag == "--run":
            run = Path(take()).expanduser()
        elif flag == "--fresh" and not has_value:
            fresh = True
        elif flag == "--module":
            module = _module(take(), flag)
            rest.append(f"--module={module}")
        elif flag == _NETWORK or flag.startswith(_NETWORK + "."):
            network = merge(network, _nested(flag.removeprefix(_NETWORK).lstrip("."), read_yaml_value(take(), flag)))
        else:
            rest.append(flag + has_value + value)
    return Invocation(rest, network, module, name, run, fresh)


def find_config(name: str) -> Path:
    """A configuration file: as given, or in `experiments/` wherever one stands.

    Raises:
        ConfigurationError: if there is none; the message names the nearest of `experiments/`.
    """
    for path in (Path(name).expanduser(), EXPERIMENTS / name):
        if path.is_file():
            return path
    known = [str(path.relative_to(EXPERIMENTS)) for path in EXPERIMENTS.rglob("*.yaml")]
    raise ConfigurationError(f"--config: there is no file {name}, here or in experiments/{nearest(name, known)}")


def _nested(path: str, value: Any) -> Any:
    """`a.b` and a value as `{a: {b: value}}`; `class_path` and `init_args` may stand in the path or not."""
    for key in reversed(path.split(".")) if path else ():
        value = value if key == "init_args" else {key: value}
    return value


def _module(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise ConfigurationError(f"{where}: expected a name, got {name!r}")
    return name
