"""`transformers.Trainer` with our data order, our validation loss and our checkpoints."""
# ruff: noqa: ARG002  the methods' signatures are those of `Trainer`

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerState, TrainingArguments

from llamune.data import by_length
from llamune.nn import whole
from llamune.runs import Recipe, Run
from llamune.train import attach, checkpoints
from llamune.train.batches import IGNORED, Collator, Example
from llamune.train.errors import LossError
from llamune.train.progress import PROGRESS, Progress
from llamune.train.team import any_of

__all__ = ["Loop", "arguments"]

TRAINER_STATE = "trainer_state.json"
VALIDATION_LOSS = "eval_loss"
NEWEST_CHECKPOINTS_KEPT = 2


def arguments(recipe: Recipe, *, folder: Path, on_cpu: bool) -> TrainingArguments:
    """Say a recipe in the words of `transformers`; optimizer and schedule are `Loop`'s own.

    Args:
        recipe: the settled recipe.
        folder: where trackers write.
        on_cpu: whether the model is on the CPU.
    """
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=recipe.micro_batch,
        max_steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        max_grad_norm=recipe.clip_norm,
        neftune_noise_alpha=recipe.neftune or None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # ours are asked for by `Watch`
        eval_strategy="no",
        report_to=list(recipe.report_to) or "none",
        seed=recipe.seed,
        use_cpu=on_cpu,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        disable_tqdm=True,
    )


