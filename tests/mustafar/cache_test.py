"""The cache step by step: what is dense and what is compressed, pages, lengths, captured graphs."""

from __future__ import annotations

import random

import pytest
import torch
from mustafar import MustafarCache, decode_attention, ref
from mustafar.prune import kept
from torch import Tensor

from tests.mustafar.cases import (
    assert_like_ref,
    assert_right,
    attention,
    dtype_of,
    filled,
    normal,
    pruned,
)


class Follow:
    """The rule of the window on plain lists of tokens: what a cache must hold."""

    def __init__(self, sequences: int, residual: int, block: int) -> None:
        self.residual, self.block = residual, block
        self.compressed = [0] * sequences
        self.k: list[list[Tensor]] = [[] for _ in range(sequences)]
        self.v: list[list[Tensor]] = [[] for _ in range(sequences)]

    def add(self, b: int, k: Tensor, v: Tensor) -> None:
        if len(self.k[b]) - self.compressed[b] == self.residual + self.block:
            self.compressed[b] += self.block
        self.k[b].append(k)
        self.v[b].append(v)

    def exact(self, b: int, q: Tensor, cache: MustafarCache) -> Tensor:
        c, tensors = self.compressed[b], cache.tensors
        k = pruned(torch.stack(self.k[b], 1), tensors.k_values.shape[3], c)
        v = pruned(torch.stack(self.v[b], 1), tensors.v_values.shape[3], c)
        return attention(q, k, v, cache.head_dim**-0.5)


@pytest.mark.parametrize("block", [1, 48, 64])
@pytest.mark.parametrize("pages", [None, 24])
def test_decode_steps_follow_the_rule_of_the_window(
    device: str, block: int, pages: int | None
) -> None:
    dtype, lengths = dtype_of(device), [70, 5, 33]
    cache, k, v = filled(
        lengths, 2, 64, device=device, dtype=dtype, block=block, capacity=400, pages=pages
    )
    follow = Follow(3, 32, block)
    for b, length in enumerate(lengths):
        follow.compressed[b] = max(length - 32, 0) // block * block
        follow.k[b] += k[b, :, :length].unbind(1)
        follow.v[b] += v[b, :, :length].unbind(1)
    for step in range(150):
        x, y = (
            normal(3, 2, 64, device=device, dtype=dtype, seed=100 + 2 * step + i) for i in (0, 1)
        )
        cache.append(x, y)
        for b in range(3):
            follow.add(b, x[b], y[b])
        if step % 10 != 0 and step < 140:
            continue
        q = normal(3, 6, 64, device=device, dtype=dtype, seed=step)
        got = decode_attention(q, cache)
        for b in range(3):
            assert_right(got[b], follow.exact(b, q[b], cache))
    assert cache.lengths.tolist() == [length + 150 for length in lengths]
    assert cache.tensors.state[:, 1].tolist() == follow.compressed
    assert cache.tensors.state[:, 2].sum() == 0


def test_blocks_of_256_leave_when_a_token_comes_to_a_full_window(device: str) -> None:
    dtype = dtype_of(device)
    cache, _, _ = filled([287], 1, 64, device=device, dtype=dtype, capacity=600)
    token = normal(1, 1, 64, device=device, dtype=dtype)
    seen = []
    for _ in range(258):
        cache.append(token, token)
        seen.append(tuple(cache.tensors.state[0, :2].tolist()))
    # A prefill of 287 leaves all dense; attention sees at most 32 + 256 dense tokens.
    assert seen[0] == (288, 0) and seen[1] == (289, 256)
    assert seen[256] == (544, 256) and seen[257] == (545, 512)


def test_a_block_of_one_keeps_the_window_at_the_residual(device: str) -> None:
    dtype = dtype_of(device)
    cache, _, _ = filled([100], 1, 64, device=device, dtype=dtype, block=1, capacity=200)
    assert cache.tensors.state[0].tolist()[:2] == [100, 68]
    token = normal(1, 1, 64, device=device, dtype=dtype)
    for _ in range(3):
        cache.append(token, token)
    assert cache.tensors.state[0].tolist()[:2] == [103, 70]  # the newest one and 32 before it


@pytest.mark.parametrize("length", [1, 5, 31, 32, 33])
def test_prompts_about_as_long_as_the_window(device: str, length: int) -> None:
    dtype = dtype_of(device)
    cache, _, _ = filled([length], 2, 64, device=device, dtype=dtype, capacity=64, block=8)
    q = normal(1, 4, 64, device=device, dtype=dtype)
    for _ in range(3):
        assert_like_ref(decode_attention(q, cache), q, cache)
        cache.append(q[:, :2], q[:, 2:])


def test_padding_on_the_left_is_not_stored(device: str) -> None:
    dtype = dtype_of(device)
    k, v = (normal(2, 2, 90, 64, device=device, dtype=dtype, seed=i) for i in (1, 2))
    padded = MustafarCache(2, 2, 64, 128, block=16, dtype=dtype, device=device)
    padded.prefill(k, v, lengths=[90, 50], starts=[0, 40])
    plain = MustafarCache(1, 2, 64, 128, block=16, dtype=dtype, device=device)
    plain.prefill(k[1:, :, 40:], v[1:, :, 40:])
    q = normal(2, 4, 64, device=device, dtype=dtype)
    assert torch.equal(decode_attention(q, padded)[1:], decode_attention(q[1:], plain))


