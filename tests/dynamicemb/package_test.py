"""The wheel as a user has it: what an import costs and touches, what the reports say."""

from __future__ import annotations

import os

import dynamicemb
from dynamicemb import plan

from tests.common.processes import python


def test_every_export_is_there() -> None:
    for name in dynamicemb.__all__:
        assert getattr(dynamicemb, name) is not None
    wanted = (
        "AdmissionStrategy BUCKET_ALIGNMENT DEMB_TABLE_ALIGN_SIZE MAX_BUCKET_CAPACITY "
        "align_to_table_size get_table_value_bytes get_sharded_table_capacity "
        "FrequencyAdmissionStrategy Counter KVCounter DynamicEmbCheckMode "
        "DynamicEmbInitializerArgs DynamicEmbInitializerMode DynamicEmbTableOptions "
        "DynamicEmbPoolingMode DynamicEmbEvictStrategy DynamicEmbScoreStrategy ScoreStrategy "
        "BATCH_SIZE_PER_DUMP data_type_to_dyn_emb data_type_to_dtype dyn_emb_to_torch "
        "torch_to_dyn_emb string_to_evict_strategy DynamicEmbDump DynamicEmbLoad EmbOptimType "
        "OptimizerArgs DynamicEmbeddingBagCollection"
    )
    assert set(wanted.split()) <= set(dynamicemb.__all__)


def test_an_import_touches_neither_torchrec_nor_fbgemm_nor_the_reference() -> None:
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name.split(".")[0] not in ("torchrec", "fbgemm_gpu"), name
sys.meta_path.insert(0, Refuse())
import torch, dynamicemb
ebc = dynamicemb.DynamicEmbeddingBagCollection(
    [dynamicemb.EmbeddingBagConfig("t", 4, 100, ["f"])], device="cpu")
batch = dynamicemb.KeyedJaggedTensor(["f"], torch.tensor([5]), torch.tensor([1]))
ebc(batch).values().sum().backward()
print("dynamicemb.ref" in sys.modules)
"""
    done = python("-c", code)
    assert done.stdout == "False\n", done.stderr


def test_an_import_costs_less_than_half_a_second_of_cpu_beyond_torch() -> None:
    code = "import time, torch; a = time.process_time(); import dynamicemb; "
    times = [float(python("-c", code + "print(time.process_time() - a)").stdout) for _ in range(3)]
    assert min(times) < 0.5


def test_the_report_names_the_build() -> None:
    said = python("-m", "dynamicemb").stdout
    assert dynamicemb.__version__ in said and "libdynamicemb.so" in said and "sm_" in said


def test_the_plan_reckons_tiers_and_dumps() -> None:
    arguments = "plan --keys 1e11 --dim 64 --optimizer rowwise_adagrad --dtype bf16".split()
    said = python("-m", "dynamicemb", *arguments).stdout
    for line in ("rows", "bytes of a row", "GPUs", "nodes", "dump"):
        assert line in said, said
    bad = python("-m", "dynamicemb", "plan", "--keys", "x", "--dim", "64")
    assert bad.returncode == 2 and "keys" in bad.stderr


def test_the_plan_s_memory_is_that_of_a_table_within_three_percent() -> None:
    rows = 10**7 if os.environ.get("DYNAMICEMB_LONG_TESTS") == "1" else 10**6
    code = f"""
import resource, torch
from tests.dynamicemb.cases import tables
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
tables([32], "cpu", "NONE", max_capacity=1000, optimizer="ADAM").fill_tables(0.5)
before = resident()
module = tables([32], "cpu", "NONE", max_capacity={rows}, optimizer="ADAM")
ends = torch.tensor([0, 2000])
for begin in range(0, {rows}, 2000):
    module.train()(torch.arange(begin, begin + 2000), ends)
print(resident() - before, module.layouts[0].row_bytes, module.stats()["tables"]["table0"]["rows"])
"""
    done = python("-c", code)
    taken, row_bytes, there = map(int, done.stdout.split() or [0, 0, 0])
    assert there > 0.9 * rows, done.stderr
    assert abs(taken / plan.table_bytes(rows, row_bytes) - 1) < 0.03
