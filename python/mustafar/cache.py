"""A KV cache whose older tokens are pruned and compressed, and attention of one token over it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mustafar import checks as check
from mustafar import ops, ref
from mustafar._core.tensor_checks import shape_text
from mustafar.checks import checks
from mustafar.prune import kept


class MustafarCache:
    """Keys and values of one attention layer for a batch of sequences of unequal lengths.

    The newest tokens lie dense in a window; blocks of ``block`` tokens leave it, oldest first, and
    keep their largest magnitudes, ``kept(head_dim, sparsity)`` of each token (``mustafar.prune``).
    A block leaves when a token comes and the window holds ``residual_length + block``: attention
    always sees at least ``residual_length`` dense tokens, where there are so many. Without
    sparsity nothing is pruned.

    Lengths are on the device and ``append`` reads them there: a decode step is a CUDA graph that
    can be replayed. The host counts along; ``advance`` tells it of replays.

    Args:
        batch: sequences.
        kv_heads: heads of keys and values.
        head_dim: 64, 96 or 128.
        capacity: the most tokens of a sequence.
        k_sparsity, v_sparsity: from 0 to 0.95.
        residual_length: tokens that stay dense.
        block: tokens that leave the window together; 1 keeps it at ``residual_length``.
        dtype: float16 or bfloat16; on a CPU also float32.
        device: where it is.
        pages: None: room for every sequence's capacity; otherwise a pool of so many pages of 64
            tokens, given to sequences as they grow and taken back by ``release``.

    Attributes:
        tensors: what the cache is made of (``mustafar.ref.CacheTensors``).

    Raises:
        ValueError: an argument that is not allowed; its name, value and what is.
    """

    def __init__(
        self,
        batch: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        *,
        k_sparsity: float = 0.7,
        v_sparsity: float = 0.7,
        residual_length: int = 32,
        block: int = 256,
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "cuda",
        pages: int | None = None,
    ) -> None:
        checks.integer(batch, "batch", 1)
        checks.integer(kv_heads, "kv_heads", 1)
        checks.integer(capacity, "capacity", 1)
        checks.integer(residual_length, "residual_length", 0)
        checks.integer(block, "block", 1)
        check.head_dim(head_dim)
        check.sparsity(k_sparsity, "k_sparsity")
        check.sparsity(v_sparsity, "v_sparsity")
        device = checks.torch_device(device, "device")
        check.dtype(dtype, device, "dtype")
        if pages is not None:
            checks.integer(pages, "pages", 1)
        self.batch, self.kv_heads, self.head_dim = batch, kv_heads, head_dim
        self.capacity, self.residual_length, self.block = capacity, residual_length, block
        most = max(capacity - residual_length, 0) // block * block
        self._blocks = math.ceil(most / ref.BLOCK)
        pool = batch * self._blocks if pages is None else pages
        window = max(residual_length + block, 16)

        def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        def rows(sparsity: float) -> tuple[Tensor, Tensor]:
            count = kept(head_dim, sparsity)
            words = 0 if count == head_dim else head_dim // 32
            page = (pool, kv_heads, ref.BLOCK)
            return empty(*page, words, dtype=torch.int32), empty(*page, count)

        table = None
        if pages is not None:
            table = torch.full((batch, self._blocks), -1, dtype=torch.int32, device=device)
        self.tensors = ref.CacheTensors(
            *rows(k_sparsity),
            *rows(v_sparsity),
            empty(batch, kv_heads, window, head_dim),
            empty(batch, kv_heads, window, head_dim),
            torch.zeros((batch, 4), dtype=torch.int32, device=device),
            table,
        )
        self._free = [] if pages is None else list(range(pages))[::-1]
        self._owned: list[list[int]] = [[] for _ in range(batch)]
        self._tokens = [0] * batch
        self._compressed = [0] * batch
        self._decoding = False

    @property
    def lengths(self) -> Tensor:
        """The tokens of each sequence, (batch) int32 on the device: a view."""
        return self.tensors.state[:, 0]

    @property
    def dtype(self) -> torch.dtype:
        return self.tensors.k_window.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of everything in it."""
        return sum(t.nbytes for t in self.tensors if t is not None)

    def tokens(self, sequence: int) -> int:
        """How many tokens the host counts for a sequence."""
        checks.integer(sequence, "sequence", 0, self.batch - 1)
        return self._tokens[sequence]

    # ---- Filling

    def prefill(
        self,
        k: Tensor,
        v: Tensor,
        lengths: Sequence[int] | None = None,
        starts: Sequence[int] | None = None,
    ) -> None:
        """The first tokens of every sequence, pruned and compressed but for the window.

        Args:
            k, v: (batch, kv_heads, tokens, head_dim), dtype and device of the cache; keys after the
                rotary embedding.
            lengths: tokens of each sequence; None: all.
            starts: where each sequence's begin, as with padding on the left; None: at 0.

        Raises:
            ValueError: tensors of another model, lengths beyond them or the capacity, too few
                pages, or tokens that are there already. Nothing is changed then.
        """
        self._check_tokens(k, v)
        if any(self._tokens):
            checks.fail(
                f"prefill needs an empty cache, this has up to {max(self._tokens)} tokens; "
                "append adds one, reset empties it"
            )
        count = k.shape[2]
        starts = [0] * self.batch if starts is None else checks.sequence(starts, "starts", 0)
        if lengths is None:
            lengths = [count] * self.batch
        lengths = checks.sequence(lengths, "lengths", 0)
        if len(lengths) != self.batch or len(starts) != self.batch:
            checks.fail(
                f"lengths and starts must have batch = {self.batch} entries, got {len(lengths)} "
                f"and {len(starts)}"
            )
        for start, length in zip(starts, lengths, strict=True):
            if start < 0 or length < 0 or start + length > count:
                checks.fail(f"lengths from starts must lie within {count}, got {start} + {length}")
            if length > self.capacity:
                checks.fail(f"lengths must be <= capacity = {self.capacity}, got {length}")
        compressed = [self._leaving(length) for length in lengths]
        self._give_pages(compressed)

        def device(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int32, device=k.device)

        if count > 0:
            ops.prefill(
                *self.tensors,
                _readable(k),
                _readable(v),
                self.residual_length,
                self.block,
                device(starts),
                device(lengths),
            )
        self._tokens, self._compressed = lengths, compressed

    def append(self, k: Tensor, v: Tensor) -> None:
        """One more token for every sequence.

        While a CUDA graph is captured the host counts nothing: call ``advance`` before each replay.

        Args:
            k, v: (batch, kv_heads, 1, head_dim) or without the 1.

        Raises:
            ValueError: tensors of another model, a full sequence, or no page left. Nothing is
                changed then.
        """
        checks.tensor(k, "k")
        checks.tensor(v, "v")
        if k.dim() == 3 and v.dim() == 3:
            k, v = k[:, :, None], v[:, :, None]
        self._check_tokens(k, v)
        if k.shape[2] != 1:
            checks.fail(f"k must be one token of each sequence, got shape {shape_text(k)}")
        if not (k.is_cuda and torch.cuda.is_current_stream_capturing()):
            self.advance()
        ops.append(*self.tensors, _readable(k), _readable(v), self.residual_length, self.block)

    def advance(self, steps: int = 1) -> None:
        """Counts ``steps`` tokens that a captured append is about to add to every sequence.

        Raises:
            ValueError: they do not fit, or there are too few pages. Nothing is changed then.
        """
        checks.integer(steps, "steps", 1)
        longest = max(self._tokens)
        if longest + steps > self.capacity:
            checks.fail(
                f"capacity is {self.capacity} tokens, {longest} are there and {steps} more come"
            )
        tokens = [count + steps for count in self._tokens]
        # A block leaves when a token comes to a full window.
        compressed = [
            max(before, self._leaving(count - 1))
            for before, count in zip(self._compressed, tokens, strict=True)
        ]
        self._give_pages(compressed)
        self._tokens, self._compressed = tokens, compressed

    def reset(self) -> None:
        """Empties every sequence."""
        for sequence in range(self.batch):
            self.release(sequence)

    def release(self, sequence: int) -> None:
        """Empties a sequence, and gives its pages back to the pool."""
        checks.integer(sequence, "sequence", 0, self.batch - 1)
        self.tensors.state[sequence].zero_()
        if self.tensors.block_table is not None:
            self.tensors.block_table[sequence].fill_(-1)
        self._free += self._owned[sequence][::-1]
        self._owned[sequence] = []
        self._tokens[sequence] = self._compressed[sequence] = 0

    def reserve(self, tokens: int) -> None:
        """Gives every sequence the pages that it needs for so many tokens, before a capture.

        Raises:
            ValueError: more than the capacity, or too few pages. Nothing is changed then.
        """
        checks.integer(tokens, "tokens", 1, self.capacity)
        self._give_pages([self._leaving(tokens)] * self.batch)

    # ---- Inside

    def _leaving(self, tokens: int) -> int:
        """How many of a prefill's tokens are compressed."""
        return max(tokens - self.residual_length, 0) // self.block * self.block

    def _give_pages(self, compressed: Sequence[int]) -> None:
        """Gives sequences the pages for so many compressed tokens."""
        table = self.tensors.block_table
        if table is None:
            return
        wanted = [math.ceil(count / ref.BLOCK) for count in compressed]
        missing = [max(n - len(o), 0) for n, o in zip(wanted, self._owned, strict=True)]
        if sum(missing) > len(self._free):
            checks.fail(f"pages: {sum(missing)} more are needed, {len(self._free)} are free")
        for sequence, count in enumerate(missing):
            if count == 0:
                continue
            owned = self._owned[sequence]
            new = [self._free.pop() for _ in range(count)]
            table[sequence, len(owned) : len(owned) + count] = torch.tensor(new, dtype=torch.int32)
            owned += new

    def _check_tokens(self, k: Tensor, v: Tensor) -> None:
        for x, name in ((k, "k"), (v, "v")):
            checks.like(x, name, self.tensors.k_window, "the cache")
            wanted = (self.batch, self.kv_heads, self.head_dim)
            if x.dim() != 4 or (x.shape[0], x.shape[1], x.shape[3]) != wanted:
                checks.fail(
                    f"{name} must be (batch = {self.batch}, kv_heads = {self.kv_heads}, tokens, "
                    f"head_dim = {self.head_dim}), got {shape_text(x)}"
                )
        if k.shape != v.shape:
            checks.fail(f"k and v must have one shape, got {shape_text(k)} and {shape_text(v)}")


