"""How ``[B, L]`` timesteps lie in blocks of ``T``, with documents kept apart without arithmetic.

Every row is cut at multiples of T into *main* blocks. A main block in which documents start holds, at their natural
places, only the timesteps from its last start on, and zeros before them. The runs of timesteps before it, one for each
start that is not at the block's edge, become *pieces*: blocks of their own, appended behind the main ones, again at
their natural places among zeros. Values of two documents thus never meet in a product, not even to be multiplied by
zero, so that a NaN stays in its document; and whatever the number of documents, nearly all data is moved by one
transposition.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def transpose(x: Tensor) -> Tensor:
    """``[batch, rows, columns]`` (contiguous) to contiguous ``[batch, columns, rows]``."""
    batch, rows, columns = x.shape
    if x.device.type != "cpu":
        return x.transpose(1, 2).contiguous()
    # On a CPU a channel shuffle of channels-last memory is the same permutation, and vectorised: a third of the time.
    size = rows * columns
    shuffled = torch.native_channel_shuffle(x.as_strided((batch, size, 1, 1), (size, 1, size, size)), rows)
    return shuffled.reshape(batch, columns, rows)


@dataclass(frozen=True)
class Cut:
    """One main block in which a document starts: the state before it does not enter it, but may enter a piece."""

    row: int
    piece: int | None  # the piece that continues the document from before the block, if any


class BlockLayout:
    """Where ``[B, L]`` timesteps lie in ``B·num_blocks`` main blocks and ``num_pieces`` pieces of T timesteps."""

    def __init__(self, batch: int, length: int, block_length: int, document_starts: Tensor | None) -> None:
        self.batch = batch
        self.length = length
        self.block_length = block_length
        self.num_blocks = -(-length // block_length)
        self.num_main = batch * self.num_blocks
        self.num_pieces = 0
        # by block of a row: the rows whose state is cut there
        self.cuts: list[list[Cut]] = [[] for _ in range(self.num_blocks)]
        if document_starts is not None:
            self._separate(document_starts)

    @property
    def num_rows(self) -> int:
        """All blocks: main ones and pieces."""
        return self.num_main + self.num_pieces

    @property
    def tail_length(self) -> int:
        """Timesteps in the last main block of a row, 1 to T."""
        return self.length - (self.num_blocks - 1) * self.block_length

    def _separate(self, document_starts: Tensor) -> None:
        T = self.block_length
        starts = F.pad(document_starts, (0, self.num_blocks * T - self.length)).flatten().nonzero().squeeze(-1)
        edges = starts // T * T  # first timestep of the start's block
        before = torch.cat((starts.new_full((1,), -1), starts[:-1]))  # the start before it, of whichever row
        inside = starts > edges
        continues = (before < edges)[inside]
        begins = torch.maximum(before, edges)[inside]
        ends, edges = starts[inside], edges[inside]
        self.num_pieces = ends.numel()
        places = edges.unsqueeze(-1) + torch.arange(T, device=edges.device)
        taken = (places >= begins.unsqueeze(-1)) & (places < ends.unsqueeze(-1))
        self._taken_in_pieces = taken.flatten().nonzero().squeeze(-1)
        self._taken = places[taken]

        piece_of = dict(zip((edges // T)[continues].tolist(), continues.nonzero().squeeze(-1).tolist(), strict=True))
        for block in (starts // T).unique().tolist():
            row, index = divmod(block, self.num_blocks)
            piece = piece_of.get(block)
            self.cuts[index].append(Cut(row, None if piece is None else self.num_main + piece))

    def write(self, x: Tensor, blocks: Tensor) -> None:
        """Write timesteps ``x`` [B, L, D] into ``blocks`` [D, M, T], M main blocks and pieces."""
        T, num_features = self.block_length, x.shape[-1]
        padded = self.num_blocks * T
        if padded > self.length:
            x = F.pad(x, (0, 0, 0, padded - self.length))
        x = x.to(blocks.dtype).contiguous()
        # Block by block, so that all threads have a part of the transposition.
        blocks[:, : self.num_main] = transpose(x.view(self.num_main, T, num_features)).transpose(0, 1)
        if self.num_pieces:
            pieces = x.new_zeros(self.num_pieces * T, num_features)
            pieces[self._taken_in_pieces] = x.view(-1, num_features)[self._taken]
            blocks[:, self.num_main :] = pieces.t().unflatten(1, (self.num_pieces, T))
            blocks[:, self._taken // T, self._taken % T] = 0.0

    def read(self, blocks: Tensor, x: Tensor) -> None:
        """Write the timesteps that lie in ``blocks`` [D, M, T] (contiguous) to ``x`` [B, L, D]."""
        num_features, main = blocks.shape[0], self.num_main * self.block_length
        timesteps = transpose(blocks.flatten(1).unsqueeze(0))[0]
        if self.num_pieces:
            timesteps[self._taken] = timesteps[main:][self._taken_in_pieces]
        x.copy_(timesteps[:main].view(self.batch, -1, num_features)[:, : self.length])
