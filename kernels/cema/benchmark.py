"""What CEMA by blocks is measured against."""

import torch
from torch import Tensor

from gecko_lab.kernels.case import Case, Contender, Inputs, Problem
from gecko_lab.kernels.cema import cema
from gecko_lab.kernels.cema.baselines import cema_fft, cema_scan
from gecko_lab.kernels.cema.inputs import Shape, make_inputs

_ARGUMENTS = ("x", "p", "decay", "phase", "gamma")


def _inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    drawn = make_inputs(shape, dtype=dtype)._asdict()
    return {name: drawn[name] for name in _ARGUMENTS}


def _blocks(inputs: Inputs, shape: Shape) -> Tensor:
    return cema(*inputs.values())[0]


def _time_loop(inputs: Inputs, shape: Shape) -> Tensor:
    return cema(*inputs.values(), backend="reference")[0]


def _fft(inputs: Inputs, shape: Shape) -> Tensor:
    return cema_fft(*inputs.values())


def _fft_factored(inputs: Inputs, shape: Shape) -> Tensor:
    return cema_fft(*inputs.values(), vandermonde=False)


def _scan(inputs: Inputs, shape: Shape) -> Tensor:
    return cema_scan(*inputs.values())


REFERENCE = Contender("time loop", _time_loop)
ALTERNATIVES = (
    Contender("FFT convolution", _fft),
    Contender("FFT, factored kernel", _fft_factored),
    Contender("associative_scan", _scan),
)
CASE = Case(
    title="complex moving average",
    shape_text="[{batch}, {length}, {num_features}], N {num_states}",
    inputs=_inputs,
    reference=REFERENCE,
    ours=Contender("blocks", _blocks),
    check_shape=Shape(2, 131, 12, 16),
    problems={
        "small": (Problem(Shape(2, 256, 256, 8), (*ALTERNATIVES, REFERENCE)),),
        # The backward of a loop over time is quadratic in the length: it is shown where it is bearable.
        "full": (
            Problem(Shape(2, 4096, 768, 16), ALTERNATIVES),
            Problem(Shape(2, 512, 768, 16), (*ALTERNATIVES, REFERENCE)),
        ),
    },
)
