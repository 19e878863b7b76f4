"""The calls of causal_conv1d that succeed, on the CPU."""

from __future__ import annotations

import causal_conv1d
import torch

from tests.interface.walk import Call, Walk, kinds


def call(name: str, parameter: str) -> Call:
    function = getattr(causal_conv1d, name)
    given = {"x": torch.ones(2, 8, 6), "weight": torch.ones(8, 4), "bias": torch.ones(8)}
    if name == "causal_conv1d_packed":
        given |= {
            "x": torch.ones(8, 6),
            "conv_states": torch.zeros(4, 8, 3),
            "query_start_loc": torch.tensor([0, 2, 6], dtype=torch.int32),
        }
    if name == "causal_conv1d_update":
        given |= {"x": torch.ones(2, 8), "conv_state": torch.zeros(2, 8, 3)}
    if parameter == "final_states_out":
        given["return_final_states"] = True
    lines = [given[n] for n in ("conv_states", "conv_state") if n in given]
    return Call(function, given, lambda: [t.tolist() for t in lines])


KINDS = {
    "tensor": "x weight conv_state conv_states query_start_loc",
    "tensor or None": "bias seq_idx initial_states final_states_out cu_seqlens cache_indices "
    "has_initial_state num_accepted_tokens cache_seqlens conv_state_indices",
    "bool": "return_final_states check",
    "choice or None": "activation",
    "integer": "pad_slot_id",
}
WALK = Walk("causal_conv1d", kinds(KINDS), call)
