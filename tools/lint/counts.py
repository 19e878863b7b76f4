"""tools/bazel run //tools/lint:counts [-- FOLDER]: how often the sources say the same thing.

Prints each figure of a checkout beside the most that house_rules_test allows. FOLDER is another
checkout, of an older commit for instance.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.lint import tree

Texts = Mapping[str, str]  # path -> contents

# The most that is allowed. It follows the figures down, never up; None: shown only.
CEILINGS: dict[str, int | None] = {
    "attention_lists": 8,
    "insert_and_evict_files": 5,
    "long_functions": 0,
    "switch_conditions": 0,
    "sys_path_lines": 0,
    "product_lines": None,
    "stray_definitions": 0,
}

ATTENTION = frozenset(
    "q k v qkv dout cu_seqlens_q cu_seqlens_k cu_seqlens_t max_seqlen_q max_seqlen_k "
    "scaling_seqlen num_contexts num_targets target_group_size window window_size window_left "
    "window_right alpha rab has_drab func deterministic kv_cache page_offsets page_ids "
    "last_page_lens".split()
)
LONG_LIST, LONG_FUNCTION = 6, 120

# What lives in csrc/common, under all the names that it has had.
COMMON = (
    "HSTU_HD HKV_HD ACCEL_HD kWarpSize kFull kFullMask CheckCuda DeviceGuard Buffer StreamOrder "
    "SmemTile silu align_scratch AlignScratch device_attribute DeviceAttribute processor_count "
    "ProcessorCount ceil_div CeilDiv FailArgument to_int32 ToInt32 check_int32 CheckInt32 "
    "int32_or_null Int32OrNull shape_text ShapeText check_like_q CheckLike readable Readable "
    "check_launch CheckLaunch build_info BuildInfo SharedMemoryOfDevice AllowSharedMemory "
    "CurrentStream EnvironmentNumber ErrorText FloatOfBits BFloat16ToFloat FloatToBFloat16 "
    "Float16ToFloat FloatToFloat16"
).split()


def _blank(found: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", found[0])


def cpp_code(text: str) -> str:
    """C++ without comments, the contents of strings, and preprocessor lines; lines stay lines."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", _blank, text, flags=re.DOTALL)
    text = re.sub(r'R"\((.*?)\)"', _blank, text, flags=re.DOTALL)
    text = re.sub(r'"(?:\\.|[^"\\\n])*"', lambda s: '"' + " " * (len(s[0]) - 2) + '"', text)
    text = re.sub(r"'(?:\\.|[^'\\\n])'", "' '", text)
    return re.sub(r"^[ \t]*#(?:\\\n|[^\n])*", _blank, text, flags=re.MULTILINE)


def _python_lists(text: str) -> Iterator[tuple[int, list[str]]]:
    """(line, names) of each argument list, call, tuple or list, and class with fields."""

    def name(node: ast.expr) -> str:
        if isinstance(node, ast.Starred):
            node = node.value
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        return node.attr if isinstance(node, ast.Attribute) else ""

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.arguments):
            every = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            if every:
                yield every[0].lineno, [a.arg for a in every]
        elif isinstance(node, ast.Call):
            given = [name(a) for a in node.args]
            yield node.lineno, given + [k.arg or "" for k in node.keywords]
        elif isinstance(node, (ast.Tuple, ast.List)):
            yield node.lineno, [name(e) for e in node.elts]
        elif isinstance(node, ast.ClassDef):
            fields = [f.target for f in node.body if isinstance(f, ast.AnnAssign)]
            yield node.lineno, [name(f) for f in fields]


def _cpp_lists(text: str) -> Iterator[tuple[int, list[str]]]:
    """(line, names) of each parenthesised or braced list and each struct's fields; no bodies."""
    code = cpp_code(text)
    open_at: list[tuple[int, list[int]]] = []
    for i, c in enumerate(code):
        if c in "({":
            open_at.append((i, [i]))
        elif c in ",;" and open_at:
            open_at[-1][1].append(i)
        elif c in ")}" and open_at:
            start, cuts = open_at.pop()
            before = code[:start].rstrip()
            body = c == "}" and (before.endswith((")", "else", "do", "const")) or not before)
            if not body:
                parts = [code[a + 1 : b] for a, b in zip(cuts, [*cuts[1:], i], strict=True)]
                names = [re.findall(r"\w+", part.partition("=")[0])[-1:] for part in parts]
                yield code.count("\n", 0, start) + 1, [n[0] for n in names if n]


def attention_lists(texts: Texts) -> list[str]:
    """Lists of six and more arguments of attention, in the Python package and ops.cc."""
    found = []
    for path, text in texts.items():
        if path.startswith("python/hstu_attn/") and path.endswith(".py"):
            lists = _python_lists(text)
        elif path == "csrc/hstu_attn/ops.cc":
            lists = _cpp_lists(text)
        else:
            continue
        long = {line for line, names in lists if len(ATTENTION & set(names)) >= LONG_LIST}
        found += [f"{path}:{line}" for line in sorted(long)]
    return found


