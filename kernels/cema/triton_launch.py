"""How CEMA's kernels are launched: a plain function of dtype and shape, which launch and compilation share."""

from dataclasses import dataclass

import torch

# Programs that keep a large GPU (132 multiprocessors on an H200) busy to the end.
_NUM_PROGRAMS = 512
# A span of fewer blocks than this would make the states between spans weigh more than a quarter of x.
_MIN_BLOCKS_PER_SPAN = 8
# Channels of a program of the kernels that do little.
TABLES_FEATURES = 2
TABLES_WARPS = 8
STATES_FEATURES = 4
PARAMETERS_FEATURES = 4
RECURRENCE_FEATURES = 8


@dataclass(frozen=True)
class Launch:
    """Constants of the kernels.

    Attributes:
        block_length: T, timesteps of a block.
        num_columns: M, spans that a program computes side by side: the columns of its products.
        num_states: N, padded to what a product of matrices needs.
        block_features: channels of a program.
        num_warps: of a program.
        gradient_features: channels of a program of the correlations, which hold more in registers.
        gradient_warps: of such a program.
    """

    block_length: int
    num_columns: int
    num_states: int
    block_features: int
    num_warps: int
    gradient_features: int
    gradient_warps: int


def choose_launch(dtype: torch.dtype, num_states: int, *, amd: bool | None = None) -> Launch:
    """Constants for inputs in a dtype and N states a channel, on an AMD GPU or another; by default the one here."""
    amd = torch.version.hip is not None if amd is None else amd
    padded = max(16, 1 << (num_states - 1).bit_length())
    if dtype == torch.float32:
        return Launch(16, 16, padded, 8, 8, 4, 8)
    if amd:  # has a quarter of the shared memory, and compiles to more registers
        return Launch(32, 16, padded, 8, 8, 8, 8)
    return Launch(32, 16, padded, 16, 8, 8, 8)


@dataclass(frozen=True)
class Spans:
    """How a row's blocks are dealt to spans.

    Attributes:
        num_blocks: whole blocks of a row.
        blocks_per_span: of every span of a row but the last, which has what is left.
        num_spans: spans of a row.
        num_groups: of M spans, of all rows.
    """

    num_blocks: int
    blocks_per_span: int
    num_spans: int
    num_groups: int


def choose_spans(batch: int, length: int, num_features: int, launch: Launch) -> Spans:
    """As few spans as give enough programs: states between spans cost memory and time."""
    num_blocks = length // launch.block_length
    groups = -(-_NUM_PROGRAMS // -(-num_features // launch.block_features))
    wanted = min(-(-groups * launch.num_columns // batch), num_blocks // _MIN_BLOCKS_PER_SPAN)
    blocks_per_span = -(-num_blocks // max(wanted, 1))
    num_spans = -(-num_blocks // max(blocks_per_span, 1))
    num_groups = -(-batch * num_spans // launch.num_columns)
    return Spans(num_blocks, blocks_per_span, num_spans, num_groups)
