"""The model card of a run: README.md in the Hugging Face form, with what it was trained on."""

from __future__ import annotations

from govern.audit.report import show
from govern.evaluate.evaluating import Evaluation
from govern.evaluate.page import findings
from manifests import Manifest
from manifests.queries import sequence_counts
from sinkmodel.run_record import read_record


def model_card(evaluation: Evaluation, manifest: Manifest) -> str:
    """Front matter, training data by policy and source, recipe, findings, limits.

    It is written beside the evaluation and not into the run, whose files are pinned by digest.
    """
    record = read_record(evaluation.request.run)
    corpus, config = record["corpus"], record["config"]
    policies = sequence_counts(manifest, "policy").to_pylist()
    documents = manifest.table("documents", ["source"])
    sources = documents.group_by("source").aggregate([("source", "count")]).sort_by("source")
    policy_key = next(name for name in policies[0] if name != "policy") if policies else ""
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [memorization-sinks, data-governance]",
        "---",
        f"# {show(evaluation.request.run.name)}",
        "",
        "A Llama-style decoder with memorization sinks: what is peculiar to a governed text is "
        "held in blocks of its own and can be erased.",
        "",
        "## Training data",
        f"Trained on {corpus['documents']:,} documents, {corpus['tokens']:,} tokens; manifest "
        f"content digest `{record['manifest']['content_digest']}`, snapshot "
        f"{record['manifest']['snapshot']}.",
        "",
        "| policy | sequences in the manifest |",
        "| --- | --- |",
        *(f"| {row['policy']} | {row[policy_key]:,} |" for row in policies),
        "",
        "| source | documents in the manifest |",
        "| --- | --- |",
        *(
            f"| {show(row['source'], 80).replace('|', '/')} | {row['source_count']:,} |"
            for row in sources.to_pylist()
        ),
        "",
        "## Recipe",
        f"Hidden size {config['hidden_size']}, {config['num_hidden_layers']} layers, "
        f"{config['intermediate_size']} shared neurons, blocks of {config['block_size']}; every "
        "option is in `training.json`.",
        "",
        "## What it remembers",
        *(f"- {show(line, 400)}" for line in findings(evaluation)),
        "",
        "## Limits",
        "The figures are about the documents measured and the methods listed, not about a topic "
        "or a style, and claim nothing about legal compliance.",
        "",
    ]
    return "\n".join(lines)
