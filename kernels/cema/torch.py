"""CEMA by blocks of T timesteps, as products of matrices. Derivation in README.md; block layout in blocks.py.

Shapes: B batch, L length, D features, N states a feature, R parts of a number (2 complex, 1 real), S = N·R,
T timesteps of a block, M blocks. Inside a block, per feature,

    [ y | u ] = [ x | h ] · [[ kernel,  in_weights ],
                             [ out_weights,    ·   ]]        h: state before the block, then h ← q^T h + u

so that forward is one product over the rows [x | h], backward one over [dy | g] (g: gradient of the state after the
block) and the gradient of all tables is [x | h]ᵀ [dy | g].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gecko_lab.kernels.cema.blocks import BlockLayout
from gecko_lab.kernels.cema.reference import multiplier, step
from gecko_lab.kernels.cema.tables import Tables, as_numbers, make_tables, parameter_gradients
from gecko_lab.kernels.operation import operation

# The largest block for so many timesteps of all rows, and more. The triangular product grows with T, and so do the
# tables, whatever the number of timesteps; the scan over blocks grows with 1/T. Measured best of 16 to 128.
_BLOCK_LENGTHS = ((8192, 64), (1025, 32), (0, 16))
_SHORTEST_BLOCK = 8
# On a CPU features are worked on in slabs whose rows [x | h] take about this much: they stay in cache, and their memory
# is used again instead of being asked from the system (whose page faults cost more than the products).
_SLAB_BYTES = 8 << 20


def cema_torch(
    x: Tensor,
    p: Tensor,
    decay: Tensor,
    phase: Tensor | None,
    gamma: Tensor,
    state: Tensor,
    document_starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The arguments of ``cema_reference``; ``x`` may be of lower precision than the others and decides y's dtype."""
    length = x.shape[1]
    if length == 1:
        if document_starts is not None:
            state = torch.where(document_starts[:, 0, None, None, None], 0.0, state)
        y, state = step(x[:, 0].to(state.dtype), p, multiplier(decay, phase), gamma, state)
        return y.unsqueeze(1).to(x.dtype), state
    return cema_blocks(x, p, decay, phase, gamma, state, document_starts)


def _largest_block(num_timesteps: int) -> int:
    """T for so many timesteps of all rows."""
    return next(size for least, size in _BLOCK_LENGTHS if num_timesteps >= least)


