"""Kernels of the products with attention's weights, which lie in the workspace that `triton_weights.py` describes."""

# mypy: disable-error-code="no-untyped-def"
import triton
import triton.language as tl

from gecko_lab.kernels.attention.triton_weights import first_column, first_of_documents, last_visible


@triton.jit
def rows_kernel(
    weights,
    x,
    out,
    document_first,
    length,
    num_keys,
    first_tile,
    slots,
    width,
    PATTERN: tl.constexpr,
    SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    REPEATS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """W x: `[B, M, K, D]` to `[B, L, H, D]`, one query tile and `BLOCK_D` features; `BLOCK_R` divides `BLOCK_K`."""
    head = tl.program_id(2)
    tile = first_tile + tl.program_id(1)
    features = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    row = tile * BLOCK_Q
    offset = num_keys - length
    batch = (head // HEADS).to(tl.int64)
    if document_first is not None:
        document_first += batch * length
    column = first_column(offset + row, PATTERN, SIZE, BLOCK_K)
    start = first_of_documents(offset + row, document_first, offset, PATTERN, SIZE) // BLOCK_K * BLOCK_K
    i_q, i_r = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_R)
    weights += (head.to(tl.int64) * slots + tile % slots) * BLOCK_Q * width
    p_w = weights + i_q[:, None] * width + i_r[None, :]
    x += (batch * num_keys * (HEADS // REPEATS) + head % HEADS // REPEATS) * DIM
    product = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for key in range(start, tl.minimum(offset + row + BLOCK_Q, num_keys), BLOCK_R):
        b_w = tl.load(p_w + (key - column)).to(DOT_DTYPE)
        p_x = x + (key + i_r).to(tl.int64)[:, None] * (HEADS // REPEATS * DIM) + features[None, :]
        b_x = tl.load(p_x, mask=(key + i_r < num_keys)[:, None] & (features < DIM)[None, :], other=0.0).to(DOT_DTYPE)
        product = tl.dot(b_w, b_x, product, input_precision=PRECISION)
    out += ((batch * length + row) * HEADS + head % HEADS) * DIM
    mask = (row + i_q < length)[:, None] & (features < DIM)[None, :]
    tl.store(out + i_q[:, None] * (HEADS * DIM) + features[None, :], product.to(out.dtype.element_ty), mask=mask)


@triton.jit
def columns_kernel(
    weights,
    x,
    out,
    document_last,
    length,
    num_keys,
    first_key_tile,
    row_begin,
    row_end,
    slots,
    width,
    PATTERN: tl.constexpr,
    SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    REPEATS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Wᵀ x: `[B, L, H, D]` to `[B, M, K, D]`, one key tile and `BLOCK_D` features, over rows in the workspace.

    `BLOCK_R` divides `BLOCK_Q`. The heads that share a key are summed here, and what `out` holds where `ACCUMULATE`.
    """
    head = tl.program_id(2)  # of keys
    key = (first_key_tile + tl.program_id(1)) * BLOCK_K
    features = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    offset = num_keys - length
    batch = (head // (HEADS // REPEATS)).to(tl.int64)
    query_head = head % (HEADS // REPEATS) * REPEATS
    youngest = tl.minimum(key + BLOCK_K, num_keys) - 1
    last = last_visible(youngest, num_keys, PATTERN, SIZE)
    if document_last is not None:
        last = tl.minimum(last, tl.load(document_last + batch * num_keys + youngest))
    begin = tl.maximum(tl.maximum(key - offset, 0) // BLOCK_Q * BLOCK_Q, row_begin)
    end = tl.minimum(last - offset + 1, row_end)
    steps = tl.maximum((end - begin + BLOCK_R - 1) // BLOCK_R, 0)

    i_k, i_r = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_R)
    product = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    for step in range(steps * REPEATS):
        row = begin + step * BLOCK_R
        h = query_head
        if REPEATS > 1:
            row = begin + step % steps * BLOCK_R
            h = query_head + step // steps
        tile = row // BLOCK_Q
        column = key - first_column(offset + tile * BLOCK_Q, PATTERN, SIZE, BLOCK_K)
        place = ((batch * HEADS + h) * slots + tile % slots) * BLOCK_Q + row % BLOCK_Q
        b_w = tl.load(weights + place * width + column + i_r[:, None] * width + i_k[None, :]).to(DOT_DTYPE)
        p_x = x + ((batch * length + row) * HEADS + h) * DIM + i_r[:, None] * (HEADS * DIM) + features[None, :]
        b_x = tl.load(p_x, mask=(row + i_r < length)[:, None] & (features < DIM)[None, :], other=0.0).to(DOT_DTYPE)
        product = tl.dot(tl.trans(b_w), b_x, product, input_precision=PRECISION)
    out += ((batch * num_keys + key) * (HEADS // REPEATS) + head % (HEADS // REPEATS)) * DIM
    p_out = out + i_k[:, None] * (HEADS // REPEATS * DIM) + features[None, :]
    mask = (key + i_k < num_keys)[:, None] & (features < DIM)[None, :]
    if ACCUMULATE:
        product += tl.load(p_out, mask=mask, other=0.0)
    tl.store(p_out, product.to(out.dtype.element_ty), mask=mask)
