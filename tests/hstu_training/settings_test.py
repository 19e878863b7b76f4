"""Wrong settings are refused by name, value, file and line; so is another GPU."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from hstu_training.configs.hstu_config import HSTULayerType, KernelBackend
from hstu_training.modules.hstu_attention import check_a100_gpu, create_hstu_attention
from hstu_training.training import command, gin_file, tables
from hstu_training.training.gin_config_args import NetworkArgs
from hstu_training.training.processes import Processes
from hstu_training.training.settings import Settings
from hstu_training.training.utils import create_hstu_config

from tests.common.processes import python
from tests.hstu_training import runs

RANKING = """TrainerArgs.train_batch_size = 4
TrainerArgs.eval_batch_size = 4
DatasetArgs.dataset_name = "ml-1m"
DatasetArgs.max_history_seqlen = 20
NetworkArgs.num_layers = 1
NetworkArgs.hidden_size = 16
NetworkArgs.num_attention_heads = 2
NetworkArgs.kv_channels = 8
OptimizerArgs.optimizer_str = "adam"
OptimizerArgs.learning_rate = 0.001
RankingArgs.prediction_head_arch = (8, 5)
"""
LINES = RANKING.count("\n")


def read(tmp_path: Path, extra: str = "", text: str = RANKING) -> Settings:
    (tmp_path / "x.gin").write_text(text + extra + "\n")
    gin_file.parse(tmp_path / "x.gin")
    return Settings.read(ranking=True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("NetworkArgs.num_layers = '2'", r"NetworkArgs\.num_layers must be of type int, got '2'"),
        ("NetworkArgs.hidden_size = True", "hidden_size must be of type int, got True"),
        ("NetworkArgs.num_layers = 0", "num_layers must be >= 1, got 0"),
        ("NetworkArgs.kv_channels = 512", "kv_channels must be <= 256, got 512"),
        ("NetworkArgs.hidden_dropout = 1.5", r"hidden_dropout must be in \[0, 1\), got 1.5"),
        ("NetworkArgs.dtype_str = 'int8'", "dtype_str must be one of"),
        ("NetworkArgs.relative_bias = 'time'", "relative_bias must be one of"),
        ("NetworkArgs.kernel_backend = 'triton'",
         "Only CUTLASS backend is supported for A100 GPU: .*kernel_backend must be 'cutlass', got "
         "'triton'"),
        ("NetworkArgs.kernel_backend = 'pytorch'", "Only CUTLASS backend is supported for A100"),
        ("TrainerArgs.seed = -1", "seed must be >= 0, got -1"),
        ("TrainerArgs.pipeline_type = 'fast'", "pipeline_type must be one of"),
        ("TrainerArgs.ckpt_save_interval = 0", "ckpt_save_interval must be >= 1, got 0"),
        ("DatasetArgs.split = 'random'", "split must be one of"),
        ("DatasetArgs.split = 'last'", "split must be"),
        ("OptimizerArgs.learning_rate = -1.0", "learning_rate must be >= 0.0, got -1.0"),
        ("OptimizerArgs.optimizer_str = 'lion'", "optimizer_str must be 'adam' or 'sgd'"),
        ("TensorModelParallelArgs.tensor_model_parallel_size = 2",
         "tensor_model_parallel_size must be 1: tensor parallelism is not here, got 2"),
        ("RankingArgs.num_tasks = 3", "num_tasks must be 1 or the last width, 5"),
        ("RankingArgs.prediction_head_arch = (8, 'a')", "prediction_head_arch must be of type"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_file_and_line(line: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(gin_file.ConfigError, match=said) as caught:
        read(tmp_path, line)
    assert f"({tmp_path}/x.gin:{LINES + 1})" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("NetworkArgs.layers = 2", "layers"),
        ("NetworkArg.num_layers = 2", "NetworkArg"),
        ("NetworkArgs.num_layers = ", "x.gin"),
        ("NetworkArgs num_layers", "x.gin"),
    ],
)
def test_what_gin_does_not_know_is_refused(line: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(gin_file.ConfigError, match=said) as caught:
        read(tmp_path, line)
    assert str(LINES + 1) in str(caught.value)


def test_a_missing_value_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(gin_file.ConfigError, match=r"NetworkArgs\.num_layers must be given"):
        read(tmp_path, text=RANKING.replace("NetworkArgs.num_layers = 1\n", ""))
    with pytest.raises(gin_file.ConfigError, match="is not there"):
        gin_file.parse(tmp_path / "none.gin")


def test_an_included_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "base.gin").write_text("# base\n" + RANKING + "NetworkArgs.num_layers = 0\n")
    with pytest.raises(gin_file.ConfigError, match=rf"base\.gin:{LINES + 2}\)"):
        read(tmp_path, text="include 'base.gin'\n")


def test_a_missing_data_set_names_the_command_that_makes_it(tmp_path: Path) -> None:
    settings = read(tmp_path, f"DatasetArgs.dataset_path = '{tmp_path}/none'")
    with pytest.raises(gin_file.ConfigError, match=r"python -m hstu_training\.preprocess --dataset "
                       r"ml-1m --input <the archive of ml-1m> --output .*/none"):  # fmt: skip
        settings.columns()


def test_the_tasks_must_be_those_of_the_data(tmp_path: Path) -> None:
    made = runs.data(tmp_path, "ml-1m", users=9)
    path = f"DatasetArgs.dataset_path = '{made}'\n"
    assert read(tmp_path, path).columns().users == 9
    with pytest.raises(ValueError, match=r"ends with 4 classes, but .* has 5"):
        read(tmp_path, path + "RankingArgs.prediction_head_arch = (8, 4)").columns()
    eight = path + "RankingArgs.prediction_head_arch = (8,)\nRankingArgs.num_tasks = 8"
    with pytest.raises(ValueError, match=r"num_tasks is 8, but .* has classes"):
        read(tmp_path, eight).columns()


def test_torchrec_is_refused_by_name_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables.importlib.util, "find_spec", lambda name: None)
    settings = read(tmp_path, "NetworkArgs.embedding_backend = 'torchrec'")
    said = "must be 'native' or None here: torchrec is not installed, got 'torchrec'"
    with pytest.raises(gin_file.ConfigError, match=rf"{said} \(.*x\.gin:{LINES + 1}\)"):
        tables.make_tables([], settings, Processes("cpu"))


def test_another_backend_is_refused_by_every_door(tmp_path: Path) -> None:
    given = {"num_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "kv_channels": 8}
    gin_file.parse(runs.EXAMPLES / "movielen_retrieval.gin")
    with pytest.raises(ValueError, match="Only CUTLASS backend is supported for A100 GPU"):
        NetworkArgs(**given, kernel_backend="triton")
    args = NetworkArgs(**given)
    assert create_hstu_config(args, 20).divisor == 20
    args.kernel_backend = "pytorch"
    with pytest.raises(ValueError, match="Only CUTLASS backend is supported for A100 GPU"):
        create_hstu_config(args, 20)
    with pytest.raises(ValueError, match="Only CUTLASS backend is supported for A100 GPU"):
        create_hstu_attention("triton", 1, 32)  # type: ignore[arg-type]


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch) -> object:
    """Makes up a GPU of some compute capability."""

    def fake(major: int, minor: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (major, minor))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")

    return fake


def test_the_gpu_check_says_what_it_found(
    capability: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capability(8, 0)  # type: ignore[operator]
    check_a100_gpu()
    assert capsys.readouterr().out == "[GPU Check] Detected A100 GPU (SM 8.0) - OK\n"
    capability(9, 0)  # type: ignore[operator]
    with pytest.raises(RuntimeError) as caught:
        check_a100_gpu()
    assert str(caught.value) == (
        "This code is optimized for A100 GPU (SM 8.0) only. "
        "Detected SM 9.0. Please use an A100 GPU."
    )
    assert "Some GPU (SM 9.0)" in check_a100_gpu("any")
    capability(7, 5)  # type: ignore[operator]
    with pytest.raises(RuntimeError, match=r"serves GPUs of SM 8.0 and newer. Detected SM 7.5"):
        check_a100_gpu("any")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="No CUDA device was found"):
        check_a100_gpu()
    with pytest.raises(ValueError, match="allow must be 'a100' or 'any'"):
        check_a100_gpu("h100")


@pytest.mark.parametrize("task", ["ranking", "retrieval"])
def test_both_commands_check_the_gpu_before_anything_else(
    task: str, capability: object, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--gin-config-file=/none.gin"]
    capability(9, 0)  # type: ignore[operator]
    with pytest.raises(RuntimeError, match=r"^This code is optimized .* Detected SM 9\.0\. Please"):
        command.run(task, given)
    assert command.run(task, [*given, "--gpu-check=any"]) == 1
    said = capsys.readouterr()
    assert "Some GPU (SM 9.0)" in said.out and "/none.gin is not there" in said.err
    capability(8, 0)  # type: ignore[operator]
    assert command.run(task, given) == 1
    said = capsys.readouterr()
    assert said.out == "[GPU Check] Detected A100 GPU (SM 8.0) - OK\n"
    assert "/none.gin is not there" in said.err


def test_a_seed_s_command_fails_without_an_a100() -> None:
    program = runs.EXAMPLES / "pretrain_gr_ranking.py"
    done = python(
        "-m", "torch.distributed.run", "--nproc_per_node", "1", "--master_addr", "localhost",
        "--master_port", str(runs.free_port()), program, "--gin-config-file",
        program.with_name("movielen_ranking.gin"), CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert done.returncode == 1
    said = "RuntimeError: This code is optimized for A100 GPU (SM 8.0) only. No CUDA device was"
    assert said in done.stderr


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("configs.hstu_config", "KernelBackend HSTULayerType HSTUConfig get_hstu_config"),
        ("configs.task_config", "RankingConfig RetrievalConfig"),
        ("modules.hstu_attention", "check_a100_gpu FusedHSTUAttention create_hstu_attention"),
        ("modules.fused_hstu_layer", "FusedHSTULayer"),
        ("modules.native_hstu_layer", "NativeHSTULayer"),
        ("modules.hstu_block", "HSTUBlock"),
        ("modules.hstu_processor", "HSTUProcessor"),
        ("modules.mlp", "MLP"),
        ("model.ranking_gr", "RankingGR"),
        ("model.retrieval_gr", "RetrievalGR"),
        ("training.utils", "create_hstu_config"),
    ],
)
def test_what_has_a_path_there_has_it_here(module: str, names: str) -> None:
    found = importlib.import_module(f"hstu_training.{module}")
    assert [name for name in names.split() if not hasattr(found, name)] == []


def test_there_is_one_backend_and_three_kinds_of_layer() -> None:
    assert [backend.name for backend in KernelBackend] == ["CUTLASS"]
    assert [kind.name for kind in HSTULayerType] == ["FUSED", "NATIVE", "DEBUG"]
