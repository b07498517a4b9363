"""Packages: what must be inside, what is refused, and that a changed byte is found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml

from llamune.adapter import LoraAdapter, LoraPair, write_adapter, write_peft
from llamune.arch import describe
from llamune.cli._main import run
from llamune.errors import AnswerNo, LlamuneError
from llamune.gguf import ModelFile
from llamune.jobs import import_adapter
from llamune.license import derive, licences_of
from llamune.package import (
    Contents,
    PackageError,
    bill_of_materials,
    check,
    licence_texts,
    suggested_name,
    trademark_remark,
    verify_package,
    write_package,
)
from llamune.package.signing import read_key, signed, signer_of
from llamune.runs import DataFacts, RunRecord, Score
from llamune.store import publish_model
from tests.tiny import tiny_model

TARGET = "blk.0.attn_q.weight"
LLAMA_TEXT = (
    "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nLlama 3.1 Version Release Date: July 23, 2024\n"
)
GEMMA_TEXT = "Gemma Terms of Use\n… “Model Derivatives” means …\n"
NOTICES = {
    "llama3.1": "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta "
    "Platforms, Inc. All Rights Reserved.",
    "gemma": "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"), "llama", "Q8_0")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """Return a folder with `adapter.gguf` and `peft/`."""
    folder = tmp_path_factory.mktemp("weights")
    random = np.random.default_rng(0)
    with ModelFile.open(base) as file:
        rows, columns = file.tensors[TARGET].shape
        pair = LoraPair(
            a=random.normal(size=(2, columns)).astype(np.float32),
            b=random.normal(size=(rows, 2)).astype(np.float32),
            scale=1.0,
        )
        adapter = LoraAdapter(path=folder, pairs={TARGET: pair})
        write_adapter(adapter, file, folder / "adapter.gguf", base_digest=None)
        write_peft(adapter, describe(file), folder / "peft")
    return folder


RECORD = RunRecord(
    name="mine:latest",
    number=3,
    state="done",
    started=datetime(2026, 11, 24, tzinfo=UTC),
    finished=datetime(2026, 11, 24, 12, tzinfo=UTC),
    steps_done=40,
    parameters_trained=1234,
    data=DataFacts(
        files=("/home/me/tickets.json",), fingerprint="f" * 64, training_records=300,
        validation_records=30, tokens=9000, trained_tokens=3000,
    ),
    scores=(
        Score(task="validation", metric="exact match", n=30, before=0.2, before_low=0.1,
              before_high=0.35, after=0.9, after_low=0.75, after_high=0.97),
    ),
    proof={"verdict": "pass", "adapter": "/home/me/secret/adapter"},
)  # fmt: skip


def contents_for(
    weights: Path, *licences: str, texts: Sequence[str] = (), name: str = "mine", **more: object
) -> Contents:
    derivative = derive(licences_of({}, given=licences))
    fields = {
        "name": name,
        "kind": "adapter",
        "change": "adapter",
        "gguf": weights / "adapter.gguf",
        "peft": weights / "peft",
        "base_name": "tiny:latest",
        "base_digest": "sha256:" + "a" * 64,
        "architecture": "llama",
        "derivative": derivative,
        "texts": licence_texts(derivative, (), texts),
        "created": datetime(2026, 11, 24, 12, tzinfo=UTC),
        "record": RECORD,
        "recipe": "rank: 2\n",
        "datasets": ("tickets.json",),
    }
    return Contents(**(fields | more))


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


def everything(folder: Path) -> str:
    texts = [p.read_text(errors="replace") for p in folder.rglob("*") if p.suffix != ".gguf"
             if p.is_file()]  # fmt: skip
    return "\n".join(texts)


# -- what is inside ------------------------------------------------------------


def test_a_package_has_all_that_sharing_takes(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_package(contents_for(weights, "apache-2.0"), folder, language="en")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "README.md", "NOTICE", "CHANGES.md", "Modelfile", "LICENSES/Apache-2.0.txt",
        "adapter.gguf", "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
        "examples/ask.py", "recipe.yaml", "scores.json", "proof.json", "bom.cdx.json",
        "package.json", "SHA256SUMS",
    }  # fmt: skip
    matter = front_matter(folder)
    assert matter["license"] == "apache-2.0"
    assert matter["base_model"] == "tiny:latest"
    assert matter["base_model_relation"] == "adapter"
    assert matter["datasets"] == ["tickets.json"]
    card = (folder / "README.md").read_text()
    assert "0.900 (0.750 – 0.970)" in card
    assert "No training data are inside" in card
    assert "sha256:" + "a" * 64 in (folder / "CHANGES.md").read_text()
    assert "/home/me" not in everything(folder)  # no paths of the maker's machine
    assert "TERMS AND CONDITIONS" in (folder / "LICENSES/Apache-2.0.txt").read_text()
    compile((folder / "examples/ask.py").read_text(), "ask.py", "exec")


@pytest.mark.parametrize(
    ("licence", "text", "name"),
    [("llama3.1", LLAMA_TEXT, "Llama-mine"), ("gemma", GEMMA_TEXT, "mine")],
)
def test_the_exact_lines_of_the_licence_are_carried(
    weights: Path, tmp_path: Path, licence: str, text: str, name: str
) -> None:
    folder = tmp_path / "out"
    write_package(contents_for(weights, licence, texts=[text], name=name), folder, language="en")
    assert NOTICES[licence] in (folder / "NOTICE").read_text()
    restrictions = (folder / "USE_RESTRICTIONS.md").read_text()
    assert "Policy" in restrictions
    if licence == "llama3.1":
        assert "**Built with Llama**" in (folder / "README.md").read_text()
        assert front_matter(folder)["license"] == "llama3.1"
    assert not verify_package(folder).faults


def test_two_licences_are_both_carried(weights: Path, tmp_path: Path) -> None:
    mit = "Copyright (c) DeepSeek\n\nPermission is hereby granted, free of charge, to any person"
    both = contents_for(weights, "mit", "llama3.1", texts=[mit, LLAMA_TEXT], name="llama-mine")
    write_package(both, tmp_path / "out")
    assert front_matter(tmp_path / "out")["license"] == "other"
    assert front_matter(tmp_path / "out")["license_name"] == "MIT and LicenseRef-Llama3.1"
    names = {path.stem for path in (tmp_path / "out/LICENSES").iterdir()}
    assert names == {"MIT", "LicenseRef-Llama3.1"}


def test_the_bill_of_materials_fits_the_schema(weights: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    for licences in (["apache-2.0"], ["mit", "llama3.1"], []):
        bill = bill_of_materials(
            contents_for(weights, *licences), {"adapter.gguf": "b" * 64, "README.md": "c" * 64}
        )
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    component = bill["metadata"]["component"]
    assert component["type"] == "machine-learning-model"
    assert component["pedigree"]["ancestors"][0]["hashes"][0]["content"] == "a" * 64
    metrics = component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert metrics[1]["confidenceInterval"] == {"lowerBound": "0.75", "upperBound": "0.97"}


def test_the_card_is_written_in_japanese_too(weights: Path, tmp_path: Path) -> None:
    write_package(contents_for(weights, "apache-2.0"), tmp_path / "out", language="ja")
    assert "元モデルの重みは含まれません" in (tmp_path / "out/README.md").read_text()


# -- refusals ------------------------------------------------------------


@pytest.mark.parametrize(
    ("licences", "fields", "said"),
    [
        ([], {}, "no licence known"),
        (["cc-by-nc-4.0"], {"sell": True}, "not confirmed"),
        (["qwen-research"], {}, "reported as conditions"),
        (["gemma", "cc-by-sa-4.0"], {}, "not confirmed"),
    ],
)
def test_what_the_terms_forbid_or_leave_open_is_refused_with_the_clause(
    weights: Path, tmp_path: Path, licences: list[str], fields: dict[str, object], said: str
) -> None:
    with pytest.raises(AnswerNo, match=said):
        write_package(contents_for(weights, *licences, **fields), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_name_prefix_is_demanded_and_suggested(weights: Path) -> None:
    contents = contents_for(weights, "llama3.1", texts=[LLAMA_TEXT])
    with pytest.raises(PackageError, match=r"1\.b\.i") as caught:
        check(contents)
    assert caught.value.hint == "--as Llama-mine"
    derivative = contents.derivative
    for name in ("llama-mine", "Llama-mine", "Llama3-x"):
        assert suggested_name(name, derivative, contents.acts) == name
    third = derive(licences_of({}, given=["llama3"]))
    assert suggested_name("mine", third, contents.acts) == "Llama-3-mine"


@pytest.mark.parametrize(
    ("licence", "origin", "name", "better"),
    [
        ("apache-2.0", "qwen3:8b", "qwen3-tickets", "--as tickets-for-qwen3"),
        ("gemma", "gemma2:9b", "Gemma", "--as mine-for-gemma2"),
        ("apache-2.0", "qwen3:8b", "tickets-for-qwen3", None),
        ("mit", "phi3:mini", "phi3-tickets", None),  # the text reserves no mark
        ("llama3.1", "llama3.1:8b", "Llama-tickets", None),  # demanded by that licence
    ],
)
def test_a_name_that_looks_like_the_makers_is_remarked_on(
    weights: Path, licence: str, origin: str, name: str, better: str | None
) -> None:
    remark = trademark_remark(contents_for(weights, licence, name=name, base_name=origin))
    assert (remark is None) == (better is None)
    assert better is None or better in str(remark)


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 200])
def test_a_name_that_is_no_file_name_is_refused(weights: Path, name: str) -> None:
    with pytest.raises(PackageError, match="no name"):
        check(contents_for(weights, "apache-2.0", name=name))


@pytest.mark.parametrize(("licence", "ask"), [("mit", "--copyright"), ("gemma", "get it from")])
def test_a_text_that_is_not_at_hand_is_asked_for(weights: Path, licence: str, ask: str) -> None:
    with pytest.raises(PackageError, match="text of") as caught:
        check(contents_for(weights, licence))
    assert ask in str(caught.value.hint)
    assert "--license-text" in str(caught.value.hint)


def test_a_text_without_its_copyright_line_is_not_enough(weights: Path) -> None:
    bare = "Permission is hereby granted, free of charge, to any person"
    with pytest.raises(PackageError, match="copyright line"):
        check(contents_for(weights, "mit", texts=[bare]))
    check(contents_for(weights, "mit", texts=[f"Copyright (c) 2024 Somebody\n\n{bare}"]))


def test_a_copyright_line_completes_the_standard_text(weights: Path, tmp_path: Path) -> None:
    derivative = derive(licences_of({}, given=["mit"]))
    line = "Copyright (c) 2023 DeepSeek"
    texts = licence_texts(derivative, (), (), copyright_line=line)
    write_package(replace(contents_for(weights, "mit"), texts=texts), tmp_path / "out")
    written = (tmp_path / "out/LICENSES/MIT.txt").read_text()
    assert line in written
    assert "Permission is hereby granted" in written


# -- verify ------------------------------------------------------------


@pytest.fixture
def whole(weights: Path, tmp_path: Path) -> Path:
    write_package(contents_for(weights, "apache-2.0"), tmp_path / "whole", language="en")
    return tmp_path / "whole"


def test_a_whole_package_verifies_elsewhere_too(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "elsewhere")
    found = verify_package(tmp_path / "elsewhere")
    assert not found.faults
    assert found.n_files == 14
    assert found.signer is None


def files_of_a_package() -> list[str]:
    return ["README.md", "NOTICE", "adapter.gguf", "adapter/adapter_model.safetensors",
            "LICENSES/Apache-2.0.txt", "bom.cdx.json", "package.json"]  # fmt: skip


@pytest.mark.parametrize("name", files_of_a_package())
def test_a_changed_byte_is_found_in_every_file(whole: Path, name: str) -> None:
    data = bytearray((whole / name).read_bytes())
    data[len(data) // 2] ^= 1
    (whole / name).write_bytes(data)
    assert any(name in fault for fault in verify_package(whole).faults)


@pytest.mark.parametrize("name", files_of_a_package()[:5])
def test_a_missing_file_is_found(whole: Path, name: str) -> None:
    (whole / name).unlink()
    assert any(name in fault for fault in verify_package(whole).faults)


def test_files_that_are_not_listed_are_found(whole: Path) -> None:
    (whole / "extra.bin").write_bytes(b"x")
    (whole / "README.md").unlink()
    (whole / "README.md").symlink_to("/etc/hostname")
    faults = verify_package(whole).faults
    assert "extra.bin: not listed in SHA256SUMS" in faults
    assert "README.md: missing" in faults


@pytest.mark.parametrize("line", ["x", f"{'a' * 64}  ../../etc/passwd", f"{'a' * 64}  /etc/passwd"])
def test_a_list_that_leads_out_of_the_package_is_refused(whole: Path, line: str) -> None:
    (whole / "SHA256SUMS").write_text(line + "\n")
    with pytest.raises(PackageError, match="line 1"):
        verify_package(whole)


def test_a_folder_that_is_no_package_says_so(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no package"):
        verify_package(tmp_path)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with an Ed25519 private key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = tmp_path_factory.mktemp("key") / "key.pem"
    path.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def test_a_signature_names_its_signer_and_breaks_with_the_list(
    weights: Path, tmp_path: Path, key: Path
) -> None:
    folder = tmp_path / "out"
    write_package(contents_for(weights, "apache-2.0"), folder, key=key)
    found = verify_package(folder)
    assert found.signer
    assert not found.faults
    good = (folder / "SHA256SUMS.sig").read_text()
    for text in ("", "x\ny", good.swapcase()):
        (folder / "SHA256SUMS.sig").write_text(text)
        assert any("signature" in fault for fault in verify_package(folder).faults)
    (folder / "SHA256SUMS.sig").unlink()
    assert "SHA256SUMS.sig: missing, though bom.cdx.json is signed" in verify_package(folder).faults
    (tmp_path / "no-key.pem").write_text("no key")
    for path in (tmp_path / "no-key.pem", tmp_path / "none.pem"):
        with pytest.raises(PackageError, match=path.name):
            write_package(contents_for(weights, "apache-2.0"), tmp_path / "b", key=path)
    assert not (tmp_path / "b").exists()


# Source: openkeystore, testdata/json-signatures/ed25519#ed25519@jwk.json, of the format's author
JSF_SAMPLE = {
    "now": "2019-02-10T11:23:06Z",
    "name": "Joe",
    "id": 2200063,
    "signature": {
        "algorithm": "Ed25519",
        "publicKey": {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": "_kms9bkrbpI1lPLoM2j2gKySS-k89TOuyvgC43dX-Mk",
        },
        "value": "UtN9-gMgTkfAdBJRX4gi0s6iKYiilO5EmXRD4KRSEnPKo5Og1ltbGYZecdJqKphCXkboIE_pecfszHEQX"
        "eqqDA",
    },
}


def test_signatures_inside_json_are_those_of_the_format_that_cyclonedx_names() -> None:
    assert signer_of(JSF_SAMPLE) == "/kms9bkrbpI1lPLoM2j2gKySS+k89TOuyvgC43dX+Mk="
    assert signer_of(JSF_SAMPLE | {"name": "Jo"}) is None
    for broken in (7, {}, {"algorithm": "Ed25519"}, {"algorithm": "RS256", "value": ""}):
        assert signer_of(JSF_SAMPLE | {"signature": broken}) is None
    huge = JSF_SAMPLE | {"id": 2**60}
    assert signer_of(huge) is None


def test_a_signed_bill_fits_the_schema_and_breaks_when_it_is_changed(
    weights: Path, tmp_path: Path, key: Path
) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    folder = tmp_path / "out"
    write_package(contents_for(weights, "apache-2.0"), folder, key=key)
    text = (folder / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert signer_of(bill) == verify_package(folder).signer
    bill["metadata"]["component"]["name"] = "another"
    assert signer_of(bill) is None
    plain = {name: value for name, value in bill.items() if name != "signature"}
    assert signer_of(signed(plain, read_key(key))) == verify_package(folder).signer


def test_a_package_verifies_on_another_machine(weights: Path, tmp_path: Path, key: Path) -> None:
    write_package(contents_for(weights, "apache-2.0"), tmp_path / "made", key=key)
    there = tmp_path / "there"
    shutil.copytree(tmp_path / "made", there / "package")
    shutil.rmtree(tmp_path / "made")
    homes = {name: str(there / name) for name in ("HOME", "LLAMUNE_HOME", "LLAMUNE_CACHE")}
    command = [sys.executable, "-c", "from llamune.cli import main; main()", "package", "verify"]
    environment = {**os.environ, **homes}
    found = subprocess.run(
        [*command, "package"],
        cwd=there,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "signed by" in found.stdout
    assert not (there / "LLAMUNE_HOME").exists()  # looking leaves nothing behind


# -- the command ------------------------------------------------------------


def test_a_tuned_model_is_packaged_and_verified_by_command(
    base: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_model("tiny", base)
    import_adapter(weights / "adapter.gguf", "tiny", name="tuned")
    out = str(tmp_path / "out")
    assert run(["package", "tuned", "-o", out]) == 1  # the tiny file names no licence
    assert "no licence known" in capsys.readouterr().err
    assert run(["package", "tuned", "-o", out, "--license", "apache-2.0"]) == 0
    assert front_matter(tmp_path / "out")["base_model"] == "tiny:latest"
    assert run(["package", "verify", out]) == 0
    assert "not signed" in capsys.readouterr().out
    (tmp_path / "out/NOTICE").write_text("mine")
    assert run(["package", "verify", out, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert "NOTICE: changed" in report["faults"]
    assert run(["package", "tuned", "-o", out, "--license", "apache-2.0"]) == 2  # exists
    assert run(["package", "tuned"]) == 2


def test_a_merged_package_holds_one_model_file(base: Path, weights: Path, tmp_path: Path) -> None:
    publish_model("tiny", base)
    import_adapter(weights / "adapter.gguf", "tiny", name="tuned")
    common = ["package", "tuned", "--license", "apache-2.0", "--merged", "-o"]
    assert run([*common, str(tmp_path / "out")]) == 0
    manifest = json.loads((tmp_path / "out/package.json").read_text())
    assert manifest["kind"] == "merged"
    with ModelFile.open(tmp_path / "out" / manifest["weights"]) as file:
        assert TARGET in file.tensors
    assert front_matter(tmp_path / "out")["base_model_relation"] == "finetune"
    assert "FROM ./tuned.gguf" in (tmp_path / "out/Modelfile").read_text()
    assert "folded into its weights" in (tmp_path / "out/CHANGES.md").read_text()
    assert not verify_package(tmp_path / "out").faults


def test_an_unchanged_model_is_not_called_changed(base: Path, tmp_path: Path) -> None:
    publish_model("tiny", base)
    assert run(["package", "tiny", "--license", "apache-2.0", "-o", str(tmp_path / "out")]) == 0
    assert "unchanged" in (tmp_path / "out/CHANGES.md").read_text()
    assert "base_model_relation" not in front_matter(tmp_path / "out")


def test_errors_are_of_our_tree() -> None:
    assert issubclass(PackageError, LlamuneError)
