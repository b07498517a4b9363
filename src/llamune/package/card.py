"""The texts of a package: model card, notices, changes, use restrictions, how to run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from llamune.license import Terms, summary_lines
from llamune.package.contents import Change, Contents
from llamune.words import Catalogue, catalogue

__all__ = ["changes", "example_script", "model_card", "modelfile", "notice", "use_restrictions"]

HUB_IDS = {  # what model hubs call these licences; all others are `other` with name and link
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "LicenseRef-Gemma": "gemma",
    "LicenseRef-Llama2": "llama2",
    "LicenseRef-Llama3": "llama3",
    "LicenseRef-Llama3.1": "llama3.1",
    "LicenseRef-Llama3.2": "llama3.2",
    "LicenseRef-Llama3.3": "llama3.3",
    "LicenseRef-Llama4": "llama4",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
    "CC-BY-NC-SA-4.0": "cc-by-nc-sa-4.0",
}

CHANGES: Mapping[Change, str] = {
    "adapter": "a LoRA adapter was trained on the base, whose file is not part of this package.",
    "folded": "a LoRA adapter was trained on the base and folded into its weights.",
    "trained": "the weights of the base were trained further.",
    "tuned": "the base was fine-tuned.",
    "none": "packed; the weights are those of the base, unchanged.",
}


def known_terms(contents: Contents) -> list[Terms]:
    """Return the records of the chain's licences."""
    return [item.terms for item in contents.derivative.found if item.terms is not None]


def front_matter(contents: Contents) -> dict[str, Any]:
    """Return the metadata that model hubs read."""
    records = known_terms(contents)
    matter: dict[str, Any] = {"license": "other"}
    if len(records) == 1 and records[0].id in HUB_IDS:
        matter = {"license": HUB_IDS[records[0].id]}
    elif records:
        matter["license_name"] = " and ".join(record.id for record in records)
        matter["license_link"] = records[0].source
    adapter = contents.kind == "adapter"
    relation = "adapter" if adapter else "finetune"
    matter |= {
        "base_model": contents.base_name,
        **({} if contents.change == "none" else {"base_model_relation": relation}),
        "library_name": "peft" if adapter and contents.peft else "gguf",
        "pipeline_tag": "text-generation",
        "tags": ["gguf", "llamune", *(["lora"] if adapter else [])],
    }
    if contents.languages:
        matter["language"] = list(contents.languages)
    if contents.datasets:
        matter["datasets"] = list(contents.datasets)
    return matter


def model_card(contents: Contents, *, language: str | None = None) -> str:
    """Return README.md: front matter for hubs, then what a reader must know."""
    words = catalogue("package", language)
    matter = yaml.safe_dump(front_matter(contents), sort_keys=False, allow_unicode=True)
    lines = ["---", *matter.splitlines(), "---", "", f"# {contents.name}", ""]
    built = built_with(contents)
    lines += [line for text in built for line in (f"**{text}**", "")]
    what = words(f"change-{contents.change}", base=contents.base_name)
    lines += [what, "", words("base-digest", digest=contents.base_digest), ""]
    lines += [f"## {words('head-use')}", "", "```sh", *run_lines(contents), "```", ""]
    if contents.record is not None:
        lines += scores(contents, words) + proof(contents, words) + data(contents, words)
    lines += [f"## {words('head-licence')}", ""]
    lines += summary_lines(contents.derivative, language=language)
    lines += ["", f"## {words('head-files')}", "", words("files"), ""]
    return "\n".join(lines)


def built_with(contents: Contents) -> list[str]:
    """Return the lines that must be shown, such as “Built with Llama”."""
    owed = contents.derivative.owed_for(*contents.acts)
    return list(
        dict.fromkeys(item.duty.fields["line"] for item in owed if item.duty.kind == "built-with")
    )


def run_lines(contents: Contents) -> list[str]:
    """Return the commands that run the packaged model."""
    if contents.kind == "adapter":
        return [
            f"# {contents.base_name} must be at hand",
            f"llamune adapter import {contents.gguf_name} --base {contents.base_name} "
            f"--name {contents.name}",
            f'llamune run {contents.name} "…"',
        ]
    return [
        f'llamune run ./{contents.gguf_name} "…"',
        f"ollama create {contents.name} -f Modelfile",
    ]


def scores(contents: Contents, words: Catalogue) -> list[str]:
    """Return the scores with their intervals."""
    record = contents.record
    if record is None or not record.scores:
        return []
    lines = [f"## {words('head-scores')}", "", words("scores-head"), "|---|---|---|---|"]
    for score in record.scores:
        before = f"{score.before:.3f} ({score.before_low:.3f} – {score.before_high:.3f})"
        after = f"{score.after:.3f} ({score.after_low:.3f} – {score.after_high:.3f})"
        lines.append(f"| {score.task} | {score.n} | {before} | {after} |")
    return [*lines, ""]


