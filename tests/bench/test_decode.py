"""`gecko-lab bench decode`: states at positions that nobody has read up to, what is measured, what is printed."""

import contextlib
import copy
import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from gecko_lab.bench import decode_command, decode_table, decoding
from gecko_lab.bench.decode_command import constancy, decode
from gecko_lab.bench.decoding import (
    StateTooLarge,
    WrongDecoder,
    check_decoder,
    decode_tokens,
    decoder_of,
    fast_forward,
    read_in_pieces,
    state_at,
    stored_bytes,
)
from gecko_lab.bench.gate import Verdict
from gecko_lab.bench.models import OurModel, Recipe, build
from gecko_lab.bench.training import draw_tokens
from gecko_lab.decoding import Decoder
from gecko_lab.errors import ConfigurationError
from gecko_lab.parser import run_function
from tests.bench.ceilings import know_ceilings

CPU = torch.device("cpu")
CHUNK = 16
FAMILIES = ["gecko", "megalodon", "llama"]
SMALL: dict[str, Any] = {"size": "tiny", "vocab_size": 61, "chunk_size": CHUNK, "threads": 1, "rounds": 2, "tokens": 3}

needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


@pytest.fixture(autouse=True)
def known_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    know_ceilings(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.MonkeyPatch.context() as patch:
        know_ceilings(patch)
        decode(positions="40,1000000", batch_sizes="1,2", models="gecko,megalodon", prefill=50, pieces="7,64",
               out=str(folder), json=True, **SMALL)  # fmt: skip
    found: dict[str, Any] = json.loads(printed.getvalue())
    return found


def shapes_and_numbers(state: Any) -> list[Any]:
    """Shapes and dtypes of the tensors, counts of timesteps, and everything else."""
    return [
        (tuple(leaf.shape), leaf.dtype, leaf.tolist() if leaf.shape == (2,) else None)
        if isinstance(leaf, torch.Tensor)
        else leaf
        for leaf in pytree.tree_leaves(state)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_state_at_is_like_that_of_a_stream_read_so_far(family: str) -> None:
    model = build(Recipe(family, family, "tiny", 61, CHUNK)).eval()
    assert isinstance(model, OurModel)
    position = 7 * CHUNK
    _, read = read_in_pieces(model, draw_tokens((2, position), 61, CPU), 40)
    state = state_at(model, 2, position, CHUNK, CPU)
    assert shapes_and_numbers(state) == shapes_and_numbers(read)
    assert stored_bytes(state) == stored_bytes(read)
    logits = decode_tokens(model, draw_tokens((2, 1), 61, CPU), state, 20)
    assert logits.shape == (2, 61)
    assert logits.isfinite().all()


@pytest.mark.parametrize("family", ["gecko", "megalodon"])
def test_state_at_does_not_grow(family: str) -> None:
    model = build(Recipe(family, family, "tiny", 61, CHUNK)).eval()
    near, far = (state_at(model, 1, position, CHUNK, CPU) for position in (4 * CHUNK, 10**6))
    assert stored_bytes(near) == stored_bytes(far)
    positions = {leaf for leaf in pytree.tree_leaves(far) if isinstance(leaf, int)}
    assert positions == {10**6}


def test_fast_forward_by_nothing_changes_nothing() -> None:
    model = build(Recipe("gecko", "gecko", "tiny", 61, CHUNK)).eval()
    state = state_at(model, 1, 3 * CHUNK, CHUNK, CPU)
    before, after = (pytree.tree_leaves(one) for one in (state, fast_forward(state, 0)))
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("family", FAMILIES)
def test_decode_tokens_by_a_decoder_gives_the_same_logits_every_time(family: str) -> None:
    model = build(Recipe(family, family, "tiny", 61, CHUNK)).eval()
    assert isinstance(model, OurModel)
    state, first = state_at(model, 2, 3 * CHUNK, CHUNK, CPU), draw_tokens((2, 1), 61, CPU)
    decoder = Decoder(model.network, state, num_tokens=20)
    expected = decode_tokens(model, first, state, 20)
    for _ in range(2):
        torch.testing.assert_close(decode_tokens(model, first, state, 20, decoder), expected, rtol=1e-4, atol=1e-5)
    assert decoder_of(model, state, 20, CPU) is None  # which is for GPUs
    check_decoder(model, decoder, state, first)
    with torch.no_grad():
        wrong = Decoder(copy.deepcopy(model.network), state, num_tokens=20)
        model.network.output.weight.add_(torch.randn_like(model.network.output.weight))
    with pytest.raises(WrongDecoder, match="WRONG by"):
        check_decoder(model, wrong, state, first)


@needs_transformers
def test_decode_tokens_leaves_a_cache_as_it_is() -> None:
    model = build(Recipe("llama", "transformers-llama", "tiny", 61)).eval()
    state = state_at(model, 2, 48, CHUNK, CPU)
    assert stored_bytes(state) == 2 * 48 * 128 * 2 * 4 * 4
    first = draw_tokens((2, 1), 61, CPU)
    once, again = (decode_tokens(model, first, state, 5) for _ in range(2))
    assert torch.equal(once, again)
    assert stored_bytes(state) == 2 * 48 * 128 * 2 * 4 * 4


@needs_transformers
@pytest.mark.parametrize("piece", [1, 5, 23])
def test_read_in_pieces_gives_the_logits_of_the_whole(piece: int) -> None:
    for family in ("gecko", "transformers-llama"):
        model = build(Recipe(family, family, "tiny", 61, CHUNK)).eval()
        tokens = draw_tokens((2, 23), 61, CPU)
        with torch.no_grad():
            whole, _ = model.step(tokens, None)
        pieces, _ = read_in_pieces(model, tokens, piece)
        torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-5)


def test_state_at_refuses_what_memory_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_free_bytes", lambda device: 10**6)
    model = build(Recipe("llama", "llama", "tiny", 61, CHUNK)).eval()
    state_at(model, 1, 64, CHUNK, CPU)
    with pytest.raises(StateTooLarge, match="its state takes 4 GiB, 0 are free"):
        state_at(model, 1, 2**20, CHUNK, CPU)


def test_decode_measures_every_position_and_piece(result: dict[str, Any]) -> None:
    names = ["gecko", "megalodon"]
    assert [model["name"] for model in result["models"]] == names
    places = [(one["position"], one["batch_size"]) for one in result["positions"]]
    assert places == [(32, 1), (1_000_000, 1), (32, 2), (1_000_000, 2)]  # rounded down to where a chunk begins
    for one in result["positions"]:
        assert [row["name"] for row in one["models"]] == names
        for row in one["models"]:
            assert row["tokens_per_second"]["max"] == pytest.approx(3 * one["batch_size"] / row["seconds"]["min"])
            assert row["state_bytes"] > 0
    assert [one["piece"] for one in result["prefills"]] == [7, 64]
    for one in result["prefills"]:
        for row in one["models"]:
            assert row["tokens_per_second"]["min"] == pytest.approx(50 / row["seconds"]["max"])
    for one in result["constancy"]:
        assert one["ratio"] == constancy(result["positions"], one["name"], one["batch_size"])
        assert one["ratio"] > 0


def test_decode_writes_its_files(result: dict[str, Any], folder: Path) -> None:
    assert json.loads((folder / "decode.json").read_text()) == result
    assert (folder / "decode.png").read_bytes().startswith(b"\x89PNG")
    assert "<!-- megalodon -->" in (folder / "decode.svg").read_text()


def test_show_fits_100_columns_and_names_everything(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    decode_table.show(result)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    assert "…" not in printed
    assert printed.count("position 1,000,000") == 2
    assert "a prompt of 50 tokens in pieces of 7" in printed
    assert result["command"] in " ".join(printed.split())
    assert "CUDA graphs" not in printed
    result["positions"][0]["models"][0]["cuda_graph"] = True
    try:
        assert "CUDA graphs, and a copy of the state a sample: gecko." in decode_table.notes(result)
    finally:
        result["positions"][0]["models"][0]["cuda_graph"] = False


def test_constancy_is_the_last_over_the_first() -> None:
    def at(*speeds: float) -> dict[str, Any]:
        seconds = {"samples": [1 / speed for speed in speeds]} if speeds else None
        return {"batch_size": 1, "models": [{"name": "a", "seconds": seconds}]}

    assert constancy([at(100.0), at(7.0), at(80.0)], "a", 1) == pytest.approx(0.8)
    # the second round was slow, at both positions: neither the medians' ratio nor that of the best
    assert constancy([at(100.0, 50.0, 90.0), at(80.0, 40.0, 90.0)], "a", 1) == pytest.approx(0.8)
    assert constancy([at(100.0), at()], "a", 1) is None
    assert constancy([at(100.0)], "a", 1) is None
    assert constancy([at(100.0), at(80.0)], "a", 8) is None


def test_decode_gives_no_speed_to_what_is_wrong_or_too_large(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decoding, "_free_bytes", lambda device: 0)
    decode(models="gecko", positions="32", batch_sizes="1", prefill=20, pieces="20", **SMALL)
    printed = capsys.readouterr().out
    assert "gecko: not measured: its state takes 0 GiB, 0 are free" in printed
    monkeypatch.setattr(
        decode_command, "check_decoding", lambda recipe, *_: Verdict(recipe.name, {"y": 1.0}, {"y": 0.1})
    )
    with pytest.raises(SystemExit) as stop:
        decode(models="gecko", positions="32", batch_sizes="1", prefill=20, pieces="20", **SMALL)
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert "gecko: WRONG, no speed: y by 1e+00" in printed
    assert " ms (" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--positions", "100"], "--positions: 100 lies within the first chunk of 512 tokens"),
        (["--models", "mamba2"], "--models: unknown 'mamba2'"),
        (["--batch_sizes", "one"], "--batch_sizes: expected numbers with commas between"),
        (["--tokens", "0"], "--tokens must be at least 1, got 0"),
    ],
)
def test_decode_refuses_in_one_line(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_command, "check_decoding", lambda recipe, *_: Verdict(recipe.name, {}, {}))
    with pytest.raises(ConfigurationError) as error:
        run_function(decode, "gecko-lab bench decode", ["--models", "gecko", *arguments])
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1
