"""PEFT's adapter folders: `adapter_config.json` beside `adapter_model.safetensors`.

Source: PEFT 0.21, `tuners/lora/layer.py` (scales, DoRA) and `utils/save_and_load.py` (names).
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llamune.adapter.errors import AdapterError
from llamune.adapter.lora import Floats, LoraAdapter, LoraPair
from llamune.adapter.safetensors_file import read_json, read_safetensors, write_safetensors
from llamune.arch import Family, PermuteRows, TensorRule
from llamune.errors import UnsupportedError
from llamune.files import new_folder, write_text

__all__ = ["CONFIG_NAME", "WEIGHTS_NAME", "is_peft_folder", "read_peft", "write_peft"]

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PICKLE_NAMES = ("adapter_model.bin", "adapter_model.pt")
EMBEDDING = "token_embd.weight"
PREFIX = "base_model.model."
DIGEST_KEY = "llamune_base_digest"  # PEFT drops what it does not know with a warning only

# settings that change the function computed and that neither a GGUF adapter nor our merge has
REFUSED = {
    "fan_in_fan_out": "Conv1D weights",
    "lora_bias": "a bias on B",
    "target_parameters": "adapters on bare parameters",
    "layer_replication": "replicated layers",
    "trainable_token_indices": "single trained tokens",
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "an adapter that acts only after certain tokens",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
PARTS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_embedding_A": "embedding_a",
    "lora_embedding_B": "embedding_b",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}


def is_peft_folder(path: Path) -> bool:
    """Whether a folder looks like a PEFT adapter."""
    return (path / CONFIG_NAME).is_file()


def read_peft(folder: Path, family: Family) -> LoraAdapter:
    """Read a PEFT adapter for a base of this family.

    Args:
        folder: PEFT's adapter folder.
        family: what `arch.describe` said of the base.

    Raises:
        AdapterError: a file is missing or damaged, or a module is not in the base.
        UnsupportedError: the adapter uses something that cannot be expressed.
    """
    config = read_config(folder)
    tensors = read_safetensors(weights_path(folder))
    parts, whole = sorted_parts(tensors, folder)
    pairs = {}
    for module, part in parts.items():
        rule = rule_of(family, module, folder)
        if rule.gguf in pairs:
            raise AdapterError(f"{folder}: changes {rule.gguf} twice (tied weights)")
        pairs[rule.gguf] = pair_of(module, part, rule, config, folder)
    replaced = {}
    for name, weight in whole.items():
        module, _, parameter = name.rpartition(".")
        rule = rule_of(family, module, folder, parameter=parameter)
        replaced[rule.gguf] = in_file_rows(rule, weight)
    if not pairs and not replaced:
        raise AdapterError(f"{folder}: holds no LoRA weights")
    digest = config.get(DIGEST_KEY)
    return LoraAdapter(
        path=folder,
        pairs=pairs,
        replaced=replaced,
        architecture=family.name,
        base_digest=digest if isinstance(digest, str) else None,
    )


def weights_path(folder: Path) -> Path:
    """Return the weights file.

    Raises:
        AdapterError: it is missing; a pickle is never loaded.
    """
    path = folder / WEIGHTS_NAME
    if path.is_file():
        return path
    if any((folder / name).exists() for name in PICKLE_NAMES):
        raise AdapterError(
            f"{folder}: the weights are a pickle, which can run code when it is loaded",
            hint="convert them where you trust them: load with PEFT and call "
            "save_pretrained(folder, safe_serialization=True)",
        )
    raise AdapterError(f"{folder}: there is no {WEIGHTS_NAME}")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the settings of an adapter.

    Raises:
        AdapterError: missing, damaged, or not a LoRA.
        UnsupportedError: a setting that cannot be expressed, by name.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise AdapterError(f"{folder}: there is no {CONFIG_NAME}: not a PEFT adapter folder")
    config = read_json(path)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UnsupportedError(f"{path}: peft_type is {kind!r}, only LORA can be expressed")
    for key, what in REFUSED.items():
        if config.get(key):
            raise UnsupportedError(f"{path}: {key}: {what} cannot be expressed here")
    if config.get("bias", "none") != "none":
        raise UnsupportedError(f"{path}: bias is {config['bias']!r}: trained biases")
    return config


def sorted_parts(
    tensors: Mapping[str, Floats], folder: Path
) -> tuple[dict[str, dict[str, Floats]], dict[str, Floats]]:
    """Return LoRA parts by module path, and whole weights by parameter name."""
    parts: dict[str, dict[str, Floats]] = {}
    whole: dict[str, Floats] = {}
    for name, tensor in tensors.items():
        if not name.startswith(PREFIX):
            raise AdapterError(f"{folder}: tensor {name!r} does not begin with {PREFIX!r}")
        bare = name.removeprefix(PREFIX)
        ending = next((ending for ending in PARTS if bare.endswith(f".{ending}")), None)
        if ending is not None:
            module = bare.removesuffix(f".{ending}")
            parts.setdefault(module, {})[PARTS[ending]] = tensor
        elif ".lora_" in bare:
            raise UnsupportedError(f"{folder}: tensor {name!r} is of a kind that is not known")
        elif ".base_layer." not in bare:  # PEFT's copy of the base's own, untrained embedding
            whole[bare.replace(".modules_to_save", "")] = tensor
    return parts, whole


def rule_of(family: Family, module: str, folder: Path, *, parameter: str = "weight") -> TensorRule:
    """Return where a module's parameter lies in the file.

    Raises:
        AdapterError: the base has no such module, or it has no tensor of its own.
    """
    name = f"{module}.{parameter}"
    if name not in family.rules:
        near = difflib.get_close_matches(name, family.rules, n=1)
        raise AdapterError(
            f"{folder}: changes {name!r}, which this {family.name} base does not have",
            hint=f"the nearest name is {near[0]}" if near else None,
        )
    rule = family.rules[name]
    if family.tied and rule.gguf == EMBEDDING:
        raise UnsupportedError(
            f"{folder}: changes {module} alone, but this base has one matrix for its token "
            "embedding and its output",
            hint="train without embed_tokens and lm_head among the targets",
        )
    return rule


def pair_of(
    module: str,
    part: Mapping[str, Floats],
    rule: TensorRule,
    config: Mapping[str, Any],
    folder: Path,
) -> LoraPair:
    """Return the pair of one module, rows in the file's order.

    Raises:
        AdapterError: half of it is missing, or its shapes do not fit.
    """
    embedding = "embedding_a" in part
    a, b = (
        (part.get("embedding_a"), part.get("embedding_b"))
        if embedding
        else (part.get("a"), part.get("b"))
    )
    if a is None or b is None:
        raise AdapterError(f"{folder}: {module}: one of A and B is missing")
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise AdapterError(f"{folder}: {module}: A {a.shape} and B {b.shape} do not multiply")
    if embedding and rule.transform is not None:
        raise UnsupportedError(f"{folder}: {module}: an embedding whose rows are rearranged")
    magnitude = part.get("magnitude")
    if magnitude is not None:
        if embedding:
            raise UnsupportedError(f"{folder}: {module}: DoRA on an embedding")
        magnitude = in_file_rows(rule, magnitude.reshape(-1, 1)).reshape(-1)
    pair = LoraPair(
        a=a,
        b=b if embedding else in_file_rows(rule, b),
        scale=scale_of(module, a.shape[0], config, folder),
        magnitude=magnitude,
        embedding=embedding,
    )
    if pair.shape != rule.shape or (magnitude is not None and magnitude.shape != (rule.shape[0],)):
        raise AdapterError(
            f"{folder}: {module}: is for a weight of shape {pair.shape}, the base has {rule.shape}"
        )
    return pair


def in_file_rows(rule: TensorRule, rows: Floats) -> Floats:
    """Return rows of a module's output in the order of the file."""
    if isinstance(rule.transform, PermuteRows):
        return np.take(rows, rule.transform.file_rows(len(rows)), axis=0)
    if rule.transform is None:
        return rows
    return rows + np.float32(rule.transform.offset)


