"""LoRA on a loaded model: which layers get it, how large, and its weights in and out of files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamune.adapter import NEW_ROWS
from llamune.errors import UnsupportedError
from llamune.files import new_folder
from llamune.runs import Recipe
from llamune.train.errors import TrainError
from llamune.train.quiet import quiet

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = [
    "attach_adapter",
    "check_ranks",
    "count_trained",
    "load_adapter_weights",
    "write_adapter",
]

WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"


def attach_adapter(
    model: PreTrainedModel, recipe: Recipe, *, modules: Sequence[str], base_name: str = ""
) -> PeftModel:
    """Put a fresh LoRA beside the named linear layers; all else but new tokens is frozen.

    Args:
        model: the base, its weights packed or not.
        recipe: rank, alpha, dropout, variant and seed.
        modules: paths of the layers inside the model.
        base_name: what the adapter's config says of its base.

    Raises:
        TrainError: no module is named, or a rank is given for a module that is not trained.
    """
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import set_seed

    from llamune.train.lora import with_packed_layers

    if not modules:
        raise TrainError("no layer is chosen to be trained", hint="--targets all")
    check_ranks(recipe, modules)
    set_seed(recipe.seed)  # A is drawn at random
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # PEFT divides: a float serves
        lora_dropout=recipe.dropout,
        use_rslora=recipe.rslora,
        use_dora=recipe.method == "dora",
        rank_pattern=dict(recipe.ranks),
        target_modules=list(modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with quiet():
        adapted = get_peft_model(model, with_packed_layers(config))
    if not isinstance(adapted, PeftModel):
        raise TypeError(f"PEFT made a {type(adapted).__name__}")
    adapted.peft_config["default"].base_model_name_or_path = base_name
    if recipe.add_tokens:
        from llamune.train.tokens import grow

        grow(adapted, len(recipe.add_tokens))
    return adapted


def check_ranks(recipe: Recipe, modules: Iterable[str]) -> None:
    """Refuse a rank for a layer that gets no adapter.

    Args:
        recipe: its `ranks` are by kind of layer.
        modules: paths of the layers that get one.

    Raises:
        TrainError: with the layers that do.
    """
    leaves = {module.rsplit(".", 1)[-1] for module in modules}
    if unknown := sorted(set(recipe.ranks) - leaves):
        raise TrainError(
            f"a rank is given for {', '.join(unknown)}, which is not trained",
            hint=f"trained layers: {', '.join(sorted(leaves))}",
        )


def count_trained(model: PeftModel) -> int:
    """Return how many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def write_adapter(model: PeftModel, folder: Path, *, layers: Sequence[str] = ()) -> None:
    """Write the adapter as a PEFT folder, whole or not at all.

    Args:
        model: the trained model.
        folder: must not exist.
        layers: leaf names of the trained layers, for the config, so that plain PEFT can put the
            adapter on any model of the family without a list of hundreds of paths.
    """
    with new_folder(folder) as scratch:
        save_into(model, scratch, layers=layers)


def save_into(model: PeftModel, folder: Path, *, layers: Sequence[str] = ()) -> None:
    """Write weights and config into a folder that exists."""
    from safetensors.torch import save_file

    from llamune.train.tokens import new_rows

    config: Any = model.peft_config["default"]
    modules = config.target_modules
    if layers:
        config.target_modules = set(layers)
    card = folder / "README.md"
    card.write_text("---\n{}\n---\n")  # where there is none, PEFT compiles a template of one
    try:
        # "auto" would ask the Hub for the base's vocabulary
        model.save_pretrained(str(folder), save_embedding_layers=False)
    finally:
        config.target_modules = modules
    card.unlink()
    if rows := new_rows(model):
        save_file(
            {name: table.contiguous().cpu() for name, table in rows.items()}, folder / NEW_ROWS
        )


def load_adapter_weights(model: PeftModel, folder: Path) -> None:
    """Put the weights of a PEFT folder into the attached adapter; every one must be there.

    Raises:
        UnsupportedError: the folder holds a pickle.
        TrainError: its weights do not fit the attached adapter.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    from llamune.train.tokens import put_new_rows

    if not (folder / WEIGHTS).is_file():
        if (folder / PICKLE).is_file():
            raise UnsupportedError(
                f"{folder / PICKLE}: a pickle can run code and is not loaded",
                hint="convert it to safetensors where you trust it",
            )
        raise TrainError(f"{folder}: no {WEIGHTS} in it")
    weights: dict[str, Any] = load_file(folder / WEIGHTS)
    wanted = {
        name: tuple(value.shape)
        for name, value in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if wanted != found:
        different = min(set(wanted.items()) ^ set(found.items()))
        raise TrainError(
            f"{folder}: does not fit this recipe: {different[0]}",
            hint="rank, targets and method must be those of the adapter",
        )
    set_peft_model_state_dict(model, weights)
    put_new_rows(model, folder)
