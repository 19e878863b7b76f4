"""Every bad argument raises a ValueError that names it, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hstu_attn import hstu_attn_qkvpacked_func, hstu_attn_varlen_func

from tests.hstu_attn.cases import make_case, make_paged, run

Arguments = dict[str, Any]
Change = Callable[[Arguments], Arguments]


def i32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def good(**options: Any) -> Arguments:
    """Three full sequences of 13 positions, two heads of 32, float32."""
    return make_case(full=True, **options).arguments()


def strided(t: torch.Tensor) -> torch.Tensor:
    """The same values with last stride 2."""
    return torch.stack([t, t], dim=-1)[..., 0]


CASES: dict[str, tuple[Change, str]] = {
    "q not a tensor": (lambda a: {"q": [1, 2]}, r"q must be a tensor, got list"),
    "q dtype": (lambda a: {"q": a["q"].int()}, r"q must be one of .*float16.* got torch.int32"),
    "k dtype": (lambda a: {"k": a["k"].half()}, r"k is torch.float16, but q is torch.float32"),
    "v dtype": (lambda a: {"v": a["v"].double()}, r"v is torch.float64, but q is torch.float32"),
    "q dims": (lambda a: {"q": a["q"][0]}, r"q must have shape \(rows, heads, head_dim\), got \(2"),
    "k dims": (lambda a: {"k": a["k"][None]}, r"k must have shape .*got \(1, 39, 2, 32\)"),
    "q stride": (lambda a: {"q": strided(a["q"])}, r"q must have last stride 1, got strides \("),
    "v stride": (lambda a: {"v": strided(a["v"])}, r"v must have last stride 1.*v.contiguous"),
    "k device": (lambda a: {"k": a["k"].to("meta")}, r"k is on meta, but q is on cpu"),
    "head dim": (
        lambda a: {n: a[n][..., :16].contiguous() for n in "qkv"},
        r"head dim .* must be one of \(32, 64, 128, 256\), got 16",
    ),
    "k head dim": (
        lambda a: {"k": a["k"].repeat(1, 1, 2), "v": a["v"].repeat(1, 1, 2)},
        r"one head dim, got q \(39, 2, 32\), k \(39, 2, 64\)",
    ),
    "v rows": (lambda a: {"v": a["v"][1:]}, r"k and v must have one shape.*v \(38, 2, 32\)"),
    "k heads": (
        lambda a: {"k": a["k"].repeat(1, 2, 1), "v": a["v"].repeat(1, 2, 1)},
        r"heads of q must be a multiple of the heads of k, got 2 and 4",
    ),
    "no heads": (
        lambda a: {n: a[n][:, :0] for n in "qkv"},
        r"heads of q must be a multiple of the heads of k, got 0 and 0",
    ),
    "cu_seqlens_q dtype": (
        lambda a: {"cu_seqlens_q": a["cu_seqlens_q"].long()},
        r"cu_seqlens_q must be int32, got torch.int64",
    ),
    "cu_seqlens_q dims": (
        lambda a: {"cu_seqlens_q": a["cu_seqlens_q"][None]},
        r"cu_seqlens_q must have shape \(batch \+ 1,\), got \(1, 4\)",
    ),
    "cu_seqlens_q empty": (
        lambda a: {"cu_seqlens_q": i32(), "cu_seqlens_k": i32()},
        r"cu_seqlens_q must have shape \(batch \+ 1,\), got \(0,\)",
    ),
    "cu_seqlens_k size": (
        lambda a: {"cu_seqlens_k": i32(0, 39)},
        r"cu_seqlens_k must have shape \(batch \+ 1,\) = \(4,\), got \(2,\)",
    ),
    "cu_seqlens_k device": (
        lambda a: {"cu_seqlens_k": a["cu_seqlens_k"].to("meta")},
        r"cu_seqlens_k is on meta, but q is on cpu",
    ),
    "cu_seqlens_k stride": (
        lambda a: {"cu_seqlens_k": strided(a["cu_seqlens_k"])},
        r"cu_seqlens_k must be contiguous, got strides \(2,\)",
    ),
    "cu_seqlens_q start": (
        lambda a: {"cu_seqlens_q": i32(1, 13, 26, 39)},
        r"cu_seqlens_q must start at 0, got 1",
    ),
    "cu_seqlens_q falls": (
        lambda a: {"cu_seqlens_q": i32(0, 13, 12, 25)},
        r"cu_seqlens_q must not decrease, got cu_seqlens_q\[1\] = 13 > cu_seqlens_q\[2\] = 12",
    ),
    "cu_seqlens_q end": (
        lambda a: {"cu_seqlens_q": i32(0, 13, 26, 40), "max_seqlen_q": 14, "max_seqlen_k": 14},
        r"cu_seqlens_q must end within the 39 rows of q, got cu_seqlens_q\[-1\] = 40",
    ),
    "cu_seqlens_k end": (
        lambda a: {"cu_seqlens_k": i32(0, 13, 26, 40), "max_seqlen_k": 14},
        r"cu_seqlens_k must end within the 39 rows of k, got cu_seqlens_k\[-1\] = 40",
    ),
    "q longer than k": (
        lambda a: {"cu_seqlens_k": i32(0, 10, 23, 36)},
        r"sequence 0 has 13 rows in q but only 10 in k",
    ),
    "max_seqlen_q too small": (
        lambda a: {"max_seqlen_q": 12},
        r"max_seqlen_q=12 is below the length 13 of sequence 0 of q",
    ),
    "max_seqlen_k too small": (
        lambda a: {"max_seqlen_q": 12, "max_seqlen_k": 12, "cu_seqlens_q": i32(0, 12, 24, 36)},
        r"max_seqlen_k=12 is below the length 13 of sequence 0 of k",
    ),
    "max_seqlen_q above max_seqlen_k": (
        lambda a: {"max_seqlen_q": 14},
        r"max_seqlen_q must be <= max_seqlen_k, got 14 > 13",
    ),
    "max_seqlen_q negative": (
        lambda a: {"max_seqlen_q": -1},
        r"max_seqlen_q must be >= 0, got -1",
    ),
    "max_seqlen_k a tensor": (
        lambda a: {"max_seqlen_k": torch.tensor(13)},
        r"max_seqlen_k must be an int, got Tensor; call .item\(\) on it",
    ),
    "scaling_seqlen zero": (lambda a: {"scaling_seqlen": 0}, r"scaling_seqlen must be .* got 0"),
    "scaling_seqlen negative": (
        lambda a: {"scaling_seqlen": -2},
        r"scaling_seqlen must be >= -1, got -2",
    ),
    "window_size": (lambda a: {"window_size": (1,)}, r"window_size must be \(left, right\), got"),
    "window_size float": (
        lambda a: {"window_size": (1.5, 0)},
        r"window_size\[0\] must be an int, got float",
    ),
    "num_contexts not causal": (
        lambda a: {"num_contexts": i32(1, 1, 1)},
        r"num_contexts needs the causal window_size \(-1, 0\), got \(-1, -1\)",
    ),
    "num_targets local": (
        lambda a: {"num_targets": i32(1, 1, 1), "window_size": (5, 0)},
        r"num_targets needs the causal window_size \(-1, 0\), got \(5, 0\)",
    ),
    "num_targets dtype": (
        lambda a: {"num_targets": torch.tensor([1, 1, 1]), "window_size": (-1, 0)},
        r"num_targets must be int32, got torch.int64",
    ),
    "num_targets size": (
        lambda a: {"num_targets": i32(1, 1), "window_size": (-1, 0)},
        r"num_targets must have shape \(batch,\) = \(3,\), got \(2,\)",
    ),
    "num_targets above length": (
        lambda a: {"num_targets": i32(1, 14, 1), "window_size": (-1, 0)},
        r"num_targets must be .* got num_targets\[1\] = 14 for length 13",
    ),
    "num_targets negative": (
        lambda a: {"num_targets": i32(1, 1, -1), "window_size": (-1, 0)},
        r"num_targets must be .* got num_targets\[2\] = -1",
    ),
    "num_contexts negative": (
        lambda a: {"num_contexts": i32(0, -3, 1), "window_size": (-1, 0)},
        r"num_contexts must be >= 0, got num_contexts\[1\] = -3",
    ),
    "target_group_size without targets": (
        lambda a: {"target_group_size": 0},
        r"target_group_size must be >= 1, got 0",
    ),
    "target_group_size with targets": (
        lambda a: {
            "target_group_size": 0,
            "num_targets": i32(1, 1, 1),
            "window_size": (-1, 0),
        },
        r"target_group_size must be >= 1, got 0",
    ),
    "target_group_size ignored": (
        lambda a: {"target_group_size": 2},
        r"target_group_size=2 needs num_targets, got num_targets=None",
    ),
    "has_drab": (lambda a: {"has_drab": True}, r"has_drab=True needs rab, got rab=None"),
    "rab shape": (
        lambda a: {"rab": torch.zeros(3, 2, 12, 13)},
        r"rab must have shape .* = \(3, 1 or 2, 13, 13\), got \(3, 2, 12, 13\)",
    ),
    "rab heads": (
        lambda a: {"rab": torch.zeros(3, 3, 13, 13)},
        r"rab must .* got \(3, 3, 13, 13\)",
    ),
    "rab batch": (
        lambda a: {"rab": torch.zeros(1, 2, 13, 13)},
        r"rab must .* got \(1, 2, 13, 13\)",
    ),
    "rab dtype": (
        lambda a: {"rab": torch.zeros(3, 1, 13, 13).half()},
        r"rab is torch.float16, but q is torch.float32",
    ),
    "rab device": (
        lambda a: {"rab": torch.zeros(3, 1, 13, 13, device="meta")},
        r"rab is on meta, but q is on cpu",
    ),
    "rab stride": (
        lambda a: {"rab": torch.zeros(3, 1, 13, 13).transpose(2, 3)},
        r"rab must have last stride 1, got strides",
    ),
    "func with a window": (
        lambda a: {"func": torch.zeros(1, 1, 39).int(), "window_size": (-1, 0)},
        r"func replaces the window: window_size must be \(-1, -1\), got \(-1, 0\)",
    ),
    "func even": (
        lambda a: {"func": torch.zeros(1, 2, 39).int()},
        r"func must have shape \(1, n_func, >= total_q\) with odd n_func, got \(1, 2, 39\)",
    ),
    "func dims": (lambda a: {"func": torch.zeros(3, 39).int()}, r"func must .* got \(3, 39\)"),
    "func short": (
        lambda a: {"func": torch.zeros(1, 3, 38).int()},
        r"func must cover the 39 rows of q, got shape \(1, 3, 38\)",
    ),
    "func dtype": (
        lambda a: {"func": torch.zeros(1, 3, 39)},
        r"func must be int32, got torch.float32",
    ),
    "func stride": (
        lambda a: {"func": torch.zeros(1, 39, 3).int().transpose(1, 2)},
        r"func must have last stride 1",
    ),
    "page_ids alone": (lambda a: {"page_ids": i32(0)}, r"page_ids needs kv_cache .*kv_cache=None"),
    "page_offsets alone": (lambda a: {"page_offsets": i32(0)}, r"page_offsets needs kv_cache"),
    "last_page_lens alone": (
        lambda a: {"last_page_lens": i32(0)},
        r"last_page_lens needs kv_cache",
    ),
    "cu_seqlens_t alone": (
        lambda a: {"cu_seqlens_t": i32(0, 1, 2, 3)},
        r"cu_seqlens_t needs kv_cache",
    ),
    "kv_cache alone": (
        lambda a: {"kv_cache": torch.zeros(4, 2, 16, 2, 32)},
        r"kv_cache needs page_offsets, got page_offsets=None",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_argument(name: str) -> None:
    change, message = CASES[name]
    arguments = good()
    hstu_attn_varlen_func(**arguments)
    with pytest.raises(ValueError, match=message):
        hstu_attn_varlen_func(**{**arguments, **change(arguments)})


def good_paged() -> Arguments:
    """Three sequences: 40 history columns in three pages of 16, and 4 targets; 9 rows in q."""
    paged = make_paged(page_size=16, full=True, max_k=40, max_q=5, targets=4)
    return {**paged.fresh.arguments(), **paged.arguments}


def changed(t: torch.Tensor, position: int, value: int) -> torch.Tensor:
    t = t.clone()
    t[position] = value
    return t


PAGED_CASES: dict[str, tuple[Change, str]] = {
    "page_ids missing": (lambda a: {"page_ids": None}, r"kv_cache needs page_ids"),
    "last_page_lens missing": (lambda a: {"last_page_lens": None}, r"needs last_page_lens"),
    "has_drab": (
        lambda a: {"has_drab": True, "rab": torch.zeros(3, 1, 44, 44)},
        r"has_drab=True is not possible with kv_cache",
    ),
    "kv_cache dtype": (lambda a: {"kv_cache": a["kv_cache"].half()}, r"kv_cache is torch.float16"),
    "kv_cache device": (lambda a: {"kv_cache": a["kv_cache"].to("meta")}, r"kv_cache is on meta"),
    "kv_cache dims": (
        lambda a: {"kv_cache": a["kv_cache"][:, 0]},
        r"kv_cache must have shape \(pages, 2, page_size, .* got \(11, 16, 2, 32\)",
    ),
    "kv_cache heads": (
        lambda a: {"kv_cache": a["kv_cache"][:, :, :, :1]},
        r"= \(pages, 2, page_size, 2, 32\), got \(11, 2, 16, 1, 32\)",
    ),
    "kv_cache stride": (
        lambda a: {"kv_cache": strided(a["kv_cache"])},
        r"kv_cache must have last stride 1",
    ),
    "page size": (
        lambda a: {"kv_cache": a["kv_cache"][:, :, :15]},
        r"page size of kv_cache must be between 16 and 256, got 15",
    ),
    "k rows": (
        lambda a: {"k": a["k"][:-1], "v": a["v"][:-1]},
        r"with kv_cache, q, k and v must have the same rows",
    ),
    "page_offsets size": (
        lambda a: {"page_offsets": a["page_offsets"][:-1]},
        r"page_offsets must have shape \(batch \+ 1,\) = \(4,\), got \(3,\)",
    ),
    "page_ids dtype": (
        lambda a: {"page_ids": a["page_ids"].long()},
        r"page_ids must be int32, got torch.int64",
    ),
    "last_page_lens size": (
        lambda a: {"last_page_lens": a["last_page_lens"][:-1]},
        r"last_page_lens must have shape \(batch,\) = \(3,\), got \(2,\)",
    ),
    "page_offsets end": (
        lambda a: {"page_offsets": changed(a["page_offsets"], 3, 10)},
        r"page_offsets must end within the 9 elements of page_ids, got page_offsets\[-1\] = 10",
    ),
    "page id": (
        lambda a: {"page_ids": changed(a["page_ids"], 4, 11)},
        r"page_ids\[4\] = 11 is outside of the 11 pages of kv_cache",
    ),
    "page id negative": (
        lambda a: {"page_ids": changed(a["page_ids"], 0, -1)},
        r"page_ids\[0\] = -1 is outside of the 11 pages",
    ),
    "last page length": (
        lambda a: {"last_page_lens": changed(a["last_page_lens"], 1, 17)},
        r"last_page_lens\[1\] = 17 is outside of 1..16",
    ),
    "history and pages": (
        lambda a: {"last_page_lens": changed(a["last_page_lens"], 1, 7)},
        r"sequence 1 has 40 history columns .* last_page_lens\[1\] = 7 hold 39",
    ),
    "targets above rows of q": (
        lambda a: {"num_targets": changed(a["num_targets"], 0, 10)},
        r"num_targets must be .* got num_targets\[0\] = 10 for length 9",
    ),
    "cu_seqlens_t size": (
        lambda a: {"cu_seqlens_t": i32(0, 4)},
        r"cu_seqlens_t must have shape \(batch \+ 1,\) = \(4,\), got \(2,\)",
    ),
    "cu_seqlens_t disagrees": (
        lambda a: {"cu_seqlens_t": i32(0, 4, 8, 11)},
        r"cu_seqlens_t and num_targets must agree, got differences \[4, 4, 3\]",
    ),
    "cu_seqlens_t start": (
        lambda a: {"cu_seqlens_t": i32(4, 8, 12, 16), "num_targets": None},
        r"cu_seqlens_t must start at 0, got 4",
    ),
    "cu_seqlens_t falls": (
        lambda a: {"cu_seqlens_t": i32(0, 4, 3, 7), "num_targets": None},
        r"cu_seqlens_t must not decrease, got cu_seqlens_t\[1\] = 4 > cu_seqlens_t\[2\] = 3",
    ),
    "cu_seqlens_t not causal": (
        lambda a: {
            "cu_seqlens_t": i32(0, 4, 8, 12),
            "num_targets": None,
            "window_size": (-1, -1),
        },
        r"cu_seqlens_t needs the causal window_size",
    ),
}


@pytest.mark.parametrize("name", PAGED_CASES)
def test_bad_paged_argument(name: str) -> None:
    change, message = PAGED_CASES[name]
    arguments = good_paged()
    hstu_attn_varlen_func(**arguments)
    with pytest.raises(ValueError, match=message):
        hstu_attn_varlen_func(**{**arguments, **change(arguments)})


def test_bad_packed_shape() -> None:
    cu = i32(0, 4)
    with pytest.raises(ValueError, match=r"qkv must have shape \(total, 3, .*got \(4, 2, 2, 32\)"):
        hstu_attn_qkvpacked_func(torch.zeros(4, 2, 2, 32), cu, cu, 4, 4)
    with pytest.raises(ValueError, match=r"num_targets needs the causal window_size"):
        hstu_attn_qkvpacked_func(torch.zeros(4, 3, 2, 32), cu, cu, 4, 4, num_targets=i32(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gpu_takes_half_precisions_only(gpu: str, dtype: torch.dtype) -> None:
    case = make_case(device=gpu, dtype=dtype)
    with pytest.raises(ValueError, match=r"q must be one of .*bfloat16.* on cuda, got torch.float"):
        hstu_attn_varlen_func(**case.arguments())


def test_mixed_devices(gpu: str) -> None:
    arguments = make_case(device=gpu).arguments()
    with pytest.raises(ValueError, match="cu_seqlens_q is on cpu, but q is on cuda"):
        hstu_attn_varlen_func(**{**arguments, "cu_seqlens_q": arguments["cu_seqlens_q"].cpu()})


VALUE_CASES = [
    "cu_seqlens_q start",
    "cu_seqlens_q falls",
    "cu_seqlens_k end",
    "max_seqlen_k too small",
    "num_targets above length",
]


@pytest.mark.parametrize("name", VALUE_CASES)
def test_values_on_a_gpu_are_checked_on_request(
    gpu: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HSTU_CHECK", "1")
    change, message = CASES[name]
    arguments = good()
    arguments = {**arguments, **change(arguments)}
    on_gpu = {
        n: x.to(gpu, torch.bfloat16 if x.is_floating_point() else None)
        if isinstance(x, torch.Tensor)
        else x
        for n, x in arguments.items()
    }
    with pytest.raises(ValueError, match=message):
        hstu_attn_varlen_func(**on_gpu)


def test_page_ids_on_a_gpu_are_checked_on_request(
    gpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HSTU_CHECK", "1")
    paged = make_paged(device=gpu, page_size=16, full=True, max_k=40, max_q=5, targets=4)
    arguments = {**paged.fresh.arguments(), **paged.arguments}
    hstu_attn_varlen_func(**arguments)
    bad = changed(arguments["page_ids"], 4, 11)
    with pytest.raises(ValueError, match=r"page_ids\[4\] = 11 is outside of the 11 pages"):
        hstu_attn_varlen_func(**{**arguments, "page_ids": bad})


def test_the_op_itself_refuses_what_a_kernel_cannot_read(gpu: str) -> None:
    """Called without the public function's checks, the CUDA op still reads no foreign memory."""
    case = make_case(device=gpu, window=(-1, 0))
    q, k, v, cu = case.q, case.k, case.v, case.cu_seqlens_q
    m = case.max_seqlen_q

    def op(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu: torch.Tensor) -> None:
        torch.ops.hstu_attn.varlen_fwd(
            q, k, v, cu, cu, m, m, m, None, None, 1, -1, 0, 1.0, None, False, None, False,
            None, None, None, None,
        )  # fmt: skip

    op(q, k, v, cu)
    with pytest.raises(RuntimeError, match="do not agree"):
        op(q, k[1:], v, cu)
    with pytest.raises(RuntimeError, match="dtype and device of q"):
        op(q, k.half(), v, cu)
    with pytest.raises(RuntimeError, match="cu_seqlens_q must be a contiguous int32"):
        op(q, k, v, cu.long())
    with pytest.raises(RuntimeError, match="bfloat16 or float16"):
        op(q.float(), k.float(), v.float(), cu)