class Loop(Trainer):
    """The training loop of one run.

    Args:
        model: a PEFT model.
        settings: from `arguments`.
        recipe: the settled recipe.
        order: this process's micro-batches, in order, as record numbers.
        training: the records.
        validation: records whose loss tells when to stop; may be empty.
        folder: of the checkpoints.
        progress: what a resumed run must remember; written into each checkpoint.
    """

    is_shared_out = False  # whether each process holds a part of the weights only

    def __init__(
        self,
        model: PeftModel,
        settings: TrainingArguments,
        *,
        recipe: Recipe,
        order: Sequence[Sequence[int]],
        training: Sequence[Example],
        validation: Sequence[Example],
        folder: Path,
        progress: Progress,
    ) -> None:
        self.adapted = model
        self.recipe = recipe
        self.order = order
        self.training_records = training
        self.validation_records = validation
        self.validation_order = by_length(
            [len(record.ids) for record in validation], recipe.micro_batch
        )
        self.checkpoints_folder = folder
        self.progress = progress
        self.after_validation: Callable[[int], None] = lambda _: None
        self.collator = Collator(packing=recipe.packing)
        super().__init__(
            model=model, args=settings, train_dataset=training, data_collator=self.collator
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return all micro-batches of the run as one pass; a resumed run skips to its place."""
        return DataLoader(
            self.training_records,  # type: ignore[arg-type]  # a sequence is a dataset
            batch_sampler=self.order,  # type: ignore[arg-type]  # a list serves as a sampler
            collate_fn=self.collator,
        )

    def create_optimizer(self, *_: Any) -> torch.optim.Optimizer:
        """Return AdamW; B matrices may have a rate of their own (LoRA+, arXiv:2402.12354)."""
        if self.optimizer is None:
            named = [
                (name, parameter)
                for name, parameter in self.adapted.named_parameters()
                if parameter.requires_grad
            ]
            rate = self.recipe.learning_rate
            of_b = [parameter for name, parameter in named if "lora_B" in name]
            rest = [parameter for name, parameter in named if "lora_B" not in name]
            self.optimizer = torch.optim.AdamW(
                [
                    {"params": rest, "lr": rate},
                    {"params": of_b, "lr": rate * self.recipe.b_rate_ratio},
                ],
                lr=rate,
                weight_decay=self.recipe.weight_decay,
            )
        return self.optimizer

    def create_scheduler(self, *_: Any, **__: Any) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the schedule of the learning rate."""
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                self.create_optimizer(), partial(rate_share, self.recipe)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: the plan counts operations from the file, packed weights included."""
        return 0

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Any:
        """Run one micro-batch forward and backward; a loss that is no number stops the run.

        Every process stops then: the others would wait for one that is gone.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if any_of(not math.isfinite(loss.item())):
            raise self.diverged("loss", loss.item())
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        if self.is_shared_out:
            norm = whole(norm)
        if norm is not None and not math.isfinite(float(norm)):
            raise self.diverged("gradient", float(norm))
        return norm

    def diverged(self, what: str, value: float) -> LossError:
        """Return the error for a step whose numbers cannot be used."""
        last = checkpoints.checkpoint_steps(self.checkpoints_folder)
        kept = f"the checkpoint of step {last[-1]} is sound" if last else "no checkpoint yet"
        return LossError(
            f"step {self.state.global_step + 1}: the {what} is {value}; stopped before the "
            f"weights took harm, {kept}",
            hint=f"lower the learning rate: --lr {self.recipe.learning_rate / 2:.1e}",
        )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the validation loss, and tell the callbacks."""
        metrics = {VALIDATION_LOSS: self.evaluate_quietly()}
        if self.args.process_index == 0:
            self.adapted.eval()
            self.after_validation(self.state.global_step)
            self.adapted.train()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def evaluate_quietly(self) -> float:
        """Return the validation loss in nats a trained token, over all processes."""
        was_training = self.adapted.training
        self.adapted.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        with torch.no_grad():
            for numbers in self.validation_order[self.args.process_index :: self.args.world_size]:
                inputs = self.collator([self.validation_records[i] for i in numbers])
                count = int((inputs["labels"][:, 1:] != IGNORED).sum())
                outputs = self.adapted(**self._prepare_inputs(inputs))
                total += torch.tensor(
                    [float(outputs.loss) * count, count], dtype=total.dtype, device=total.device
                )
        if self.args.world_size > 1:
            torch.distributed.all_reduce(total)
        self.adapted.train(was_training)
        return (total[0] / total[1]).item()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        leader = self.args.process_index == 0
        barrier = torch.distributed.barrier if self.args.world_size > 1 else None
        with checkpoints.writing(
            self.checkpoints_folder, self.state.global_step, leader=leader, barrier=barrier
        ) as folder:
            if leader or self.is_shared_out:
                self.save_weights(folder)
            if leader:
                self.state.save_to_json(os.fspath(folder / TRAINER_STATE))
                (folder / PROGRESS).write_text(json.dumps(self.progress.as_dict()))
            self._save_optimizer_and_scheduler(os.fspath(folder))
            self._save_rng_state(os.fspath(folder))
        if leader:
            checkpoints.keep(
                self.checkpoints_folder,
                newest=NEWEST_CHECKPOINTS_KEPT,
                best_step=self.progress.best_step,
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.load_weights(Path(resume_from_checkpoint))

    def take_up(self, checkpoint: Path) -> None:
        """Be where a run was that had made its last step, without another one."""
        self.load_weights(checkpoint)
        self.state = TrainerState.load_from_json(os.fspath(checkpoint / TRAINER_STATE))

    def save_weights(self, folder: Path) -> None:
        """Write what is trained into a folder that exists, for `load_weights`."""
        attach.save_into(self.adapted, folder)

    def load_weights(self, folder: Path) -> None:
        """Put back what `save_weights` wrote."""
        attach.load_adapter_weights(self.adapted, folder)

    def n_trained(self) -> int:
        """Return how many numbers are trained."""
        return attach.count_trained(self.adapted)

    def write_result(self, run: Run, *, layers: Sequence[str]) -> Path:
        """Write what the training made into the run's folder, in place of an earlier one.

        Called in the leading process, and in every one where weights are shared out.

        Args:
            run: its folder.
            layers: leaf names of the trained layers, for an adapter's config.
        """
        shutil.rmtree(run.adapter, ignore_errors=True)
        attach.write_adapter(self.adapted, run.adapter, layers=layers)
        return run.adapter


def rate_share(recipe: Recipe, step: int) -> float:
    """Return the share of the full learning rate that a step (0 is the first) takes.

    Unlike `transformers`' schedules, no step has a rate of zero: the first rises already, and
    the last still has its share.
    """
    if step < recipe.warmup_steps:
        return (step + 1) / (recipe.warmup_steps + 1)
    left = (recipe.steps - step) / (recipe.steps - recipe.warmup_steps)  # 1 → 1 / steps
    if recipe.schedule == "cosine":
        return 0.5 * (1 - math.cos(math.pi * max(left, 0.0)))
    return max(left, 0.0) if recipe.schedule == "linear" else 1.0