def in_torch_rows(rule: TensorRule, rows: Floats) -> Floats:
    """Return rows in the file's order in the order of transformers."""
    if isinstance(rule.transform, PermuteRows):
        return np.take(rows, rule.transform.torch_rows(len(rows)), axis=0)
    if rule.transform is None:
        return rows
    return rows - np.float32(rule.transform.offset)


def scale_of(module: str, rank: int, config: Mapping[str, Any], folder: Path) -> float:
    """Return the factor on B A, by PEFT's rules for per-module settings.

    Raises:
        AdapterError: the rank in the settings is not the weights' own, or alpha is no number.
    """
    stated = of_pattern(config.get("rank_pattern"), module, config.get("r"))
    alpha = of_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    if stated != rank:
        raise AdapterError(
            f"{folder}: {module}: the weights have rank {rank}, settings say {stated}"
        )
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise AdapterError(f"{folder}: {module}: lora_alpha is {alpha!r}")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def of_pattern(patterns: Any, module: str, default: Any) -> Any:
    """Return the value of the first pattern that fits a module's path, as PEFT does."""
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise AdapterError(f"adapter settings: pattern {pattern!r}: {error}") from error
    return default


def write_peft(
    adapter: LoraAdapter, family: Family, folder: Path, *, base_name: str | None = None
) -> None:
    """Write an adapter as a PEFT folder, which must not exist yet.

    Args:
        adapter: the adapter, rows in the file's order.
        family: what `arch.describe` said of the base.
        folder: the new folder.
        base_name: what to call the base in the settings.

    Raises:
        AdapterError: the adapter changes a tensor that the family does not describe.
    """
    by_gguf = {rule.gguf: rule for rule in reversed(list(family.rules.values()))}
    if unknown := [name for name in (*adapter.pairs, *adapter.replaced) if name not in by_gguf]:
        raise AdapterError(f"{adapter.path}: {unknown[0]} is no weight of a {family.name} model")
    tensors: dict[str, Floats] = {}
    for name, pair in adapter.pairs.items():
        rule = by_gguf[name]
        stem = f"{PREFIX}{rule.module}"
        if pair.embedding:
            tensors |= {f"{stem}.lora_embedding_A": pair.a, f"{stem}.lora_embedding_B": pair.b}
        else:
            tensors[f"{stem}.lora_A.weight"] = pair.a
            tensors[f"{stem}.lora_B.weight"] = in_torch_rows(rule, pair.b)
        if pair.magnitude is not None:
            lengths = in_torch_rows(rule, pair.magnitude.reshape(-1, 1)).reshape(-1)
            tensors[f"{stem}.lora_magnitude_vector"] = lengths
    for name, weight in adapter.replaced.items():
        tensors[f"{PREFIX}{by_gguf[name].name}"] = in_torch_rows(by_gguf[name], weight)
    config = config_of(adapter, by_gguf, base_name=base_name)
    with new_folder(folder) as scratch:
        write_safetensors(scratch / WEIGHTS_NAME, tensors)
        write_text(scratch / CONFIG_NAME, json.dumps(config, indent=2, sort_keys=True) + "\n")


def config_of(
    adapter: LoraAdapter, by_gguf: Mapping[str, TensorRule], *, base_name: str | None
) -> dict[str, Any]:
    """Return PEFT's settings; ranks and alphas that differ go into the patterns."""
    modules = {by_gguf[name].module: pair for name, pair in adapter.pairs.items()}
    ranks = Counter(pair.rank for pair in modules.values())
    alphas = Counter(pair.scale * pair.rank for pair in modules.values())
    rank = ranks.most_common(1)[0][0] if ranks else 8
    alpha = alphas.most_common(1)[0][0] if alphas else 8.0
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": list(modules),
        "rank_pattern": {
            re.escape(module): pair.rank for module, pair in modules.items() if pair.rank != rank
        },
        "alpha_pattern": {
            re.escape(module): pair.scale * pair.rank
            for module, pair in modules.items()
            if pair.scale * pair.rank != alpha
        },
        "use_dora": adapter.is_dora,
        "modules_to_save": sorted({by_gguf[name].module for name in adapter.replaced}) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        **({DIGEST_KEY: adapter.base_digest} if adapter.base_digest else {}),
    }