# What the CUDA op is not shown (cu_seqlens_t), or takes all the same (to PyTorch a tensor of one
# integer is a number).
UNSEEN = {"max_seqlen_k a tensor", "cu_seqlens_t alone"}
UNSEEN |= {name for name in PAGED_CASES if name.startswith("cu_seqlens_t")}
# What stands in the values of tensors.
IN_VALUES = {
    *(name for name in CASES if name.startswith(("cu_seqlens", "max_seqlen")) and "too" in name),
    *(f"cu_seqlens_q {what}" for what in ("start", "falls", "end")),
    *(f"num_targets {what}" for what in ("above length", "negative")),
    *("cu_seqlens_k end", "q longer than k", "num_contexts negative", "page_offsets end"),
    *("page id", "page id negative", "last page length", "history and pages"),
    "targets above rows of q",
}
SEEN = [
    *(("varlen", name) for name in CASES if name not in UNSEEN | IN_VALUES),
    *(("paged", name) for name in PAGED_CASES if name not in UNSEEN | IN_VALUES),
]


def on_gpu(gpu: str, arguments: Arguments) -> Arguments:
    """The same, in bfloat16, which a GPU takes, where the dtype was float32."""

    def moved(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        dtype = torch.bfloat16 if x.dtype == torch.float32 else None
        return x.to("meta" if x.is_meta else gpu, dtype)

    return {name: moved(x) for name, x in arguments.items()}


def on_gpu_with(gpu: str, kind: str, name: str) -> tuple[Arguments, Arguments, str]:
    """Good arguments, bad ones, and what is said of them."""
    change, message = CASES[name] if kind == "varlen" else PAGED_CASES[name]
    fine = on_gpu(gpu, good() if kind == "varlen" else good_paged())
    message = message.replace("float32", "bfloat16").replace("is on cpu", "is on cuda")
    return fine, on_gpu(gpu, {**fine, **change(fine)}), message


@pytest.mark.parametrize(("kind", "name"), [case for case in SEEN if "device" not in case[1]])
def test_the_op_refuses_a_bad_argument_by_itself(
    gpu: str, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An eager call may ask the op first: Python's checks only name the error better."""
    fine, bad, _ = on_gpu_with(gpu, kind, name)
    monkeypatch.setattr("hstu_attn.checks.check_arguments", lambda *checked: None)
    hstu_attn_varlen_func(**fine)
    with pytest.raises((RuntimeError, TypeError, AttributeError)):
        hstu_attn_varlen_func(**bad)


UNSEEN_HERE = [("varlen", name) for name in sorted(UNSEEN & CASES.keys())]


@pytest.mark.parametrize(("kind", "name"), [*SEEN, *UNSEEN_HERE])
def test_a_bad_argument_on_a_gpu_is_named(gpu: str, kind: str, name: str) -> None:
    _, bad, message = on_gpu_with(gpu, kind, name)
    with pytest.raises(ValueError, match=message):
        hstu_attn_varlen_func(**bad)


def test_good_arguments_after_an_error(device: str) -> None:
    case = make_case(device=device)
    with pytest.raises(ValueError):
        hstu_attn_varlen_func(**{**case.arguments(), "scaling_seqlen": 0})
    assert torch.isfinite(run(case)["out"]).all()


@pytest.mark.parametrize("with_targets", [False, True])
def test_prefix_sums_of_targets_are_looked_into(with_targets: bool) -> None:
    arguments = {**good_paged(), "cu_seqlens_t": i32(1, 1, 1, 1)}
    if not with_targets:
        arguments["num_targets"] = None
    with pytest.raises(ValueError, match="cu_seqlens_t must start at 0, got 1"):
        hstu_attn_varlen_func(**arguments)