def insert_and_evict_files(texts: Texts) -> list[str]:
    """Product files whose code spells one call of the hash table."""
    found = []
    for path, text in texts.items():
        # The extension module's names are those of the program that it stands in for.
        foreign = path.startswith("python/dynamicemb/extension")
        if path.startswith(("csrc/", "python/")) and not foreign:
            code = re.sub(r"//[^\n]*|/\*.*?\*/|^\s*#[^\n]*", "", text, flags=re.DOTALL | re.M)
            if path.endswith(".py"):
                code = re.sub(r'""".*?"""', "", code, flags=re.DOTALL)
            found += [path] if "insert_and_evict" in code else []
    return found


def cpp_functions(text: str) -> Iterator[tuple[int, int]]:
    """(line, lines) of each function, macro invocations with a body among them."""
    code = cpp_code(text)
    scopes: list[tuple[str, int]] = []
    head = 0  # where the text before the next brace begins
    for i, c in enumerate(code):
        if c == "{":
            before = code[head:i]
            scope = re.search(r"\b(namespace|struct|class|enum|union|extern)\b", before)
            plain = not any(kind == "function" for kind, _ in scopes)
            is_function = plain and not (scope and "(" not in before) and "(" in before
            start = head + len(before) - len(before.lstrip())
            scopes.append(("function" if is_function else "other", start))
            head = i + 1
        elif c == "}" and scopes:
            kind, start = scopes.pop()
            if kind == "function":
                first = code.count("\n", 0, start) + 1
                yield first, code.count("\n", 0, i) + 2 - first
            head = i + 1
        elif c == ";":
            head = i + 1


def _csrc(texts: Texts, outside: str = "\0") -> Iterator[tuple[str, str]]:
    endings = (".cc", ".cu", ".cuh", ".h", ".tpl")
    for path, text in texts.items():
        if path.startswith("csrc/") and path.endswith(endings) and not path.startswith(outside):
            yield path, text


def long_functions(texts: Texts) -> list[str]:
    """Functions of csrc with more than 120 lines."""
    return [
        f"{path}:{line}: {lines} lines"
        for path, text in _csrc(texts)
        for line, lines in cpp_functions(text)
        if lines > LONG_FUNCTION
    ]


def switch_conditions(texts: Texts) -> list[str]:
    """Preprocessor conditions on a build switch, the one file of them (features) apart."""
    return [
        f"{path}:{text.count(chr(10), 0, found.start()) + 1}"
        for path, text in _csrc(texts)
        if not Path(path).name.startswith("features.")
        for found in re.finditer(r"^\s*#\s*(?:el)?if.*_DISABLE_", text, re.MULTILINE)
    ]


def sys_path_lines(texts: Texts) -> list[str]:
    """Lines of tests and benchmarks that say where Python looks for modules."""
    return [
        f"{path}:{line}"
        for path, text in texts.items()
        if path.startswith(("tests/", "benchmarks/")) and path.endswith(".py")
        for line, words in enumerate(text.splitlines(), 1)
        if "sys.path" in words
    ]


def product_lines(texts: Texts) -> list[str]:
    """Lines of csrc and python."""
    return [
        f"{path}:{n}"
        for path, text in texts.items()
        if path.startswith(("csrc/", "python/"))
        for n in range(1, text.count("\n") + 1)
    ]


def stray_definitions(texts: Texts) -> list[str]:
    """Definitions outside csrc/common of what lives there."""
    names = "|".join(COMMON)
    kinds = (
        rf"^\s*#\s*define\s+(?:{names})\b|"  # macros
        rf"^\s*(?:template\s*<[^>]*>\s*)?(?:class|struct)\s+(?:{names})\b\s*(?:final\s*)?\{{|"
        rf"^\s*(?:static |inline )*constexpr [\w:<>]+ (?:{names})\s*[={{]|"
        rf"^\s*(?:(?!explicit)[\w:<>&*]+\s+)+(?:\w+::)?(?:{names})\([^;{{}}]*\)\s*(?:const\s*)?\{{"
    )
    return [
        f"{path}:{text.count(chr(10), 0, found.end() - len(found[0].lstrip())) + 1}"
        for path, text in _csrc(texts, outside="csrc/common/")
        for found in re.finditer(kinds, text, re.MULTILINE)
    ]


def all_counts(texts: Texts) -> dict[str, list[str]]:
    """Each figure's places, by the names of CEILINGS."""
    return {name: globals()[name](texts) for name in CEILINGS}


def texts_of(folder: Path) -> dict[str, str]:
    """Every text file that git knows in a checkout."""
    command = ["git", "-C", folder, "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    return read(folder, [name for name in names if (folder / name).is_file()])


def read(folder: Path, names: list[str]) -> dict[str, str]:
    return {name: (folder / name).read_bytes().decode(errors="replace") for name in names}


def main() -> None:
    if sys.argv[1:]:
        texts = texts_of(Path(os.environ.get("BUILD_WORKING_DIRECTORY", "."), sys.argv[1]))
    else:
        texts = read(tree.root(), tree.files())
    for name, places in all_counts(texts).items():
        meaning = (globals()[name].__doc__ or "").rstrip(".")
        ceiling = CEILINGS[name]
        allowed = "" if ceiling is None else f" (at most {ceiling})"
        print(f"{len(places):>6}  {name}{allowed}: {meaning}")
        if ceiling is not None:
            print("".join(f"{'':>10}{place}\n" for place in places), end="")


if __name__ == "__main__":
    main()
