"""A CycloneDX 1.6 bill of materials for a model (ML-BOM), as JSON.

Source: the schema `bom-1.6.schema.json`; `tests/package` validates every BOM against the copy in
`cyclonedx-python-lib`, whose own classes know no model cards.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import llamune
from llamune.license import obligations
from llamune.package.contents import Contents

__all__ = ["bill_of_materials"]

NAMESPACE = uuid.UUID("6f1f3c1e-5d0b-4a3e-9b5e-0f5a8a6f2d10")  # of package serial numbers


def bill_of_materials(contents: Contents, digests: Mapping[str, str]) -> dict[str, Any]:
    """Return the bill of a package.

    Args:
        contents: what the package is made of.
        digests: path inside the package to SHA-256, 64 hex digits.
    """
    weights = digests[contents.gguf_name]
    component = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{weights}",
        "name": contents.name,
        "version": contents.created.strftime("%Y.%m.%d"),
        "hashes": [{"alg": "SHA-256", "content": weights}],
        "licenses": [{"license": licence(item.label)} for item in contents.derivative.found],
        "pedigree": {
            "ancestors": [base_component(contents)],
            "notes": "CHANGES.md says what was changed.",
            **patches(contents),
        },
        "modelCard": model_card(contents),
    }
    if not component["licenses"]:
        del component["licenses"]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, weights)}",
        "version": 1,
        "metadata": {
            "timestamp": contents.created.astimezone().isoformat(timespec="seconds"),
            "tools": {
                "components": [
                    {"type": "application", "name": "llamune", "version": llamune.__version__}
                ]
            },
            "component": component,
        },
        "components": [
            {
                "type": "file",
                "bom-ref": f"file:{path}",
                "name": path,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
            for path, digest in sorted(digests.items())
        ],
    }


def licence(identifier: str) -> dict[str, str]:
    """Return a licence as CycloneDX names it: by SPDX id, or by name."""
    if identifier.startswith("LicenseRef-"):
        return {"name": identifier}
    return {"id": identifier} if identifier in SPDX else {"name": identifier}


SPDX = {
    "Apache-2.0",
    "MIT",
    "CC-BY-4.0",
    "CC-BY-SA-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-SA-4.0",
    "CC0-1.0",
    "ODC-By-1.0",
}


def base_component(contents: Contents) -> dict[str, Any]:
    """Return the base, by its digest."""
    base: dict[str, Any] = {"type": "machine-learning-model", "name": contents.base_name}
    digest = contents.base_digest.removeprefix("sha256:")
    if len(digest) == 64:
        base["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return base


def patches(contents: Contents) -> dict[str, Any]:
    """Return the adapter as a patch of its base, where that is what the package holds."""
    if contents.kind != "adapter":
        return {}
    return {"patches": [{"type": "unofficial", "diff": {"url": contents.gguf_name}}]}


def model_card(contents: Contents) -> dict[str, Any]:
    """Return the model card: parameters, scores with intervals, considerations."""
    card: dict[str, Any] = {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "text-generation",
            "architectureFamily": contents.architecture,
            "datasets": [
                {"type": "dataset", "name": name, "contents": {"properties": []}}
                for name in contents.datasets
            ],
        },
        "considerations": {
            "technicalLimitations": [
                "Scores hold for the task and the records they were measured on."
            ],
            "ethicalConsiderations": [
                {"name": "licence", "mitigationStrategy": line}
                for line in obligations(contents.derivative, acts=contents.acts, language="en")
            ],
        },
    }
    metrics = [
        {
            "type": f"{score.metric or 'score'}, {state}",
            "value": f"{value:.6g}",
            "slice": f"{score.task}, {score.n} records",
            "confidenceInterval": {"lowerBound": f"{low:.6g}", "upperBound": f"{high:.6g}"},
        }
        for score in (contents.record.scores if contents.record else ())
        for state, value, low, high in (
            ("base", score.before, score.before_low, score.before_high),
            ("tuned", score.after, score.after_low, score.after_high),
        )
    ]
    if metrics:
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    return card
