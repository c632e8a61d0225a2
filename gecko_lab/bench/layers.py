"""One layer of a large network, forward and backward, beside a transformer's: what a GPU makes of the whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gecko_lab.bench import machine, memory
from gecko_lab.bench.gate import relative_error
from gecko_lab.bench.model_gate import reference_backends
from gecko_lab.bench.timing import PASSES, take_turns
from gecko_lab.registry import find
from gecko_lab.slots import Layer

LAYERS = ("GeckoLayer", "TransformerLayer")

_CHECK_LENGTH, _CHECK_CHUNK = 300, 128
_LIMIT = 3e-2
"""Relative RMS error of a whole layer in bfloat16, where several roundings of 2⁻⁹ follow each other."""


def time_layers(
    *, size: str, length: int, dtype: torch.dtype, device: torch.device, rounds: int, batch_size: int = 1
) -> dict[str, Any]:
    """Check and time the layers of a size on random activations.

    Args:
        size: by name.
        length: timesteps.
        dtype: of weights and activations.
        device: where.
        rounds: samples of each time.
        batch_size: sequences.

    Returns:
        For JSON: `machine`, `check` by layer (relative errors of output and gradients against the references in the
        same weights in float32), and `layers`: times and peak memory of each pass, and the share of the measured
        matrix-product peak; of a layer that is wrong there are none.
    """
    result: dict[str, Any] = {
        "description": f"[{batch_size}, {length}], {size}, {str(dtype).removeprefix('torch.')}",
        "machine": machine.describe(device, dtype, "small" if size == "tiny" else "full"),
        "check": {},
        "layers": [],
    }
    runs: dict[tuple[str, str], Any] = {}
    layers: dict[str, Any] = {}
    for name in LAYERS:
        errors = _check(name, size, dtype, device)
        green = all(error <= _LIMIT for error in errors.values())
        result["check"][name] = {"green": green, "errors": errors, "limit": _LIMIT}
        if green:
            layers[name] = _layer(name, size, dtype, device)
            x = torch.randn(batch_size, length, layers[name].model_dim, device=device, dtype=dtype, requires_grad=True)
            runs |= {(name, key): run for key, run in _passes(layers[name], x).items()}
    times = take_turns(runs, device, rounds)
    peak = result["machine"]["matmul_flops_per_second"]
    for name, layer in layers.items():
        row: dict[str, Any] = {"name": name, "parameters": sum(p.numel() for p in layer.parameters())}
        forward = layer.flops_per_token(length) * batch_size * length
        for key, flops in zip(PASSES, (forward, 3 * forward), strict=True):
            seconds = times[name, key]
            row[key] = {
                "seconds": seconds.as_dict(),
                "flops": flops,
                "peak_share": flops / seconds.median / peak,
                "bytes": memory.peak_of(runs[name, key], device),
            }
        result["layers"].append(row)
    return result


def _layer(name: str, size: str, dtype: torch.dtype, device: torch.device, **options: Any) -> Any:
    cls: Any = find(Layer, name, "layer")
    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        return cls(cls.sizes[size], 0, **options).to(dtype)


def _passes(layer: nn.Module, x: Tensor) -> dict[str, Any]:
    wanted = [x, *layer.parameters()]

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    def forward_backward() -> None:
        y, _ = layer(x)
        torch.autograd.grad(y, wanted, torch.ones_like(y))

    return dict(zip(PASSES, (forward, forward_backward), strict=True))


def _check(name: str, size: str, dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """Errors of the output and of all gradients together, over several short chunks."""
    layer = _layer(name, size, dtype, device, chunk_size=_CHECK_CHUNK)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, _CHECK_LENGTH, layer.model_dim, generator=generator).to(device, dtype)
    actual = _evaluate(layer, x)
    with reference_backends():
        expected = _evaluate(layer.float(), x.float())
    return {key: relative_error(actual[key], expected[key]) for key in expected}


def _evaluate(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.detach().requires_grad_()
    y, _ = layer(x)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.device, y.dtype)
    gradients = torch.autograd.grad(y, [x, *layer.parameters()], dy)
    return {"y": y.detach(), "gradient": torch.cat([gradient.float().flatten() for gradient in gradients])}