def _readable(x: Tensor) -> Tensor:
    """What the kernels can read eight bytes at a time."""
    aligned = x.stride(3) == 1 and all(s % 4 == 0 for s in x.stride()[:3])
    return x if aligned and x.data_ptr() % 8 == 0 else x.contiguous()


def decode_attention(
    q: Tensor,
    cache: MustafarCache,
    scale: float | None = None,
    *,
    splits: int = 0,
    check: bool = False,
) -> Tensor:
    """Attention of one query token of every sequence over its cached keys and values.

    ``softmax(scale * q K^T) V`` with K and V as the cache holds them. A sequence without tokens
    gives zeros. Scores and sums are float32.

    Args:
        q: (batch, q_heads, head_dim) or (batch, q_heads, 1, head_dim), dtype and device of the
            cache; q_heads is a multiple of the cache's kv_heads, consecutive ones share a kv head.
        cache: what to attend to.
        scale: of the scores; None: head_dim ** -0.5.
        splits: into how many parts of its tokens a sequence is split on a GPU; 0: as it suits. The
            result does not depend on it beyond rounding.
        check: also on a GPU, see whether every bitmap has as many bits as its token has values;
            on a CPU this is always seen. It reads the device.

    Returns:
        The shape and dtype of q.

    Raises:
        ValueError: q is not of the cache's model, or requires a gradient, which there is none of.
        RuntimeError: bitmaps and values disagree.
    """
    checks.instance(cache, MustafarCache, "cache")
    window = cache.tensors.k_window
    checks.like(q, "q", window, "the cache")
    flat = q.squeeze(2) if q.dim() == 4 and q.shape[2] == 1 else q
    if (
        flat.dim() != 3
        or flat.shape[0] != cache.batch
        or flat.shape[1] == 0
        or flat.shape[1] % cache.kv_heads != 0
        or flat.shape[2] != cache.head_dim
    ):
        checks.fail(
            f"q must be (batch = {cache.batch}, a multiple of {cache.kv_heads} heads, head_dim = "
            f"{cache.head_dim}), got {shape_text(q)}"
        )
    if q.requires_grad and torch.is_grad_enabled():
        checks.fail("q requires a gradient, and decode_attention has none: use torch.no_grad()")
    if scale is None:
        scale = cache.head_dim**-0.5
    else:
        checks.number(scale, "scale")
    checks.integer(splits, "splits", 0, 65535)
    checks.boolean(check, "check")
    if check and q.is_cuda:
        _check_bits(cache)
    out: Tensor = ops.decode(flat.contiguous(), *cache.tensors, float(scale), splits)
    return out if q.dim() == 3 else out.view(q.shape)


def _check_bits(cache: MustafarCache) -> None:
    """Raises RuntimeError where a compressed token has not as many bits as values."""
    c = cache.tensors
    for sequence in range(cache.batch):
        compressed = int(c.state[sequence, 1])
        tokens = torch.arange(compressed, device=c.state.device)
        at = (ref._pages(c, sequence)[tokens // ref.BLOCK], slice(None), tokens % ref.BLOCK)
        for bitmaps, values, name in (
            (c.k_bitmaps, c.k_values, "k"),
            (c.v_bitmaps, c.v_values, "v"),
        ):
            count = values.shape[3]
            if count < cache.head_dim and compressed > 0:
                found = ref.unpack_bits(bitmaps[at]).sum(-1)
                if (found != count).any():
                    wrong = int(found[found != count][0])
                    checks.fail(
                        f"a bitmap of {name} has {wrong} bits, its token {count} values",
                        RuntimeError,
                    )
