"""The model card: README.md of a model folder, for users and reviewers of the model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence

from medtask.display import capitalise_first, format_duration, format_name, format_row_count
from medtask.engines.metadata_schema import PhiStatus
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.presentation import formatting as words
from medtask.kinds import KINDS
from medtask.training.epoch_table import format_epochs_markdown
from medtask.training.markdown import escape_markdown, format_code, format_table, write_fence
from medtask.training.model_card_content import CardContent, CardLabel, CardTask
from medtask.training.model_card_front_matter import write_front_matter

MAX_LISTED_LABELS = 40
FEW_ROWS = 20  # labels with fewer training rows are reported as hardly learnt
# What the points of a method without epochs are.
_KEPT_STATES = {
    "linear": "Each step measured other settings; those with the lowest loss were kept.",
    "hybrid": "Each step measured one of the models.",
}
_MAX_TEXT_CHARACTERS = 1500  # maximum characters of an instruction

PHI_NOTICES: dict[PhiStatus, str] = {
    "yes": (
        "> **Trained on patients’ data.** Weights, vocabularies and calibrations can contain parts "
        "of the texts that they were trained on, and others can extract them. Store this folder "
        "only where its table may be stored, and give it only to people who may see the table.\n"
        ">\n"
        "> Before sharing it, ask the person responsible for data protection. Check whether the "
        "same can be learnt from texts without names, dates and numbers, and train again on those. "
        "Look for parts of the table in what the model writes."
    ),
    "no": (
        "> The task states that its table has no patients’ data. medtask has not checked this: "
        "check it before sharing the folder."
    ),
    "unknown": (
        "> **It is not known whether the table has patients’ data.** Until it is, treat this "
        "folder as if it had: weights, vocabularies and calibrations can contain parts of the "
        "texts that they were trained on, and others can extract them. Store it only where the "
        "table may be stored, and ask before sharing it."
    ),
}


def write_card(content: CardContent) -> str:
    """The card as Markdown with front matter for the Hub. It contains no text of a row.

    Names of labels and tables are escaped; see markdown.py.
    """
    sections = (
        _write_summary,
        _write_usage,
        _write_limitations,
        _write_data,
        _write_training,
        _write_metrics,
        _write_provenance,
    )
    blocks = [block for section in sections for block in section(content) if block]
    return write_front_matter(content) + "\n" + "\n\n".join(blocks) + "\n"


def _write_summary(content: CardContent) -> Iterator[str]:
    yield f"# {escape_markdown(content.name)}"
    if content.demonstration:
        yield (
            "**This model is a demonstration and not for real work.** It shows how training works; "
            "do not use its answers."
        )
    base = f", from {_join_code(content.bases)}" if content.bases else ""
    for task in content.tasks:
        yield (
            f"It {KINDS[task.kind].description}: task {format_code(task.name)}, trained on "
            f"{format_row_count(task.train_rows)} of "
            f"{format_code(task.table)} by the method {format_code(content.method)}{base}."
        )
    yield PHI_NOTICES[content.phi]
    for task in content.tasks:
        name = f": {escape_markdown(task.name)}" if len(content.tasks) > 1 else ""
        yield f"## Task{name}"
        yield (
            f"> {escape_markdown(task.instruction, _MAX_TEXT_CHARACTERS)}"
            if task.instruction.strip()
            else ""
        )
        yield from _write_labels(task)


def _write_labels(task: CardTask) -> Iterator[str]:
    if not task.labels:
        return
    rows = [
        [
            escape_markdown(label.name),
            escape_markdown(label.definition) or "–",
            "–" if label.rows is None else f"{label.rows:,}",
            "" if label.threshold is None else f"{label.threshold:.3f}",
        ]
        for label in task.labels[:MAX_LISTED_LABELS]
    ]
    head = ["label", "definition", "training rows", "threshold"]
    columns = len(head) if any(label.threshold is not None for label in task.labels) else 3
    yield format_table(head[:columns], [row[:columns] for row in rows], align_right=False)
    if columns == len(head):
        yield (
            "A label applies if its probability, before calibration, reaches its threshold. "
            "`medtask run` applies these thresholds where the task names none "
            "(`--uncalibrated` uses 0.5)."
        )
    more = len(task.labels) - MAX_LISTED_LABELS
    yield f"{more:,} more are listed in `medtask.json`." if more > 0 else ""
    yield (
        (
            f"When it cannot decide, it answers “{escape_markdown(task.abstain)}”, and the row has "
            "no value."
        )
        if task.abstain
        else ""
    )


def _write_usage(content: CardContent) -> Iterator[str]:
    first = content.tasks[0]
    task, folder = format_name(first.name), format_name(content.folder, 400)
    yield "## How to use it"
    yield write_fence(
        [f"medtask run {shlex.quote(task)} TABLE --model {shlex.quote(folder)}"], "sh"
    )
    yield (
        f"The task is the folder or file that it was trained for ({format_code(first.name)}): the "
        "model answers worse with other instructions. From Python:"
    )
    yield write_fence(
        [
            "import medtask",
            "",
            f"task = medtask.load_task({json.dumps(task)})",
            f"model = medtask.load_model({json.dumps(folder)})",
            'for answer in medtask.predict(task, model, medtask.read_table("table.csv")):',
            "    print(answer.record_id, answer.value, answer.confidence, answer.status)",
        ],
        "python",
    )
    if len(content.tasks) == 1 and KINDS[first.kind].has_labels:
        yield (
            "With scikit-learn, `medtask.sklearn.MedtaskClassifier` trains such a model with `fit` "
            "and answers with `predict` and `predict_proba`."
        )


def _write_limitations(content: CardContent) -> Iterator[str]:
    yield "## Intended use and limitations"
    yield (
        "It is meant for tables like the one that it was trained on, in research, registries and "
        "quality assurance, with people who review doubtful rows. It is not a medical device. Do "
        "not use it for decisions about a patient unless a person has read the text."
    )
    yield "\n".join(f"- {one}" for one in _list_limitations(content))


def _list_limitations(content: CardContent) -> Iterator[str]:
    for task in content.tasks:
        where = f" ({escape_markdown(task.name)})" if len(content.tasks) > 1 else ""
        yield (
            f"It was trained on {format_row_count(task.train_rows)}{where}. Other hospitals, years "
            "and writing styles are covered only if the table has them."
        )
        none = [label for label in task.labels if label.rows == 0]
        few = [label for label in task.labels if label.rows and label.rows < FEW_ROWS]
        if none:
            yield (
                f"No training row{where}: {_join_label_names(none)}. The model has not learnt them."
            )
        if few:
            yield f"Fewer than {FEW_ROWS} training rows{where}: {_join_label_names(few)}."
        if not KINDS[task.kind].has_labels:
            yield f"What it writes{where} can be wrong even if it reads well: check it."
    yield "The languages of its rows are not known, and other languages were not evaluated."
    yield "Groups of patients (age, sex, origin, rare diseases) were not evaluated separately."
    yield from map(escape_markdown, content.notes)


def _write_data(content: CardContent) -> Iterator[str]:
    yield "## Data"
    for task in content.tasks:
        yield f"### {escape_markdown(task.name)}" if len(content.tasks) > 1 else ""
        rows = [["rows in the table", f"{task.rows:,}"]]
        rows += [
            [f"left out: {escape_markdown(reason)}", f"{count:,}"]
            for reason, count in task.dropped.items()
        ]
        rows.append(["training", f"{task.train_rows:,}"])
        if task.injected_rows:
            rows.append(["training, with a planted instruction", f"{task.injected_rows:,}"])
        rows.append(["validation", f"{task.validation_rows:,}"])
        yield f"Table {format_code(task.table)}, SHA-256 {format_code(task.sha256)}."
        yield format_table(["", "rows"], rows)
        yield capitalise_first(_format_sentence(task.split))
        leaks = "\n".join(f"- {capitalise_first(_format_sentence(leak))}" for leak in task.leaks)
        yield leaks or "Leakage between training and validation rows was not checked."


def _write_training(content: CardContent) -> Iterator[str]:
    yield "## Training"
    where = f" on {escape_markdown(content.hardware)}" if content.hardware else ""
    ended = " It was interrupted, and is the best state so far." if content.interrupted else ""
    yield (
        f"Method {format_code(content.method)}, {format_duration(content.seconds)}{where}.{ended}"
    )
    if content.points:
        yield (
            f"![Losses of the training]({escape_markdown(content.loss_plot)})"
            if content.loss_plot
            else ""
        )
        yield format_epochs_markdown(content.points, escape_markdown(content.score_name)).rstrip()
        kept = _KEPT_STATES.get(
            content.method, "The state with the lowest validation loss was kept."
        )
        yield f"Losses are means per row, in nats. {kept} `loss.csv` has all points."
    if content.recipe:
        yield format_table(
            ["setting", "value"],
            [
                [escape_markdown(name.replace("_", " ")), escape_markdown(_format_value(value))]
                for name, value in content.recipe.items()
            ],
        )


def _write_metrics(content: CardContent) -> Iterator[str]:
    yield "## Metrics"
    for task in content.tasks:
        yield f"### {escape_markdown(task.name)}" if len(content.tasks) > 1 else ""
        if not task.metrics:
            yield ("Nothing was measured: evaluate it on your own rows, as below, before using it.")
            continue
        rivals = list(task.baselines.items())
        head = [
            "validation rows",
            "n",
            "this model",
            *(escape_markdown(name) for name, _ in rivals),
        ]
        rows = []
        for measure, figure in task.metrics.items():
            others = [str(figures[measure]) if measure in figures else "–" for _, figures in rivals]
            rows.append(
                [
                    escape_markdown(get_metric_title(measure)),
                    f"{figure.n:,}",
                    f"**{figure}**",
                    *others,
                ]
            )
        yield format_table(head, rows)
        yield (
            f"Confidence: {_format_sentence(task.calibration)}"
            if task.calibration
            else "Confidences were not calibrated."
        )
    yield (
        "In brackets are 95 % intervals. **These rows also decided when training stopped, and "
        "fitted the calibration where there is one, so the metrics are slightly too good.** For an "
        "unbiased estimate, label rows that training has not seen, and run:"
    )
    folder = shlex.quote(format_name(content.folder, 400))
    run = (
        f"medtask run {shlex.quote(format_name(content.tasks[0].name))} NEW_TABLE --model {folder} "
        "--gold COLUMN --out RUN"
    )
    yield write_fence([run, "medtask evaluate RUN"], "sh")


def _write_provenance(content: CardContent) -> Iterator[str]:
    yield "## Provenance"
    if content.license:
        yield (
            f"The licence of its base, {format_code(content.license)}, also applies to this model."
        )
    elif content.bases:
        yield (
            "The licence of its base is not known to medtask, and also applies to this model: read "
            "it before using or sharing the model."
        )
    else:
        yield "No licence was chosen: the owner of the table decides."
    if content.command:
        yield "The command that reproduces it:"
        yield write_fence([" ".join(content.command.split())], "sh")
    prints = {
        **{f"task {task.name}": task.fingerprint for task in content.tasks if task.fingerprint},
        **content.fingerprints,
    }
    if prints:
        rows = [[escape_markdown(name), format_code(value)] for name, value in prints.items()]
        yield format_table(["item", "fingerprint"], rows, align_right=False)
    if content.versions:
        rows = [
            [escape_markdown(name), escape_markdown(value)]
            for name, value in content.versions.items()
        ]
        yield format_table(["software", "version"], rows, align_right=False)


def _join_code(names: Sequence[str]) -> str:
    return ", ".join(map(format_code, names))


def _join_label_names(labels: Sequence[CardLabel]) -> str:
    more = len(labels) - 12
    return ", ".join(escape_markdown(label.name) for label in labels[:12]) + (
        f" and {more:,} more" if more > 0 else ""
    )


def _format_sentence(text: str) -> str:
    """An escaped sentence with a full stop."""
    shown = escape_markdown(text, _MAX_TEXT_CHARACTERS)
    return f"{shown}." if shown and shown[-1] not in ".!?" else shown


def _format_value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None else words.format_manifest_value(value)
