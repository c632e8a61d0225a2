"""Kernels of attention's softmax: its sums, its weights tile by tile, and their gradients.

The README derives what they compute. Legend: B batch, L queries, M keys, H heads, K key-value heads, S key dim, V value
dim, D either of the two. A query tile is `BLOCK_Q` queries, a key tile `BLOCK_K` keys. The weights of a query tile lie
in a workspace `[B·H, slots, BLOCK_Q, width]`: in slot `tile % slots`, from the key on that `first_column` says.
Everything else is contiguous: `[B, L, H, S]`, `[B, M, K, S]`, `[B, M, K, V]`, `[B, L, H, V]`, `[B, H, L]`.
"""

# mypy: disable-error-code="no-untyped-def"
import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def first_visible(position, PATTERN: tl.constexpr, SIZE: tl.constexpr):
    """`pattern.first_visible`."""
    if PATTERN == "sliding_chunk":
        first = tl.maximum(position // SIZE - 1, 0) * SIZE
    elif PATTERN == "chunk":
        first = position // SIZE * SIZE
    elif PATTERN == "window":
        first = tl.maximum(position - (SIZE - 1), 0)
    else:
        first = position * 0
    return first


@triton.jit
def last_visible(position, num_keys, PATTERN: tl.constexpr, SIZE: tl.constexpr):
    """`pattern.last_visible`."""
    if PATTERN == "sliding_chunk":
        last = (position // SIZE + 2) * SIZE - 1
    elif PATTERN == "chunk":
        last = (position // SIZE + 1) * SIZE - 1
    elif PATTERN == "window":
        last = position + (SIZE - 1)
    else:
        last = position * 0 + num_keys - 1
    return tl.minimum(last, num_keys - 1)


@triton.jit
def first_column(position, PATTERN: tl.constexpr, SIZE: tl.constexpr, BLOCK_K: tl.constexpr):
    """The key in column 0 of the weights of a query tile that begins at `position`."""
    return first_visible(position, PATTERN, SIZE) // BLOCK_K * BLOCK_K


@triton.jit
def first_of_documents(position, document_first, offset, PATTERN: tl.constexpr, SIZE: tl.constexpr):
    """The first key that queries see, of their own document alone where there are documents (`[L]` of `[B, L]`)."""
    first = first_visible(position, PATTERN, SIZE)
    if document_first is not None:
        first = tl.maximum(first, tl.load(document_first + position - offset))
    return first


@triton.jit
def _between(first, keys, last):
    """Bool `[Q, K]`: first_q ≤ key_k ≤ last_q, in one comparison, of unsigned distances; needs first_q ≤ last_q."""
    distance = (keys[None, :] - first[:, None]).to(tl.uint32, bitcast=True)
    return distance <= (last - first).to(tl.uint32, bitcast=True)[:, None]


@triton.jit
def log_sum_exp_kernel(
    q,
    k,
    document_first,
    log_sum_exp,
    length,
    num_keys,
    PATTERN: tl.constexpr,
    SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    REPEATS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The logarithm of Σ_s exp(q_t · k_s) for one tile of queries, online; `BLOCK_D` holds all of S.

    A tile that reaches beyond the last query or key repeats it.
    """
    head = tl.program_id(1)
    row = tl.program_id(0) * BLOCK_Q
    batch = (head // HEADS).to(tl.int64)
    offset = num_keys - length
    i_q, i_k, i_d = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_D)
    if document_first is not None:
        document_first += batch * length
    position = tl.minimum(offset + row + i_q, num_keys - 1)
    first = first_of_documents(position, document_first, offset, PATTERN, SIZE)
    start = first_of_documents(offset + row, document_first, offset, PATTERN, SIZE)

    q += (batch * length + row) * HEADS * KEY_DIM + (head % HEADS) * KEY_DIM
    p_q = q + tl.minimum(i_q, length - row - 1)[:, None] * (HEADS * KEY_DIM) + i_d[None, :]
    if KEY_DIM == BLOCK_D:
        b_q = tl.load(p_q).to(DOT_DTYPE)
    else:
        b_q = tl.load(p_q, mask=(i_d < KEY_DIM)[None, :], other=0.0).to(DOT_DTYPE)
    k += batch * num_keys * (HEADS // REPEATS) * KEY_DIM + (head % HEADS // REPEATS) * KEY_DIM

    maximum = tl.full((BLOCK_Q,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    for key in range(start, tl.minimum(offset + row + BLOCK_Q, num_keys), BLOCK_K):
        keys = key + i_k
        p_k = k + tl.minimum(keys, num_keys - 1).to(tl.int64)[:, None] * (HEADS // REPEATS * KEY_DIM) + i_d[None, :]
        if KEY_DIM == BLOCK_D:
            b_k = tl.load(p_k).to(DOT_DTYPE)
        else:
            b_k = tl.load(p_k, mask=(i_d < KEY_DIM)[None, :], other=0.0).to(DOT_DTYPE)
        scores = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * LOG2_E
        scores = tl.where(_between(first, keys, position), scores, -float("inf"))
        highest = tl.maximum(maximum, tl.max(scores, axis=1))
        finite = tl.where(highest == -float("inf"), 0.0, highest)  # a row that has seen no key yet
        total = total * tl.exp2(maximum - finite) + tl.sum(tl.exp2(scores - finite[:, None]), axis=1)
        maximum = highest
    p_log = log_sum_exp + head.to(tl.int64) * length + row + i_q
    tl.store(p_log, (maximum + tl.log2(total)) / LOG2_E, mask=row + i_q < length)


@triton.jit
def row_dot_kernel(
    y,
    dy,
    delta,
    length,
    HEADS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The inner products `[B, H, L]` delta_t = y_t · dy_t, which are Σ_s P_ts dP_ts."""
    head = tl.program_id(1)
    row = tl.program_id(0) * BLOCK_Q
    batch = (head // HEADS).to(tl.int64)
    i_q, i_d = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_D)
    base = (batch * length + row) * HEADS * VALUE_DIM + (head % HEADS) * VALUE_DIM
    total = tl.zeros((BLOCK_Q,), tl.float32)
    for d in range(0, VALUE_DIM, BLOCK_D):
        offsets = base + i_q[:, None] * (HEADS * VALUE_DIM) + (d + i_d)[None, :]
        mask = (row + i_q < length)[:, None] & (d + i_d < VALUE_DIM)[None, :]
        b_y = tl.load(y + offsets, mask=mask, other=0.0).to(tl.float32)
        b_dy = tl.load(dy + offsets, mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(b_y * b_dy, axis=1)
    tl.store(delta + head.to(tl.int64) * length + row + i_q, total, mask=row + i_q < length)


@triton.jit
def _tile_product(
    x,
    y,
    rows,
    keys,
    x_stride,
    y_stride,
    DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The product x yᵀ of one query and one key tile, which repeat their last of `rows` and `keys`; `DIM` is S or V."""
    i_q, i_k, i_d = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_D)
    p_x = x + tl.minimum(i_q, rows - 1)[:, None] * x_stride + i_d[None, :]
    p_y = y + tl.minimum(i_k, keys - 1)[:, None] * y_stride + i_d[None, :]
    product = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
    for d in range(0, DIM, BLOCK_D):
        if DIM % BLOCK_D == 0:
            b_x = tl.load(p_x + d).to(DOT_DTYPE)
            b_y = tl.load(p_y + d).to(DOT_DTYPE)
        else:
            inside = (d + i_d < DIM)[None, :]
            b_x = tl.load(p_x + d, mask=inside, other=0.0).to(DOT_DTYPE)
            b_y = tl.load(p_y + d, mask=inside, other=0.0).to(DOT_DTYPE)
        product = tl.dot(b_x, tl.trans(b_y), product, input_precision=PRECISION)
    return product


@triton.jit
def weights_kernel(
    q,
    k,
    v,
    dy,
    document_first,
    log_sum_exp,
    delta,
    weights,
    dscores,
    length,
    num_keys,
    first_tile,
    slots,
    width,
    PATTERN: tl.constexpr,
    SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    REPEATS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """P = exp(q kᵀ − log-sum-exp) of one query and one key tile; where there is `dscores`, dS = P ∘ (dy vᵀ − delta)."""
    head = tl.program_id(2)
    tile = first_tile + tl.program_id(1)
    column = tl.program_id(0) * BLOCK_K
    row = tile * BLOCK_Q
    offset = num_keys - length
    key = first_column(offset + row, PATTERN, SIZE, BLOCK_K) + column
    batch = (head // HEADS).to(tl.int64)
    if document_first is not None:
        document_first += batch * length
    start = first_of_documents(offset + row, document_first, offset, PATTERN, SIZE)
    if (key < tl.minimum(offset + row + BLOCK_Q, num_keys)) & (key + BLOCK_K > start):
        i_q, i_k = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_K)
        rows, keys = length - row, num_keys - key
        q_row = (batch * length + row) * HEADS + head % HEADS
        k_row = (batch * num_keys + key) * (HEADS // REPEATS) + head % HEADS // REPEATS
        scores = _tile_product(
            q + q_row * KEY_DIM,
            k + k_row * KEY_DIM,
            rows,
            keys,
            HEADS * KEY_DIM,
            HEADS // REPEATS * KEY_DIM,
            KEY_DIM,
            BLOCK_Q,
            BLOCK_K,
            BLOCK_D,
            DOT_DTYPE,
            PRECISION,
        )
        position = tl.minimum(offset + row + i_q, num_keys - 1)
        first = first_of_documents(position, document_first, offset, PATTERN, SIZE)
        statistics = head.to(tl.int64) * length + row + tl.minimum(i_q, rows - 1)
        b_log = tl.load(log_sum_exp + statistics)
        seen = _between(first, key + i_k, position)
        p = tl.where(seen, tl.exp2((scores - b_log[:, None]) * LOG2_E), 0.0)
        place = ((head.to(tl.int64) * slots + tile % slots) * BLOCK_Q * width + column).to(tl.int64)
        places = place + i_q[:, None] * width + i_k[None, :]
        tl.store(weights + places, p.to(weights.dtype.element_ty))
        if dscores is not None:
            p = p.to(weights.dtype.element_ty)  # half the registers while the next product runs
            dp = _tile_product(
                dy + q_row * VALUE_DIM,
                v + k_row * VALUE_DIM,
                rows,
                keys,
                HEADS * VALUE_DIM,
                HEADS // REPEATS * VALUE_DIM,
                VALUE_DIM,
                BLOCK_Q,
                BLOCK_K,
                BLOCK_D,
                DOT_DTYPE,
                PRECISION,
            )
            b_delta = tl.load(delta + statistics)
            ds = p.to(tl.float32) * (dp - b_delta[:, None])
            tl.store(dscores + places, ds.to(dscores.dtype.element_ty))