def test_strided_keys_and_values_are_read_as_they_lie(device: str) -> None:
    dtype = dtype_of(device)
    packed = normal(2, 90, 3, 2, 64, device=device, dtype=dtype)
    k, v = packed[:, :, 1].transpose(1, 2), packed[:, :, 2].transpose(1, 2)
    caches = [MustafarCache(2, 2, 64, 128, block=16, dtype=dtype, device=device) for _ in range(2)]
    caches[0].prefill(k, v)
    caches[1].prefill(k.contiguous(), v.contiguous())
    q = packed[:, 0, 0].contiguous()
    assert torch.equal(*(decode_attention(q, cache) for cache in caches))


def test_pages_are_given_and_taken_back(device: str) -> None:
    dtype = dtype_of(device)
    cache, _, _ = filled(
        [200, 100], 1, 64, device=device, dtype=dtype, block=64, capacity=400, pages=4
    )
    table = cache.tensors.block_table
    assert table is not None
    used = [int(p) for p in table.flatten() if p >= 0]
    assert len(used) == len(set(used)) == 3  # 128 and 64 compressed tokens
    with pytest.raises(ValueError, match="pages: 3 more are needed, 1 are free"):
        cache.reserve(250)
    cache.release(0)
    assert (table[0] == -1).all() and cache.lengths.tolist() == [0, 100]
    cache.reserve(160)
    q = normal(2, 2, 64, device=device, dtype=dtype)
    assert_like_ref(decode_attention(q, cache), q, cache)


def test_memory_is_what_the_layout_says() -> None:
    for sparsity, share in ((0.7, 0.40), (0.5, 0.60)):
        cache = MustafarCache(
            2, 2, 128, 8192, k_sparsity=sparsity, v_sparsity=sparsity, device="cpu",
            dtype=torch.float16,
        )  # fmt: skip
        assert cache.nbytes <= share * 2 * 2 * 2 * 8192 * 256
        assert cache.tensors.k_values.shape[3] == kept(128, sparsity)


def test_random_steps_of_a_ragged_batch(device: str) -> None:
    draw = random.Random(0)
    dtype = dtype_of(device)
    cache = MustafarCache(4, 2, 64, 10_200, block=16, dtype=dtype, device=device, pages=700)
    lengths = [0, 37, 300, 1]
    k = normal(4, 2, 300, 64, device=device, dtype=dtype)
    cache.prefill(k, k, lengths)
    steps = 10_000 if device == "cuda" else 200
    tokens = normal(64, 4, 2, 64, device=device, dtype=dtype, seed=7)
    for step in range(steps):
        cache.append(tokens[step % 64], tokens[(step + 1) % 64])
        if draw.random() < 0.01:
            sequence = draw.randrange(4)
            cache.release(sequence)
        if step % (steps // 20) == 0:
            q = tokens[step % 64].repeat(1, 2, 1)
            assert_like_ref(decode_attention(q, cache), q, cache)
    assert cache.lengths.tolist() == [cache.tokens(b) for b in range(4)]


def test_a_captured_step_replayed_equals_the_eager_run_bit_by_bit(gpu: str) -> None:
    steps, dtype = 2000, torch.float16
    tokens = normal(steps, 2, 2, 128, device=gpu, dtype=dtype, seed=8)
    queries = normal(16, 2, 8, 128, device=gpu, dtype=dtype, seed=9)
    caches = [
        filled([300, 40], 2, 128, device=gpu, dtype=dtype, capacity=2400)[0] for _ in range(2)
    ]
    token, q = tokens[0].clone(), queries[0].clone()
    out = torch.empty_like(q)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        decode_attention(q, caches[0])  # loads the kernels
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            caches[0].append(token, token)
            out.copy_(decode_attention(q, caches[0]))
        memory = 0
        for step in range(steps):
            token.copy_(tokens[step])
            q.copy_(queries[step % 16])
            caches[0].advance()
            graph.replay()
            caches[1].append(tokens[step], tokens[step])
            if step % 7 == 0:
                eager = decode_attention(queries[step % 16], caches[1])
                assert torch.equal(out, eager), step
            if step == 20:
                memory = torch.cuda.memory_allocated()
    assert caches[0].tensors.state[:, 1].tolist() == [2048, 1792]  # eight compressions and more
    assert torch.cuda.memory_allocated() <= memory + (1 << 20)
    assert torch.equal(caches[0].tensors.state, caches[1].tensors.state)


def test_a_full_cache_is_left_as_it_is_by_a_replay(gpu: str) -> None:
    cache, _, _ = filled([96], 1, 64, device=gpu, dtype=torch.float16, block=64, capacity=96)
    token = normal(1, 1, 64, device=gpu, dtype=torch.float16)
    before = cache.tensors.k_values.view(torch.int16).clone()
    for _ in range(70):  # past what the host would allow
        torch.ops.mustafar.append(*cache.tensors, token[:, :, None], token[:, :, None], 32, 64)
    state = cache.tensors.state[0].tolist()
    assert state[2] == 1 and state[1] <= 64
    assert torch.equal(before, cache.tensors.k_values.view(torch.int16))


def test_reference_and_c_agree_on_a_cpu() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        cache, _, _ = filled([150, 3], 2, 96, device="cpu", dtype=dtype, block=32)
        q = normal(2, 6, 96, device="cpu", dtype=dtype)
        assert_right(decode_attention(q, cache), ref.decode(q.double(), cache.tensors, 96**-0.5))
