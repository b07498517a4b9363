"""Records what llama.cpp's own quantizer does, for tests/convert/test_recorded.py.

Build llama.cpp's library from the source package of llama-cpp-python, then run this beside it:

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36
    tar xf llama_cpp_python-0.3.36.tar.gz
    cmake -S llama_cpp_python-0.3.36/vendor/llama.cpp -B build -DBUILD_SHARED_LIBS=ON \
        -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
    cmake --build build --target llama
    python -m tests.convert.recorded.record build/bin/libllama.so 0.3.36

`types.json` gets the type of every tensor, for every file type and family, and again with an
importance matrix where that changes any; nothing where llama.cpp refuses. `files.json` gets the
SHA-256 of whole files that it wrote from one small model.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
import tempfile
from itertools import groupby
from pathlib import Path

from llamune.convert import FILE_TYPES
from llamune.files import sha256_of
from tests.convert.families import FAMILIES, write_sparse
from tests.convert.models import llama

HERE = Path(__file__).parent
LINE = re.compile(r"\[ *\d+/ *\d+\] +(\S+) +- \[.*?\], type = +(\S+), size = .*?(?:\((\S+)\))?\n")
NOT_OFFERED = {"NVFP4"}
NO_TYPE = 43  # GGML_TYPE_COUNT


class Importance(ctypes.Structure):
    """`struct llama_model_imatrix_data`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.POINTER(ctypes.c_float)),
        ("size", ctypes.c_size_t),
    )


class Parameters(ctypes.Structure):
    """`struct llama_model_quantize_params`."""

    _fields_ = (
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int),
        ("output_tensor_type", ctypes.c_int),
        ("token_embedding_type", ctypes.c_int),
        ("allow_requantize", ctypes.c_bool),
        ("quantize_output_tensor", ctypes.c_bool),
        ("only_copy", ctypes.c_bool),
        ("pure", ctypes.c_bool),
        ("keep_split", ctypes.c_bool),
        ("dry_run", ctypes.c_bool),
        ("imatrix", ctypes.POINTER(Importance)),
        ("kv_overrides", ctypes.c_void_p),
        ("tt_overrides", ctypes.c_void_p),
        ("prune_layers", ctypes.c_void_p),
        ("max_buf_size", ctypes.c_size_t),
    )


class Quantizer:
    """llama.cpp's quantizer, called through its C interface.

    Args:
        path: the shared library.
    """

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.llama_model_quantize_default_params.restype = Parameters
        self.library.llama_model_quantize.argtypes = [
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.POINTER(Parameters),
        ]
        self.said: list[str] = []
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self.callback = kind(lambda _level, text, _data: self.said.append(text.decode()))
        self.library.llama_log_set(self.callback, None)
        defaults = self.library.llama_model_quantize_default_params()
        if defaults.output_tensor_type != NO_TYPE or not defaults.max_buf_size:
            sys.exit("this llama.cpp lays its parameters out differently")

    def run(self, source: Path, out: Path, number: int, *, dry: bool, weighted: bool) -> str:
        """Quantize, and return what it said; empty when it refused."""
        parameters = self.library.llama_model_quantize_default_params()
        parameters.ftype = number
        parameters.dry_run = dry
        parameters.nthread = 1
        if weighted:
            one = (ctypes.c_float * 1)(1.0)
            entries = (Importance * 2)(Importance(b"none", one, 1), Importance(None, None, 0))
            parameters.imatrix = entries
        self.said.clear()
        failed = self.library.llama_model_quantize(
            str(source).encode(), str(out).encode(), ctypes.byref(parameters)
        )
        return "" if failed else "".join(self.said)


def types_of(said: str) -> dict[str, str]:
    """Return tensor name → type from what a dry run said."""
    found = {}
    for name, before, after in LINE.findall(re.sub(r"\(WARNING.*?\) ", "", said)):
        found[name] = (after or before).upper()
    return found


def folded(types: dict[str, str]) -> dict[str, str]:
    """Return the types of each kind of tensor, block after block, runs written as `Q4_K*7`."""
    kinds: dict[str, list[str]] = {}
    for name, kind in types.items():
        kinds.setdefault(re.sub(r"blk\.\d+", "blk.N", name), []).append(kind)
    return {
        name: " ".join(f"{kind}*{len(list(run))}" for kind, run in groupby(values))
        for name, values in kinds.items()
    }


def main() -> None:
    """Record both tables."""
    quantizer = Quantizer(Path(sys.argv[1]))
    made_by = f"llama.cpp in llama-cpp-python {sys.argv[2]}"
    types: dict[str, dict[str, dict[str, str]]] = {}
    files: dict[str, str] = {}
    offered = [kind for name, kind in FILE_TYPES.items() if name not in NOT_OFFERED]
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in.gguf", Path(folder) / "out.gguf"
        for family, shape in FAMILIES.items():
            write_sparse(source, shape)
            types[family] = {}
            for kind in offered:
                plain, weighted = (
                    folded(types_of(quantizer.run(source, out, kind.id, dry=True, weighted=flag)))
                    for flag in (False, True)
                )
                types[family][kind.name] = plain
                if weighted != plain:
                    types[family][f"{kind.name} weighted"] = weighted
        source.unlink()
        llama(source)
        for kind in offered:
            if quantizer.run(source, out, kind.id, dry=False, weighted=False):
                files[kind.name] = sha256_of(out)
    text = json.dumps({"made by": made_by, "files": files}, indent=1)
    (HERE / "files.json").write_text(f"{text}\n")
    (HERE / "types.json").write_text(lines({"made by": made_by, **types}))


def lines(table: dict[str, object]) -> str:
    """Return a table as JSON with one line for each file type, so that a change shows as one."""
    parts = []
    for name, value in table.items():
        if isinstance(value, dict):
            inner = ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            parts.append(f" {json.dumps(name)}: {{\n  {inner}\n }}")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    main()