def proof(contents: Contents, words: Catalogue) -> list[str]:
    """Return what the proof found."""
    record = contents.record
    if record is None or not record.proof:
        return []
    verdict = str(record.proof.get("verdict", "?"))
    return [f"## {words('head-proof')}", "", words("proof", verdict=verdict), ""]


def data(contents: Contents, words: Catalogue) -> list[str]:
    """Return the data statement: what it was trained on, and that none of it is inside."""
    record = contents.record
    if record is None or record.data is None:
        return []
    facts = record.data
    text = words(
        "data",
        n=facts.training_records,
        tokens=facts.tokens,
        names=", ".join(contents.datasets) or "?",
        fingerprint=facts.fingerprint,
    )
    return [f"## {words('head-data')}", "", text, ""]


def notice(contents: Contents) -> str:
    """Return NOTICE: the exact lines that licences ask for, and the base's own."""
    owed = contents.derivative.owed_for(*contents.acts)
    lines = [item.duty.fields["line"] for item in owed if item.duty.kind == "notice-line"]
    lines += built_with(contents)
    lines.append(f"Based on {contents.base_name} ({contents.base_digest}).")
    text = "\n\n".join(dict.fromkeys(lines)) + "\n"
    return f"{text}\n{contents.notice.strip()}\n" if contents.notice else text


def changes(contents: Contents) -> str:
    """Return CHANGES.md: what was changed, when, from which file."""
    changed = "" if contents.change == "none" else "These files were changed. "
    lines = [
        "# Changes",
        "",
        f"{changed}Base: {contents.base_name}, {contents.base_digest}.",
        "",
        f"- {contents.created:%Y-%m-%d}: {CHANGES[contents.change]}",
    ]
    record = contents.record
    if record is not None:
        lines.append(
            f"- {record.steps_done} optimizer steps, {record.parameters_trained or 0:,} numbers "
            f"trained (run {record.name}#{record.number}; recipe.yaml has every setting)."
        )
    return "\n".join(lines) + "\n"


def use_restrictions(contents: Contents) -> str | None:
    """Return the terms that must follow the files to later users, or None."""
    owed = [
        item
        for item in contents.derivative.owed_for(*contents.acts)
        if item.duty.kind in {"use-restrictions", "use-policy"}
    ]
    if not owed:
        return None
    lines = ["# Use restrictions", "", "By using these files you agree to the following terms.", ""]
    lines += [
        f"- {item.licence} {item.duty.clause}: you must obey {item.duty.fields['where']}, and pass "
        "this provision on with the files."
        for item in owed
    ]
    return "\n".join(lines) + "\n"


def modelfile(contents: Contents) -> str:
    """Return a Modelfile for Ollama: the merged file, or the base with the adapter on it."""
    if contents.kind == "merged":
        lines = [f"FROM ./{contents.gguf_name}"]
    else:
        lines = [
            "# Ollama up to 0.34.0; later versions refuse adapters: `llamune merge` makes a file",
            f"FROM {contents.base_name}",
            f"ADAPTER ./{contents.gguf_name}",
        ]
    for key, head in (("template", "TEMPLATE"), ("system", "SYSTEM")):
        if text := getattr(contents, key):
            lines.append(f'{head} """{text}"""')
    for key, value in contents.parameters.items():
        values = value if isinstance(value, list) else [value]
        quoted = [f'"{one}"' if isinstance(one, str) else one for one in values]
        lines += [f"PARAMETER {key} {one}" for one in quoted]
    return "\n".join(lines) + "\n"


def example_script(contents: Contents) -> str:
    """Return a short Python program that asks the packaged model one question."""
    return (
        '"""Ask the packaged model one question."""\n\n'
        "import subprocess\nimport sys\nfrom pathlib import Path\n\n"
        "HERE = Path(__file__).parent\n"
        'QUESTION = sys.argv[1] if len(sys.argv) > 1 else "Hello!"\n' + script_call(contents)
    )


def script_call(contents: Contents) -> str:
    """Return the calls that run the model."""
    if contents.kind == "merged":
        return (
            f'MODEL = str(HERE / "{contents.gguf_name}")\n'
            'subprocess.run(["llamune", "run", MODEL, QUESTION], check=True)\n'
        )
    return (
        f'ADAPTER = str(HERE / "{contents.gguf_name}")\n'
        f'BASE, NAME = "{contents.base_name}", "{contents.name}"\n'
        "bring_in = "
        '["llamune", "adapter", "import", ADAPTER, "--base", BASE, "--name", NAME, "--replace"]\n'
        "subprocess.run(bring_in, check=True)\n"
        'subprocess.run(["llamune", "run", NAME, QUESTION], check=True)\n'
    )
