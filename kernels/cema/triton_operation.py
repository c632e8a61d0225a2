"""The launches of CEMA's Triton kernels: one method each, in terms of what one call of the operation is given."""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gecko_lab.kernels.backends import is_interpreting
from gecko_lab.kernels.cema.triton_gradients import (
    NUM_SUMS,
    begun_correlations_kernel,
    correlations_kernel,
    edges_kernel,
    parameters_kernel,
)
from gecko_lab.kernels.cema.triton_launch import (
    PARAMETERS_FEATURES,
    RECURRENCE_FEATURES,
    STATES_FEATURES,
    TABLES_FEATURES,
    TABLES_WARPS,
    Launch,
    Spans,
    choose_launch,
    choose_spans,
)
from gecko_lab.kernels.cema.triton_outputs import outputs_kernel
from gecko_lab.kernels.cema.triton_powers import tables_kernel
from gecko_lab.kernels.cema.triton_recurrence import recurrence_gradients_kernel, recurrence_kernel
from gecko_lab.kernels.cema.triton_states import span_states_kernel, span_sums_kernel

_DOT_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@dataclass(frozen=True)
class Documents:
    """Document numbers [B, L + 2] int32 (see `triton_blocks.py`) and the most that begin within a block [1] int32."""

    numbers: Tensor | None
    num_within: Tensor | None

    @classmethod
    def of(cls, document_starts: Tensor | None, block_length: int) -> "Documents":
        """Number the documents of `document_starts` [B, L] without waiting for the GPU."""
        if document_starts is None:
            return cls(None, None)
        batch, length = document_starts.shape
        numbers = document_starts.new_zeros(batch, length + 2, dtype=torch.int32)
        numbers[:, 1:-1] = document_starts.cumsum(1)
        numbers[:, -1] = numbers[:, -2]
        edges = numbers[:, : length // block_length * block_length + 1 : block_length]
        after = numbers[:, 1::block_length][:, 1 : edges.shape[1]]
        num_within = (after - edges[:, : after.shape[1]]).amax().reshape(1) if after.numel() else numbers.new_zeros(1)
        return cls(numbers, num_within)


class Operation:
    """What all launches of one call share."""

    def __init__(
        self,
        x: Tensor,
        p: Tensor,
        decay: Tensor,
        phase: Tensor | None,
        gamma: Tensor,
        document_starts: Tensor | None,
    ) -> None:
        self.batch, self.length, self.num_features = x.shape
        self.num_states, self.num_parts = gamma.shape[1:]
        self.launch: Launch = choose_launch(x.dtype, self.num_states)
        self.spans: Spans = choose_spans(self.batch, self.length, self.num_features, self.launch)
        self.documents = Documents.of(document_starts, self.launch.block_length)
        self.p, self.gamma = p.contiguous(), gamma.contiguous()
        magnitude = decay.double()
        if phase is None:
            self.q = magnitude.unsqueeze(0).contiguous()
        else:
            angle = phase.double()
            self.q = torch.stack((magnitude * angle.cos(), magnitude * angle.sin()))
        # The interpreter cuts numbers off where a GPU rounds them to bfloat16.
        self.table_dtype = torch.float32 if is_interpreting() else x.dtype
        exact = x.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
        self.products: dict[str, Any] = {
            "DOT_DTYPE": tl.float32 if is_interpreting() else _DOT_TYPES[x.dtype],
            "PRECISION": "ieee" if exact else "tf32",
        }
        self.shape: dict[str, Any] = {"COMPLEX": self.num_parts == 2, "N": self.launch.num_states}

    @property
    def blocks(self) -> dict[str, Any]:
        """Arguments of the kernels that go through blocks."""
        return {**self.places, **self.shape, **self.products}

    @property
    def places(self) -> dict[str, Any]:
        """Where the blocks are."""
        return {
            "documents_ptr": self.documents.numbers,
            "length": self.length,
            "num_features": self.num_features,
            "num_columns": self.num_columns,
            "num_spans": self.spans.num_spans,
            "blocks_per_span": self.spans.blocks_per_span,
            "num_blocks": self.spans.num_blocks,
            "T": self.launch.block_length,
            "M": self.launch.num_columns,
        }

    @property
    def parameters(self) -> dict[str, Any]:
        """Arguments of the kernels that need q, p and γ themselves."""
        return {"q_ptr": self.q, "p_ptr": self.p, "gamma_ptr": self.gamma}

    @property
    def num_columns(self) -> int:
        """Spans of all rows."""
        return self.batch * self.spans.num_spans

    @property
    def first_rest(self) -> int:
        """The first timestep after the whole blocks."""
        return self.spans.num_blocks * self.launch.block_length

    @property
    def span_lengths(self) -> tuple[int, int]:
        """Timesteps of a span, and of the last one of a row."""
        length = self.spans.blocks_per_span * self.launch.block_length
        return length, self.first_rest - (self.spans.num_spans - 1) * length

    @property
    def plane(self) -> tuple[int, int, int]:
        """R, D, N: the size of one state, with N padded."""
        return self.num_parts, self.num_features, self.launch.num_states

    def tables(self, *, derivatives: bool) -> "Tables":
        """Compute the tables, with or without derivatives."""
        T = self.launch.block_length
        made = Tables(
            powers=self.q.new_empty(*self.plane, T, dtype=self.table_dtype),
            derivatives=self.q.new_empty(*self.plane, T, dtype=self.table_dtype) if derivatives else None,
            outputs=self.q.new_empty(*self.plane, T, dtype=self.table_dtype),
            kernel=self.q.new_empty(self.num_features, T, dtype=self.table_dtype),
            carries=self.q.new_empty(3, 4, *self.plane[1:], dtype=torch.float32),
        )
        length, last_length = self.span_lengths
        tables_kernel[(triton.cdiv(self.num_features, TABLES_FEATURES),)](
            **self.parameters,
            powers_ptr=made.powers,
            derivatives_ptr=made.derivatives,
            outputs_ptr=made.outputs,
            kernel_ptr=made.kernel,
            carries_ptr=made.carries,
            num_features=self.num_features,
            num_states=self.num_states,
            span_length=length,
            last_span_length=last_length,
            T=T,
            BLOCK_D=TABLES_FEATURES,
            num_warps=TABLES_WARPS,
            **self.shape,
        )
        return made

    def grid(self) -> tuple[int, int]:
        """Programs of the kernels that go through blocks."""
        return triton.cdiv(self.num_features, self.launch.block_features), self.spans.num_groups

    def span_sums(self, x: Tensor, tables: "Tables", *, reverse: bool) -> Tensor:
        """`[B · num_spans, R, D, N]`, and if the tables have derivatives those behind: `[B · num_spans, 2 R, D, N]`."""
        parts = self.num_parts * (1 if tables.derivatives is None else 2)
        sums = self.q.new_empty(self.num_columns, parts, *self.plane[1:], dtype=torch.float32)
        span_sums_kernel[self.grid()](
            x_ptr=x,
            powers_ptr=tables.powers,
            derivatives_ptr=tables.derivatives,
            carries_ptr=tables.carries,
            sums_ptr=sums,
            REVERSE=reverse,
            BLOCK_D=self.launch.block_features,
            num_warps=self.launch.num_warps,
            num_stages=2,
            **self.blocks,
        )
        return sums

    def span_states(self, sums: Tensor, state: Tensor, tables: "Tables", *, reverse: bool) -> tuple[Tensor, Tensor]:
        """States `[B · num_spans, R, D, N]` at the spans' edges, and the one `[B, D, N, R]` beyond the last."""
        states = self.q.new_empty(self.num_columns, *self.plane, dtype=torch.float32)
        final = torch.empty_like(state)
        length, last_length = self.span_lengths
        span_states_kernel[(triton.cdiv(self.num_features, STATES_FEATURES), self.batch)](
            sums_ptr=sums,
            documents_ptr=self.documents.numbers,
            carries_ptr=tables.carries,
            **self.parameters,
            state_ptr=state,
            states_ptr=states,
            final_ptr=final,
            length=self.length,
            num_features=self.num_features,
            num_states=self.num_states,
            num_spans=self.spans.num_spans,
            span_length=length,
            last_span_length=last_length,
            REVERSE=reverse,
            DERIVATIVES=tables.derivatives is not None,
            BLOCK_D=STATES_FEATURES,
            num_warps=1,
            **self.shape,
        )
        return states, final

    def outputs(self, x: Tensor, y: Tensor, states: Tensor, tables: "Tables", *, reverse: bool) -> None:
        """Write the outputs of all whole blocks into y."""
        outputs_kernel[self.grid()](
            x_ptr=x,
            num_documents_ptr=self.documents.num_within,
            powers_ptr=tables.powers,
            outputs_ptr=tables.outputs,
            kernel_ptr=tables.kernel,
            carries_ptr=tables.carries,
            p_ptr=self.p,
            states_ptr=states,
            y_ptr=y,
            num_states=self.num_states,
            REVERSE=reverse,
            BLOCK_D=self.launch.block_features,
            num_warps=self.launch.num_warps,
            num_stages=2,
            **self.blocks,
        )

    def parameter_gradients(
        self, x: Tensor, dy: Tensor, states: Tensor, gradients: Tensor, readings: Tensor, tables: "Tables"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of p [D, N], of q [R, D, N] and of γ [D, N, R] through the whole blocks."""
        T, num_groups = self.launch.block_length, self.spans.num_groups
        sums = self.q.new_empty(num_groups, NUM_SUMS.value, *self.plane, dtype=torch.float32)
        num_lags = num_groups if self.documents.numbers is None else 2 * num_groups
        lags = self.q.new_empty(num_lags, self.num_features, T, T, dtype=torch.float32)
        ends = torch.empty_like(readings)
        grid = triton.cdiv(self.num_features, self.launch.gradient_features), num_groups
        correlations_kernel[grid](
            x_ptr=x,
            dy_ptr=dy,
            powers_ptr=tables.powers,
            derivatives_ptr=tables.derivatives,
            carries_ptr=tables.carries,
            ends_ptr=ends,
            sums_ptr=sums,
            lags_ptr=lags,
            BLOCK_D=self.launch.gradient_features,
            num_warps=self.launch.gradient_warps,
            num_stages=2,
            **self.blocks,
        )
        if self.documents.numbers is not None:
            begun_correlations_kernel[grid](
                x_ptr=x,
                dy_ptr=dy,
                num_documents_ptr=self.documents.num_within,
                lags_ptr=lags[num_groups:],
                BLOCK_D=self.launch.gradient_features,
                num_warps=self.launch.gradient_warps,
                num_stages=2,
                **self.products,
                **self.places,
            )
        length, last_length = self.span_lengths
        edges_kernel[(triton.cdiv(self.num_features, STATES_FEATURES), num_groups)](
            documents_ptr=self.documents.numbers,
            carries_ptr=tables.carries,
            states_ptr=states,
            gradients_ptr=gradients,
            readings_ptr=readings,
            ends_ptr=ends,
            sums_ptr=sums,
            length=self.length,
            num_features=self.num_features,
            num_columns=self.num_columns,
            num_spans=self.spans.num_spans,
            span_length=length,
            last_span_length=last_length,
            M=self.launch.num_columns,
            BLOCK_D=STATES_FEATURES,
            num_warps=1,
            **self.shape,
        )
        dp, dgamma = torch.empty_like(self.p), torch.empty_like(self.gamma)
        dq = self.p.new_empty(self.num_parts, self.num_features, self.num_states)
        parameters_kernel[(triton.cdiv(self.num_features, PARAMETERS_FEATURES),)](
            sums_ptr=sums,
            lags_ptr=lags,
            **self.parameters,
            dp_ptr=dp,
            dq_ptr=dq,
            dgamma_ptr=dgamma,
            num_features=self.num_features,
            num_states=self.num_states,
            num_groups=num_groups,
            num_lags=num_lags,
            T=T,
            BLOCK_D=PARAMETERS_FEATURES,
            num_warps=4,
            **self.shape,
        )
        return dp, dq, dgamma

    def recurrence(self, x: Tensor, y: Tensor, state: Tensor) -> Tensor:
        """Write the outputs after the whole blocks into y; the final state [B, D, N, R]."""
        final = torch.empty_like(state)
        recurrence_kernel[self.rest_grid()](
            x_ptr=x, state_ptr=state, y_ptr=y, final_ptr=final, num_warps=1, **self.rest, **self.parameters
        )
        return final

    def recurrence_gradients(
        self, x: Tensor, dy: Tensor, dx: Tensor, state: Tensor, dfinal: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Write the gradient of x after the whole blocks; those of the state before it, of p, q and γ."""
        dstate = torch.empty_like(state)
        dp = state.new_empty(self.batch, self.num_features, self.num_states)
        dq = state.new_empty(self.batch, self.num_parts, self.num_features, self.num_states)
        dgamma = torch.empty_like(state)
        recurrence_gradients_kernel[self.rest_grid()](
            x_ptr=x,
            dy_ptr=dy,
            state_ptr=state,
            dfinal_ptr=dfinal,
            dx_ptr=dx,
            dstate_ptr=dstate,
            dp_ptr=dp,
            dq_ptr=dq,
            dgamma_ptr=dgamma,
            num_warps=1,
            **self.rest,
            **self.parameters,
        )
        return dstate, dp.sum(0), dq.sum(0), dgamma.sum(0)

    def rest_grid(self) -> tuple[int, int]:
        """Programs of the kernels that go through the timesteps after the whole blocks."""
        return triton.cdiv(self.num_features, RECURRENCE_FEATURES), self.batch

    @property
    def rest(self) -> dict[str, Any]:
        """Arguments of the kernels that go through the timesteps after the whole blocks."""
        return {
            "documents_ptr": self.documents.numbers,
            "begin": self.first_rest,
            "length": self.length,
            "num_features": self.num_features,
            "num_states": self.num_states,
            "BLOCK_D": RECURRENCE_FEATURES,
            **self.shape,
        }


@dataclass(frozen=True)
class Tables:
    """See `triton_powers.py`."""

    powers: Tensor
    derivatives: Tensor | None
    outputs: Tensor
    kernel: Tensor
    carries: Tensor
