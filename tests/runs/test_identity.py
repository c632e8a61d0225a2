"""The identity changes with every setting that changes the result, and with no other."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from gecko_lab.runs.identity import differences, identity, identity_settings

WITHOUT_EFFECT = {
    *("checkpoint.every", "checkpoint.keep_last", "text_sample.num_tokens", "summary.baseline", "norms.every_n_steps"),
    *("data.cache_folder", "data.folder", "data.num_workers", "data.progress", "data.strict", "weights_only"),
    *("trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.logger", "trainer.log_every_n_steps"),
    *("trainer.default_root_dir", "trainer.enable_progress_bar"),
}
WITH_EFFECT = {
    *("seed_everything", "data.seed", "data.sources", "data.sequence_length", "data.batch_size", "data.packing"),
    *("data.validation_fraction", "trainer.max_steps", "trainer.precision", "trainer.gradient_clip_val"),
    *("trainer.val_check_interval", "model.optimizer.lr", "model.network.model_dim", "ckpt_path", "stability.patience"),
}


@pytest.fixture(scope="module")
def settings(trainings: Path) -> dict[str, Any]:
    """All settings of a run, resolved."""
    content: dict[str, Any] = yaml.safe_load((trainings / "whole" / "config.yaml").read_text())
    return content


def leaves(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(tree, dict) and tree:
        return [leaf for key, value in tree.items() for leaf in leaves(value, (*path, key))]
    return [path]


def changed(settings: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    other = copy.deepcopy(settings)
    place: Any = other
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "something else"
    return other


def test_every_setting_has_the_effect_that_is_said(settings: dict[str, Any]) -> None:
    paths = {".".join(path): path for path in leaves(settings)}
    assert len(paths) > 80
    assert paths.keys() >= WITHOUT_EFFECT | WITH_EFFECT
    assert {name for name in WITHOUT_EFFECT if identity(changed(settings, paths[name])) != identity(settings)} == set()
    assert {name for name in WITH_EFFECT if identity(changed(settings, paths[name])) == identity(settings)} == set()
    for name, path in paths.items():
        other = changed(settings, path)
        assert (identity(other) != identity(settings)) == (name in identity_settings(settings)), name
        assert (name in differences(settings, other)) == (name in identity_settings(settings))


def test_order_is_no_difference(settings: dict[str, Any]) -> None:
    def turned(tree: Any) -> Any:
        return {key: turned(tree[key]) for key in reversed(tree)} if isinstance(tree, dict) else tree

    assert list(turned(settings)) != list(settings)
    assert identity(turned(settings)) == identity(settings)


def test_with_the_tokens_of_a_step_given_its_batches_are_no_difference(settings: dict[str, Any]) -> None:
    tokens = changed(settings, ("model", "optimizer", "batch_tokens"))
    for path in (("data", "batch_size"), ("trainer", "accumulate_grad_batches")):
        assert identity(changed(settings, path)) != identity(settings)
        assert identity(changed(tokens, path)) == identity(tokens)


def test_identity_is_what_it_was() -> None:
    """Runs of earlier versions are found again."""
    assert identity({"seed_everything": 0, "model": {"network": {"size": "tiny"}}}) == "2eaa43a3efaa7762"
