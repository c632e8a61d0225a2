"""Which part of the tensors a program works on, and its addresses; legend in `triton_forward.py`."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl


@triton.jit
def locate_chunk(length, NUM_GROUPS: tl.constexpr, CHUNK: tl.constexpr, GROUPS: tl.constexpr):
    """Of a program: its chunk among those of all batch rows, its first timestep, the number of these, its groups.

    Groups come first: programs that run together read adjacent memory.
    """
    group_blocks: tl.constexpr = (NUM_GROUPS + GROUPS - 1) // GROUPS
    num_chunks = tl.cdiv(length, CHUNK)
    i_c = tl.program_id(0) // group_blocks
    o_g = tl.program_id(0) % group_blocks * GROUPS + tl.arange(0, GROUPS)
    first = i_c % num_chunks * CHUNK
    first_row = (i_c // num_chunks).to(tl.int64) * length + first
    return i_c.to(tl.int64), first_row, tl.minimum(length - first, CHUNK), o_g


@triton.jit
def locate_span(num_timesteps, NUM_GROUPS: tl.constexpr, SPAN: tl.constexpr, GROUPS: tl.constexpr):
    """Of a program that heeds neither batch rows nor documents: its first timestep, the number of these, its groups.

    The last timesteps are taken first: they are the ones that the kernels before may have left in the cache.
    """
    group_blocks: tl.constexpr = (NUM_GROUPS + GROUPS - 1) // GROUPS
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    first_row = (program // group_blocks).to(tl.int64) * SPAN
    o_g = program % group_blocks * GROUPS + tl.arange(0, GROUPS)
    return first_row, tl.minimum(num_timesteps - first_row, SPAN).to(tl.int32), o_g


@triton.jit
def feature_offsets(o_g, NUM_GROUPS: tl.constexpr, GROUP_SIZE: tl.constexpr, PADDED: tl.constexpr):
    """Offsets within a timestep, and which of them exist, `[1, GROUPS, PADDED]`."""
    o_k = tl.arange(0, PADDED)
    o_f = o_g[:, None] * GROUP_SIZE + o_k[None, :]
    m_f = (o_g < NUM_GROUPS)[:, None] & (o_k < GROUP_SIZE)[None, :]
    return o_f[None, :, :], m_f[None, :, :]


@triton.jit
def load_features(pointer, o_r, num_rows, o_f, m_f, DIM: tl.constexpr):
    """Tile `[ROWS, GROUPS, PADDED]` of the timesteps `o_r`, as stored; zero where nothing exists."""
    mask = (o_r < num_rows)[:, None, None] & m_f
    return tl.load(pointer + o_r[:, None, None] * DIM + o_f, mask=mask, other=0.0)


@triton.jit
def store_features(pointer, b_x, o_r, num_rows, o_f, m_f, DIM: tl.constexpr):
    """Store a tile `[ROWS, GROUPS, PADDED]` at the timesteps `o_r`, rounded to what the tensor holds."""
    mask = (o_r < num_rows)[:, None, None] & m_f
    tl.store(pointer + o_r[:, None, None] * DIM + o_f, b_x.to(pointer.dtype.element_ty), mask=mask)
