"""What no GGUF adapter can express comes back as a whole file: DoRA, and new tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamune.errors import UnsupportedError
from llamune.gguf import ModelFile
from llamune.jobs import check_verdict, tune
from llamune.jobs.publishing import plan_publication, publish
from llamune.runs import RecipeError, Run
from llamune.store import resolve
from llamune.text import template_of, tokenizer_of

QUICK: dict[str, Any] = {"steps": 6, "evaluations": 2, "learning_rate": 5e-3, "rank": 4}


def test_dora_is_trained_merged_proven_and_published(
    tiny_base: Path, examples: Path, tmp_path: Path
) -> None:
    choices = {**QUICK, "compute_type": "float32"}  # in bfloat16 the losses are 3e-3 apart
    run = tune(str(tiny_base), data=examples, name="colours", method="dora", **choices)
    record = run.record
    assert record.state == "done"
    assert record.proof is not None
    assert record.proof["verdict"] == "pass", record.proof["reasons"]
    assert record.merge is not None
    losses = record.merge["held_out"]
    # torch measured the adapter, llama.cpp the exact merge: DoRA's formula is the same in both
    assert losses["adapter"] == pytest.approx(record.loss.validation, abs=2e-3)
    # the base is Q8_0, whose products llama.cpp rounds
    assert losses["base"] == pytest.approx(record.loss.validation_before, abs=2e-2)
    assert losses["merged"] < losses["base"]
    model = resolve("colours")
    assert model.adapters == ()
    assert model.path.read_bytes() == run.model_gguf.read_bytes()
    assert model.annotations["llamune.run"] == "colours:latest#1"
    assert "merged" in record.files
    assert "マージ済みファイルに残ったもの" in run_report(run, "ja")
    out = tmp_path / "placed.gguf"
    publish(plan_publication("colours#1", to=str(out), name="colours"))
    assert out.read_bytes() == run.model_gguf.read_bytes()


def run_report(run: Run, language: str) -> str:
    from llamune.jobs import report_again

    return report_again(run, language=language)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), [("llama", "F16"), ("gemma2", "Q8_0")])
def test_new_tokens_are_trained_and_served(
    family: str, kind: str, examples: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.tiny import tiny_model

    base = tiny_model(tmp_path_factory.mktemp("base"), family, kind)
    new = ["<colour>", "greenish"]
    run = tune(
        str(base), data=with_tokens(examples, tmp_path_factory.mktemp("data")), name="colours",
        add_tokens=new, **QUICK,
    )  # fmt: skip
    record = run.record
    assert record.proof is not None
    assert record.proof["verdict"] == "pass", record.proof["reasons"]
    assert record.loss.validation < record.loss.validation_before  # type: ignore[operator]
    assert record.merge is not None
    assert record.merge["held_out"]["adapter"] == pytest.approx(record.loss.validation, abs=5e-3)
    with ModelFile.open(base) as old, ModelFile.open(resolve("colours").paths) as served:
        tokenizer, before = tokenizer_of(served), tokenizer_of(old)
        n_old = before.n_vocab
        assert [tokenizer.id_of(text) for text in new] == [n_old, n_old + 1]
        assert tokenizer.encode("a <colour> b").count(n_old) == 1
        rows = served.packed("token_embd.weight")
        np.testing.assert_array_equal(rows[:n_old], old.packed("token_embd.weight"))
        first = np.mean(
            [old.floats("token_embd.weight", i, i + 1)[0] for i in before.encode(new[0])], axis=0
        )
        learned = served.floats("token_embd.weight", n_old, n_old + 1)[0]
        assert np.abs(learned - first).max() > np.abs(first).max() / 20  # it moved
    assert not list((run.folder).glob("grown*"))


def with_tokens(examples: Path, folder: Path) -> Path:
    path = folder / "tokens.json"
    text = examples.read_text().replace("green", "greenish").replace(" or ", " <colour> ")
    path.write_text(text)
    return path


def test_llama_cpp_finds_new_tokens_in_text(tiny_base: Path, tmp_path: Path) -> None:
    from llamune.adapter import grow_vocabulary
    from llamune.engine import NativeModel
    from llamune.jobs.growing import first_rows

    new, out = ["<colour>", "Übergrün"], tmp_path / "grown.gguf"
    with ModelFile.open(tiny_base) as file:
        grow_vocabulary(file, new, first_rows(file, tokenizer_of(file), new), out)
    texts = ["a <colour> b", "Übergrün<colour>", "über grün", "the <colour", "x<colour>Übergrün."]
    with ModelFile.open(out) as grown, NativeModel([out], n_gpu_layers=0) as native:
        tokenizer = tokenizer_of(grown)
        for text in texts:
            assert tokenizer.encode(text) == native.tokenize(text)


@pytest.mark.slow
def test_what_new_tokens_cannot_be(tiny_base: Path, examples: Path) -> None:
    with pytest.raises(RecipeError, match="is a token of"):
        tune(str(tiny_base), data=examples, name="x", add_tokens=["<|im_start|>"])
    with pytest.raises(RecipeError, match="stands twice"):
        tune(str(tiny_base), data=examples, name="x", add_tokens=["<a>", "<a>"])
    first = tune(str(tiny_base), data=examples, name="colours", **QUICK)
    with pytest.raises(UnsupportedError, match="was trained without them"):
        tune(
            str(tiny_base), data=examples, name="x", from_adapter=str(first.adapter),
            add_tokens=["<a>"],
        )  # fmt: skip


@pytest.mark.slow
def test_a_file_without_a_template_is_tuned_with_a_chosen_one(
    tiny_base: Path, examples: Path, tmp_path: Path
) -> None:
    from llamune.gguf import write_gguf
    from llamune.text import TemplateError
    from tests.jobs.copying import tensors_of

    base = tmp_path / "bare.gguf"
    with ModelFile.open(tiny_base) as file:
        kept = [key for key in file.metadata if key != "tokenizer.chat_template"]
        metadata = {key: file.metadata.entry(key) for key in kept}
        write_gguf(base, metadata=metadata, tensors=tensors_of(file))
    with pytest.raises(TemplateError, match="no chat template"):
        tune(str(base), data=examples, name="colours", **QUICK)
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
                        "{% if add_generation_prompt %}[assistant] {% endif %}")  # fmt: skip
    run = tune(str(base), data=examples, name="colours", template=str(template), **QUICK)
    assert run.record.proof is not None
    assert run.record.proof["verdict"] == "pass", run.record.proof["reasons"]
    model = resolve("colours")
    with ModelFile.open(model.paths) as file:
        served = template_of(model, file, tokenizer_of(file))
    assert served.text == template.read_text()
    out = tmp_path / "placed.gguf"
    publish(plan_publication("colours#1", to=str(out), name="colours"))
    with ModelFile.open(out) as file:
        assert file.metadata.text("tokenizer.chat_template") == template.read_text()


def test_a_failed_proof_is_no_success(
    tiny_base: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from llamune.errors import AnswerNo
    from llamune.evaluate import prove

    def wrong(*arguments: Any, **options: Any) -> Any:
        proof = prove(*arguments, **options)
        return dataclasses.replace(proof, verdict="fail", reasons=("it differs",))

    monkeypatch.setattr("llamune.jobs.finishing.prove", wrong)
    run = tune(str(tiny_base), data=examples, name="colours", **QUICK)
    assert run.record.state == "failed"
    assert run.record.fault == "the proof failed: it differs"
    assert run.record.published == ()
    with pytest.raises(AnswerNo, match="it differs"):
        check_verdict(run)
    assert "it differs" in run.report_path.read_text()
    with pytest.raises(Exception, match="its proof failed"):
        plan_publication("colours#1", to="library")