def _block_length(batch: int, length: int) -> int:
    """For as few blocks as the largest one allows, about equally full; even, so that complex views are aligned."""
    per_block = -(-length // -(-length // _largest_block(batch * length)))
    return min(length + length % 2, -(-per_block // 8) * 8)


def _layout(x: Tensor, document_starts: Tensor | None) -> BlockLayout:
    """Even blocks of the best length, or shorter ones if so many documents start that most blocks would be pieces."""
    batch, length, _ = x.shape
    block_length = _block_length(batch, length)
    if document_starts is not None:
        num_inside = int(document_starts[:, 1:].count_nonzero())
        while block_length > _SHORTEST_BLOCK and num_inside * block_length > 2 * batch * length:
            block_length = -(-block_length // 4) * 2
    return BlockLayout(batch, length, block_length, document_starts)


def _slabs(layout: BlockLayout, gamma: Tensor) -> list[slice]:
    num_features, num_states, num_parts = gamma.shape
    if gamma.device.type != "cpu":
        return [slice(0, num_features)]
    row_bytes = (layout.block_length + num_states * num_parts) * gamma.dtype.itemsize
    fitting = max(16, _SLAB_BYTES // (layout.num_rows * row_bytes))
    size = -(-num_features // -(-num_features // fitting))
    return [slice(begin, min(begin + size, num_features)) for begin in range(0, num_features, size)]


class _Slab:
    """The tables of some features and the steps that forward and backward share."""

    def __init__(
        self, layout: BlockLayout, features: slice, p: Tensor, decay: Tensor, phase: Tensor | None, gamma: Tensor
    ) -> None:
        p, decay, gamma = p[features], decay[features], gamma[features]
        phase = None if phase is None else phase[features]
        T, r = layout.block_length, layout.tail_length
        self.layout = layout
        self.parameters = p, decay, phase, gamma
        self.numbers = gamma.shape[1:]  # N, R
        self.tables = make_tables(p, decay, phase, gamma, T)
        self.carry_DN = self.tables.powers[:, T].contiguous()
        self.tail_carry_DN = self.tables.powers[:, r].contiguous()
        self.tail_in_DrS = self.tables.in_weights[:, T - r :]
        # kernel_DTT[d, j, i] = kernel[d, i - j], zero above the diagonal
        self.kernel_DTT = F.pad(self.tables.kernel, (T - 1, 0)).unfold(1, T, 1).flip(1)

    def states(self, packed: Tensor) -> Tensor:
        """``[D, M, S]`` as numbers ``[D, M, N]``."""
        return as_numbers(packed.unflatten(-1, self.numbers))

    def by_block(self, packed: Tensor) -> Tensor:
        """Of the main blocks' states ``[D, M, S]`` the view ``[K, B, D, S]``, K blocks of a row."""
        main = packed[:, : self.layout.num_main].unflatten(1, (self.layout.batch, self.layout.num_blocks))
        return main.permute(2, 1, 0, 3)

    def tail(self, blocks: Tensor) -> Tensor:
        """Of ``[D, M, ...]`` the last main block of each row, ``[D, B, ...]``."""
        return blocks[:, self.layout.num_blocks - 1 : self.layout.num_main : self.layout.num_blocks]

    def rows(self, x_BLD: Tensor, state_BDNR: Tensor) -> Tensor:
        """``[x | h]`` [D, M, T+S] of every block: its timesteps and the state before it (zero where none may enter)."""
        layout, T = self.layout, self.layout.block_length
        num_features, _, size = self.tables.in_weights.shape
        rows_DMZ = state_BDNR.new_empty(num_features, layout.num_rows, T + size)
        layout.write(x_BLD, rows_DMZ[..., :T])
        added_DMS = torch.bmm(rows_DMZ[:, : layout.num_main, :T], self.tables.in_weights)
        # Step by step over blocks, each step over numbers that lie together: states[k] is the one before block k.
        packed_KBDS = state_BDNR.new_empty(layout.num_blocks, layout.batch, num_features, size)
        packed_KBDS[0] = state_BDNR.flatten(2)
        packed_KBDS[1:] = self.by_block(added_DMS)[:-1]
        states = self.states(packed_KBDS).unbind()
        rows_DMZ[:, layout.num_main :, T:] = 0.0
        pieces_MDN = self.states(rows_DMZ[..., T:]).transpose(0, 1)
        for k, cuts in enumerate(layout.cuts):
            if k > 0:
                states[k].addcmul_(states[k - 1], self.carry_DN)
            for cut in cuts:
                if cut.piece is not None:
                    pieces_MDN[cut.piece] = states[k][cut.row]
                states[k][cut.row] = 0.0
        self.by_block(rows_DMZ[..., T:]).copy_(packed_KBDS)
        return rows_DMZ


@operation("gecko_lab::cema_blocks")
def cema_blocks(
    x: Tensor,
    p: Tensor,
    decay: Tensor,
    phase: Tensor | None,
    gamma: Tensor,
    state: Tensor,
    document_starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Outputs [B, L, D] in x's dtype and the final state [B, D, N, R]."""
    layout = _layout(x, document_starts)
    T, r = layout.block_length, layout.tail_length
    y, final = x.new_empty(x.shape), state.new_empty(state.shape)
    with torch.autocast(x.device.type, enabled=False):
        for features in _slabs(layout, gamma):
            slab = _Slab(layout, features, p, decay, phase, gamma)
            rows_DMZ = slab.rows(x[..., features], state[:, features])
            last_DBZ = slab.tail(rows_DMZ)
            final_DBS = torch.bmm(last_DBZ[..., :r], slab.tail_in_DrS)
            slab.states(final_DBS).addcmul_(slab.states(last_DBZ[..., T:]), slab.tail_carry_DN.unsqueeze(1))
            final[:, features] = final_DBS.unflatten(-1, slab.numbers).transpose(0, 1)
            weights_DZT = torch.cat((slab.kernel_DTT, slab.tables.out_weights.transpose(1, 2)), dim=1)
            layout.read(torch.bmm(rows_DMZ, weights_DZT), y[..., features])
    return y, final


@cema_blocks.register_fake
def _(x, p, decay, phase, gamma, state, document_starts):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape), state.new_empty(state.shape)


@operation("gecko_lab::cema_blocks_backward")
def cema_blocks_backward(
    dy: Tensor,
    dfinal: Tensor,
    x: Tensor,
    p: Tensor,
    decay: Tensor,
    phase: Tensor | None,
    gamma: Tensor,
    state: Tensor,
    document_starts: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the floating arguments, an empty one for a missing phase. States and tables are computed anew."""
    layout = _layout(x, document_starts)
    r = layout.tail_length
    dx, dp, ddecay, dgamma, dstate = (t.new_empty(t.shape) for t in (x, p, decay, gamma, state))
    dphase = p.new_empty(0) if phase is None else phase.new_empty(phase.shape)
    with torch.autocast(x.device.type, enabled=False):
        for features in _slabs(layout, gamma):
            slab = _Slab(layout, features, p, decay, phase, gamma)
            rows_DMZ = slab.rows(x[..., features], state[:, features])
            dfinal_DBS = dfinal[:, features].transpose(0, 1).flatten(2).contiguous()
            grads_DMZ, dstate[:, features] = _gradient_rows(slab, dy[..., features], dfinal_DBS)

            weights_DTZ = torch.cat((slab.kernel_DTT, slab.tables.in_weights), dim=2)
            dx_DMT = torch.bmm(grads_DMZ, weights_DTZ.transpose(1, 2))
            slab.tail(dx_DMT)[..., :r] += torch.bmm(dfinal_DBS, slab.tail_in_DrS.transpose(1, 2))
            layout.read(dx_DMT, dx[..., features])

            dtables = _table_gradients(slab, rows_DMZ, grads_DMZ, dfinal_DBS)
            gradients = parameter_gradients(*slab.parameters, slab.tables.powers, dtables)
            for whole, part in zip((dp, ddecay, dphase, dgamma), gradients, strict=True):
                if part is not None:
                    whole[features] = part
    return dx, dp, ddecay, dphase, dgamma, dstate


@cema_blocks_backward.register_fake
def _(dy, dfinal, x, p, decay, phase, gamma, state, document_starts):  # type: ignore[no-untyped-def]
    dphase = p.new_empty(0) if phase is None else phase.new_empty(phase.shape)
    dx, dp, ddecay, dgamma, dstate = (t.new_empty(t.shape) for t in (x, p, decay, gamma, state))
    return dx, dp, ddecay, dphase, dgamma, dstate


def _gradient_rows(slab: _Slab, dy_BLD: Tensor, dfinal_DBS: Tensor) -> tuple[Tensor, Tensor]:
    """``[dy | g]`` [D, M, T+S], g: gradient of the state after a block; and that of the incoming state [B, D, N, R]."""
    layout, T = slab.layout, slab.layout.block_length
    num_features, _, size = slab.tables.in_weights.shape
    grads_DMZ = dfinal_DBS.new_empty(num_features, layout.num_rows, T + size)
    layout.write(dy_BLD, grads_DMZ[..., :T])
    read_DMS = torch.bmm(grads_DMZ[..., :T], slab.tables.out_weights)  # gradient of the state before, through y
    packed_KBDS = slab.by_block(read_DMS).contiguous()
    grads = slab.states(packed_KBDS).unbind()  # those of the states before, and so of the states after the block before
    pieces_MDN = slab.states(read_DMS).transpose(0, 1)
    # The final state is reached through the tail's own tables, because the last block may be partly filled.
    grads[-1].addcmul_(slab.states(dfinal_DBS).transpose(0, 1), slab.tail_carry_DN.conj())
    carry_DN = slab.carry_DN.conj().resolve_conj()
    for k in range(layout.num_blocks - 1, -1, -1):
        if k < layout.num_blocks - 1:
            grads[k].addcmul_(grads[k + 1], carry_DN)
        for cut in layout.cuts[k]:
            grads[k][cut.row] = 0.0 if cut.piece is None else pieces_MDN[cut.piece]
    after = slab.by_block(grads_DMZ[..., T:])
    after[:-1] = packed_KBDS[1:]
    after[-1] = 0.0
    grads_DMZ[:, layout.num_main :, T:] = 0.0
    return grads_DMZ, packed_KBDS[0].unflatten(-1, slab.numbers)


def _table_gradients(slab: _Slab, rows_DMZ: Tensor, grads_DMZ: Tensor, dfinal_DBS: Tensor) -> Tables:
    """``[x | h]ᵀ [dy | g]`` and the tail's share, as gradients of the tables."""
    T, r = slab.layout.block_length, slab.layout.tail_length
    products_DZZ = torch.bmm(rows_DMZ.transpose(1, 2), grads_DMZ)
    # Sums along diagonals: rows written with stride 2T and read with stride 2T - 1 put equal i - j below each other.
    skewed = F.pad(products_DZZ[:, :T, :T].flip(1), (0, T)).flatten(1)[:, : T * (2 * T - 1)]
    dkernel = skewed.unflatten(1, (T, 2 * T - 1)).sum(1)[:, T - 1 :]
    din = products_DZZ[:, :T, T:].contiguous()
    dout = products_DZZ[:, T:, :T].transpose(1, 2).contiguous()
    dpowers = torch.zeros_like(slab.tables.powers)
    # q^T: Σ conj(h) g over blocks, found on the diagonals of hᵀ g
    parts = products_DZZ[:, T:, T:].unflatten(2, slab.numbers).unflatten(1, slab.numbers).diagonal(dim1=1, dim2=3)
    if slab.numbers[1] == 2:
        dpowers[:, T] = torch.complex(parts[:, 0, 0] + parts[:, 1, 1], parts[:, 0, 1] - parts[:, 1, 0])
    else:
        dpowers[:, T] = parts[:, 0, 0]

    last_DBZ = slab.tail(rows_DMZ)
    din[:, T - r :] += torch.bmm(last_DBZ[..., :r].transpose(1, 2), dfinal_DBS)
    dpowers[:, r] += (slab.states(last_DBZ[..., T:]).conj() * slab.states(dfinal_DBS)).sum(1)
    return Tables(dkernel, din, dout, dpowers)


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward(ctx, dy, dfinal):  # type: ignore[no-untyped-def]
    saved = ctx.saved_tensors  # read once: activation checkpointing allows no second time
    dx, dp, ddecay, dphase, dgamma, dstate = cema_blocks_backward(dy, dfinal, *saved)
    has_phase = saved[3] is not None
    return dx, dp, ddecay, dphase if has_phase else None, dgamma, dstate, None


cema_blocks.register_autograd(_backward, setup_context=_setup_context)
