"""The command line: one word chooses the verb, and only what the verb needs is imported."""

from __future__ import annotations

import importlib
import os
import sys

import gecko_lab
from gecko_lab.errors import ConfigurationError, UserError, nearest

TRAINING = {
    "fit": "train a network",
    "validate": "evaluate a checkpoint on the validation data",
    "test": "evaluate a checkpoint on the test data",
    "predict": "losses of each token of the test data",
}
# verb: (module, function or functions by sub-verb, summary)
VERBS: dict[str, tuple[str, str | tuple[str, ...], str]] = {
    "components": ("gecko_lab.components_command", "components", "list the parts of a network, their options and cost"),
    "data": ("gecko_lab.data.commands", ("prepare", "inspect"), "prepare text for training, look at what was prepared"),
    "grid": ("gecko_lab.grids.grid_command", "run", "train every variant of an ablation and compare them"),
    "report": ("gecko_lab.reports.report_command", "report", "compare runs and grids in one HTML file"),
    "dashboard": ("gecko_lab.dashboard.dashboard_command", "dashboard", "TensorBoard, arranged for comparing variants"),
    "bench": ("gecko_lab.bench", ("kernels", "train", "decode", "data"), "time what is fast beside its reference"),
}
# They take flags of `fit` as well, read their own arguments and return an exit code.
OWN_ARGUMENTS = ("grid",)


def usage() -> str:
    """The text of `gecko-lab --help`."""
    rows = list(TRAINING.items())
    rows += [(verb, summary) for verb, (_, _, summary) in VERBS.items()]
    lines = "\n".join(f"  {verb:<12}{summary}" for verb, summary in rows)
    return f"""usage: gecko-lab VERB [options]

Train Gecko and its relatives on text, switch their parts in YAML, and see what each part does.

{lines}

  gecko-lab fit --config quickstart.yaml        train a tiny Gecko, minutes on a laptop
  gecko-lab fit --config quickstart.yaml --model.network.layer.memory null
  gecko-lab components AdaptiveWorkingMemory    what it does, its options, its cost
  gecko-lab VERB --help                         the options of a verb
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; return the exit code: 0, or 2 for a user's mistake, told in one message."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0
    if arguments[0] == "--version":
        print(f"gecko-lab {gecko_lab.__version__}")
        return 0
    try:
        return _run(arguments[0], arguments[1:])
    except UserError as error:
        print(f"gecko-lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `gecko-lab components | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 — nothing more can be written
        return 0


def _run(verb: str, rest: list[str]) -> int:
    if verb in TRAINING:
        from gecko_lab import training_command

        return training_command.run(verb, rest)
    if verb not in VERBS:
        raise ConfigurationError(f"unknown verb {verb!r}{nearest(verb, [*TRAINING, *VERBS])}")
    module_name, functions, _ = VERBS[verb]
    module = importlib.import_module(module_name)
    from gecko_lab.parser import run_function

    if verb in OWN_ARGUMENTS:
        code: int = getattr(module, str(functions))(rest)
        return code
    if isinstance(functions, str):
        run_function(getattr(module, functions), f"gecko-lab {verb}", rest)
        return 0
    if not rest or rest[0] in ("-h", "--help"):
        summaries = [f"  {name:<12}{(getattr(module, name).__doc__ or '').splitlines()[0]}" for name in functions]
        print(f"usage: gecko-lab {verb} {{{','.join(functions)}}} [options]\n", *summaries, sep="\n")
        return 0
    if rest[0] not in functions:
        raise ConfigurationError(f"gecko-lab {verb}: unknown {rest[0]!r}{nearest(rest[0], functions)}")
    run_function(getattr(module, rest[0]), f"gecko-lab {verb} {rest[0]}", rest[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
