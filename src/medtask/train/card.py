"""The model card: README.md of a model folder, for who wants to use the model, and for who has to
answer for it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence

from medtask.data.source import show_name
from medtask.engines.trained import Kind, Phi
from medtask.evaluate import words
from medtask.train.card_facts import CardFacts, CardLabel, CardTask
from medtask.train.card_front import write_front_matter
from medtask.train.curve import write_epochs
from medtask.train.markdown import quote_code, quote_text, write_fence, write_table

LABELS = 40  # how many labels are listed
FEW = 20  # with fewer rows, hardly anything is learnt about a label
_TEXT = 1500  # characters of an instruction

_ASKS = {
    "label": "gives each row one of its labels",
    "labels": "gives each row any of its labels",
    "choice": "picks among the options that each row brings",
    "answer": "writes an answer to each row",
    "fields": "fills in the fields of a schema for each row",
}
_SCORED: tuple[Kind, ...] = ("label", "labels")

_PHI: dict[Phi, str] = {
    "yes": (
        "> **Trained on patients’ data.** Weights, vocabularies and calibrations can hold pieces "
        "of the texts that they were made from, "
        "and others can get them out again. Keep this folder where its table may be kept, and "
        "give it to nobody who may not see the "
        "table.\n>\n"
        "> Before it is shared: have the person who is responsible for data protection agree; "
        "ask whether the same can be learnt from "
        "texts without names, dates and numbers, and train again on those; look for passages of "
        "the table in what the model writes."
    ),
    "no": (
        "> The task says that its table holds no patients’ data. medtask has not checked that: "
        "look before the folder is shared."
    ),
    "unknown": (
        "> **Nobody has said whether the table holds patients’ data.** Until somebody has, treat "
        "this folder as if it does: weights, "
        "vocabularies and calibrations can hold pieces of the texts that they were made from, "
        "and others can get them out again. "
        "Keep it where the table may be kept, and ask before it is shared."
    ),
}


def write_card(facts: CardFacts) -> str:
    """The card as Markdown with front matter as the Hub reads it. It names labels and tables, and
    holds no text of a row.

    Whatever the names hold, they are shown and not obeyed: see markdown.py.
    """
    sections = (
        _begin,
        _tell_use,
        _tell_limits,
        _tell_data,
        _tell_training,
        _tell_figures,
        _tell_origin,
    )
    blocks = [block for section in sections for block in section(facts) if block]
    return write_front_matter(facts) + "\n" + "\n\n".join(blocks) + "\n"


def _begin(facts: CardFacts) -> Iterator[str]:
    yield f"# {quote_text(facts.name)}"
    if facts.demonstration:
        yield (
            "**This model is a demonstration and not for real work.** It shows what training "
            "does; do not use its answers."
        )
    base = f", from {_list_code(facts.bases)}" if facts.bases else ""
    for task in facts.tasks:
        yield (
            f"It {_ASKS[task.kind]}: task {quote_code(task.name)}, learnt from "
            f"{words.count_rows(task.train_rows)} of "
            f"{quote_code(task.table)} by the method {quote_code(facts.method)}{base}."
        )
    yield _PHI[facts.phi]
    for task in facts.tasks:
        yield f"## What it is asked{f': {quote_text(task.name)}' if len(facts.tasks) > 1 else ''}"
        yield f"> {quote_text(task.instruction, _TEXT)}" if task.instruction.strip() else ""
        yield from _list_labels(task)


def _list_labels(task: CardTask) -> Iterator[str]:
    if not task.labels:
        return
    rows = [
        [
            quote_text(label.name),
            quote_text(label.definition) or "–",
            "–" if label.rows is None else f"{label.rows:,}",
        ]
        for label in task.labels[:LABELS]
    ]
    yield write_table(["label", "definition", "rows learnt from"], rows, numbers=False)
    more = len(task.labels) - LABELS
    yield f"And {more:,} more: `medtask.json` has all of them." if more > 0 else ""
    yield (
        f"Where it cannot tell, it answers “{quote_text(task.abstain)}”, and the row has no value."
        if task.abstain
        else ""
    )


def _tell_use(facts: CardFacts) -> Iterator[str]:
    first = facts.tasks[0]
    task, folder = show_name(first.name), show_name(facts.folder, 400)
    yield "## How to use it"
    yield write_fence(
        [f"medtask run {shlex.quote(task)} TABLE --model {shlex.quote(folder)}"], "sh"
    )
    yield (
        f"The task is the folder or file that it was trained for ({quote_code(first.name)}): it "
        "holds the words in which the model is "
        "asked, and a model that was trained on other words answers worse. From Python:"
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
    if len(facts.tasks) == 1 and first.kind in _SCORED:
        yield (
            "With scikit-learn, `medtask.sklearn.MedtaskClassifier` trains such a model by `fit` "
            "and answers by `predict` and "
            "`predict_proba`."
        )


def _tell_limits(facts: CardFacts) -> Iterator[str]:
    yield "## Intended use, and limits"
    yield (
        "It is meant for tables like the one that it was trained on: for research, registries "
        "and quality work, with people who look at "
        "the doubtful rows. It is not a medical device. Do not let it decide about a single "
        "patient without a person who has read the text."
    )
    yield "\n".join(f"- {one}" for one in _list_limits(facts))


def _list_limits(facts: CardFacts) -> Iterator[str]:
    for task in facts.tasks:
        where = f" ({quote_text(task.name)})" if len(facts.tasks) > 1 else ""
        yield (
            f"It has learnt from {words.count_rows(task.train_rows)}{where}. Other hospitals, "
            "other years and other ways of writing were "
            "not among them unless the table had them."
        )
        none, few = (
            [label for label in task.labels if label.rows == 0],
            [label for label in task.labels if label.rows and label.rows < FEW],
        )
        if none:
            yield (
                f"No row to learn from{where}: {_name_labels(none)}. What it says about these "
                "is not learnt."
            )
        if few:
            yield f"Fewer than {FEW} rows to learn from{where}: {_name_labels(few)}."
        if task.kind not in _SCORED:
            yield f"What it writes{where} can be wrong and read well. Every text needs a reader."
    if facts.languages:
        yield (
            f"Its rows are said to be in: {_list_code(facts.languages)}. How it does on other "
            "languages was not measured."
        )
    else:
        yield (
            "Nobody has said in which languages its rows are, and how it does on others was "
            "not measured."
        )
    yield "How it does on groups of patients (age, sex, origin, rare diseases) was not measured."
    yield from map(quote_text, facts.notes)


def _tell_data(facts: CardFacts) -> Iterator[str]:
    yield "## Data"
    for task in facts.tasks:
        yield f"### {quote_text(task.name)}" if len(facts.tasks) > 1 else ""
        rows = [["rows in the table", f"{task.rows:,}"]]
        rows += [
            [f"left out: {quote_text(reason)}", f"{count:,}"]
            for reason, count in task.dropped.items()
        ]
        rows += [
            ["learnt from", f"{task.train_rows:,}"],
            ["kept for validation", f"{task.validation_rows:,}"],
        ]
        yield f"Table {quote_code(task.table)}, SHA-256 {quote_code(task.sha256)}."
        yield write_table(["", "rows"], rows)
        yield words.capital(_sentence(task.split))
        leaks = "\n".join(f"- {words.capital(_sentence(leak))}" for leak in task.leaks)
        yield leaks or "Whether rows of the two parts resemble each other was not looked at."
    yield f"On the Hub: {_list_code(facts.datasets)}." if facts.datasets else ""


def _tell_training(facts: CardFacts) -> Iterator[str]:
    yield "## Training"
    where = f" on {quote_text(facts.hardware)}" if facts.hardware else ""
    ended = (
        " It was stopped early by hand, and is the best state until then." if facts.stopped else ""
    )
    yield f"Method {quote_code(facts.method)}, {words.duration(facts.seconds)}{where}.{ended}"
    if facts.points:
        yield f"![Losses by epoch]({quote_text(facts.picture)})" if facts.picture else ""
        yield write_epochs(facts.points, quote_text(facts.measure)).rstrip()
        yield (
            "Losses are means per row, in nats. The state with the lowest validation loss was "
            "kept. `loss.csv` has every point."
        )
    if facts.recipe:
        yield write_table(
            ["choice", "value"],
            [
                [quote_text(name.replace("_", " ")), quote_text(_say(value))]
                for name, value in facts.recipe.items()
            ],
        )


def _tell_figures(facts: CardFacts) -> Iterator[str]:
    yield "## How good it is"
    for task in facts.tasks:
        yield f"### {quote_text(task.name)}" if len(facts.tasks) > 1 else ""
        if not task.figures:
            yield (
                "Nothing was measured: measure it on rows of your own, as below, before it is used."
            )
            continue
        rivals = list(task.baselines.items())
        head = ["validation rows", "n", "this model", *(quote_text(name) for name, _ in rivals)]
        rows = []
        for measure, figure in task.figures.items():
            others = [str(figures[measure]) if measure in figures else "–" for _, figures in rivals]
            rows.append(
                [
                    quote_text(words.MEASURES.get(measure, measure)),
                    f"{figure.n:,}",
                    f"**{figure}**",
                    *others,
                ]
            )
        yield write_table(head, rows)
        yield (
            f"Its confidence: {_sentence(task.calibration)}"
            if task.calibration
            else "Its confidence was not calibrated."
        )
    yield (
        "In brackets are 95 % intervals. **These rows also chose when training stopped, and "
        "fitted the calibration where there is one, "
        "so the figures are a little too good.** For an honest number, label rows that training "
        "has not seen, and:"
    )
    folder = shlex.quote(show_name(facts.folder, 400))
    run = (
        f"medtask run {shlex.quote(show_name(facts.tasks[0].name))} NEW_TABLE --model {folder} "
        "--gold COLUMN --out RUN"
    )
    yield write_fence([run, "medtask evaluate RUN"], "sh")


def _tell_origin(facts: CardFacts) -> Iterator[str]:
    yield "## Where it comes from"
    if facts.license:
        yield (
            f"Its base has the licence {quote_code(facts.license)}, which holds for this model too."
        )
    elif facts.bases:
        yield (
            "The licence of its base is not known to medtask: read it before the model is used "
            "or shared. It holds for this model too."
        )
    else:
        yield "No licence was chosen for it: whoever owns the table decides."
    if facts.command:
        yield "The command that makes it again:"
        yield write_fence([" ".join(facts.command.split())], "sh")
    prints = {
        **{f"task {task.name}": task.fingerprint for task in facts.tasks if task.fingerprint},
        **facts.fingerprints,
    }
    if prints:
        rows = [[quote_text(name), quote_code(value)] for name, value in prints.items()]
        yield write_table(["of what", "fingerprint"], rows, numbers=False)
    if facts.versions:
        rows = [[quote_text(name), quote_text(value)] for name, value in facts.versions.items()]
        yield write_table(["software", "version"], rows, numbers=False)


def _list_code(names: Sequence[str]) -> str:
    return ", ".join(map(quote_code, names))


def _name_labels(labels: Sequence[CardLabel]) -> str:
    more = len(labels) - 12
    return ", ".join(quote_text(label.name) for label in labels[:12]) + (
        f" and {more:,} more" if more > 0 else ""
    )


def _sentence(text: str) -> str:
    """What somebody else found out, with a full stop."""
    shown = quote_text(text, _TEXT)
    return f"{shown}." if shown and shown[-1] not in ".!?" else shown


def _say(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None else words.plain(value)
