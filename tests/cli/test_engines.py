"""A stranger points medtask at an engine: servers of every kind, servers that go down, servers
elsewhere, no network at all.
"""

from __future__ import annotations

import csv
import html
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from medtask.engines.http import concurrency as pace
from medtask.engines.http import endpoint as address
from medtask.engines.http.address_scopes import AddressScope, classify_address
from medtask.engines.http.probe import PROBE_WORDS
from medtask.engines.registry import is_installed
from medtask.privacy import block_network
from support.command_line import CommandResult, RunCommand
from support.fault_server import FaultRule, FaultScript, FaultServer, serve
from support.network_namespace import list_no_network_command
from support.server_dialects import ServerFeatures
from support.toy_model import ToyModel

LABELS = ("curative", "palliative", "staging")
ROWS = ["A1", "A2", "A3", "A4", "A5"]  # A3 is empty
PROBE_TOKENS = ["wrist", "knee", "knee joint", *"47"]  # what medtask itself asks about

pytestmark = pytest.mark.skipif(not is_installed("http"), reason="the http engine is not installed")

Server = Callable[..., tuple[FaultServer, str]]


@pytest.fixture(autouse=True)
def unset_server_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OLLAMA_HOST",
        "OPENAI_BASE_URL",
        address.API_KEY_VARIABLE,
        "OPENAI_API_KEY",
        "GROQ_API_KEY",
        "AZURE_OPENAI_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Open a fault server; it and the reference under which its model is reached."""
    with ExitStack() as stack:

        def open_server(
            dialect: Any, host: str = "127.0.0.1", **features: Any
        ) -> tuple[FaultServer, str]:
            app = FaultServer(
                dialect,
                ToyModel([*LABELS, *PROBE_TOKENS, *PROBE_WORDS]),
                ServerFeatures(**features),
            )
            url = stack.enter_context(serve(app, host=host))
            monkeypatch.setenv("OLLAMA_HOST", url)
            return app, "ollama:toy-1" if dialect == "ollama" else f"{url}/v1#toy-1"

        yield open_server


@pytest.fixture
def project_folder(project_folder: Path) -> Path:
    """The user's folder, without gold: baselines take their time."""
    edit_task("gold: purpose\n", "")
    return project_folder


def edit_task(old: str, new: str) -> None:
    file = Path("surgery/task.yaml")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def read_answers(folder: Path) -> list[dict[str, str]]:
    with (folder / "answers.csv").open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def read_manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def read_egress_section(folder: Path) -> str:
    """What report.html says under "Left the machine"."""
    text = html.unescape(re.sub(r"<[^>]+>", " ", (folder / "report.html").read_text()))
    return " ".join(text.partition("Left the machine")[2].split())[:200]


def assert_nothing_left(folder: Path) -> None:
    assert read_egress_section(folder).startswith(
        "Nothing. Connections to other machines were blocked"
    )


@pytest.mark.parametrize(
    ("dialect", "features", "score", "held_by"),
    [
        ("ollama", {}, "first_token", "format"),
        ("ollama", {"logprobs": False}, "none", "format"),
        ("openai", {}, "first_token", "choice"),
        ("openai", {"logprobs": False, "response_format": "ignored"}, "none", "nothing"),
        ("llama-server", {}, "first_token", "choice"),
        ("vllm", {}, "exact", "choice"),
        ("vllm", {"prompt_logprobs": False}, "first_token", "choice"),
    ],
)
def test_a_run_gives_what_the_server_can_tell_and_reports_what_that_is(
    medtask: RunCommand,
    project_folder: Path,
    server: Server,
    dialect: str,
    features: dict[str, Any],
    score: str,
    held_by: str,
) -> None:
    _, model = server(dialect, **features)
    outcome = medtask("run", "surgery", "--model", model, "--out", "answers")
    folder = Path("answers")
    answers = read_answers(folder)
    assert [row["case_id"] for row in answers] == ROWS
    held_out = held_by != "nothing"  # a model that is free to answer anything may
    assert outcome.code == (0 if held_out else 3)
    for row in answers:
        if row["case_id"] == "A3":
            assert (row["answer"], row["confidence"], row["status"]) == ("", "", "empty_input")
        elif held_out:
            assert row["answer"] in LABELS
            assert row["status"] in {"ok", "review"}
            output = row["confidence"] != ""
            assert (
                1 / 3 <= float(row["confidence"]) <= 1
                if output
                else score == "none" or "leave" in row["reason"]
            )
            assert output or score != "exact"
        else:
            assert (row["answer"], row["confidence"], row["status"]) == ("", "", "unparsable")
            assert "outside the set" in row["reason"]
    assert answers[1]["answer"] == answers[3]["answer"]  # the same text is asked once
    manifest = read_manifest(folder)
    assert (manifest["caps"]["score"], manifest["caps"]["choose"]) == (score, True)
    assert manifest["model"]["identity"]["held_by"] == held_by
    assert manifest["model"]["details"]["probe"]["hold"] == (held_by if held_out else None)
    assert manifest["egress"] == {"guard": "on", "connections_attempted": 0, "sent_to": {}}
    assert_nothing_left(folder)
    assert ("answers have no confidence" in outcome.err) == (score == "none")
    assert ("first_token" in outcome.err) == (score == "first_token")


def test_all_that_can_lead_ollama_astray_is_set_in_what_it_is_sent(
    medtask: RunCommand, project_folder: Path, server: Server
) -> None:
    app, model = server("ollama", thinking=True)
    assert (
        medtask(
            "run", "surgery", "--model", model, "--out", "answers", "--context-tokens", 3000
        ).code
        == 0
    )
    asked = [call.body for call in app.log if call.path == "/api/chat"]
    for body in asked:
        assert body["options"]["num_ctx"] == 3000
        assert (
            body["options"]["repeat_penalty"],
            body["options"]["min_p"],
            body["options"]["temperature"],
        ) == (1.0, 0.0, 0.0)
        assert (body["truncate"], body["shift"], body["think"]) == (False, False, False)
    rows = [body for body in asked if "Biliary stent" in str(body["messages"])]
    assert rows
    for body in rows:
        assert body["format"]["properties"]["answer"]["enum"] == list(LABELS)
        assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    assert not [call for call in app.log if "A1" in str(call.body)]  # ids stay here
    assert read_manifest(Path("answers"))["model"]["identity"]["context"] == "3000"


def test_a_row_that_ollama_would_cut_is_too_long(
    medtask: RunCommand, project_folder: Path, server: Server
) -> None:
    _, model = server("ollama")
    Path("procedures.csv").write_text(
        "case_id,procedure\nB1,Biliary stent\nB2," + "Biliary stent and " * 400 + "gastrectomy\n"
    )
    assert (
        medtask(
            "run", "surgery", "--model", model, "--out", "answers", "--context-tokens", 1000
        ).code
        == 3
    )
    assert [row["status"] for row in read_answers(Path("answers"))] == ["ok", "too_long"]


def test_a_question_is_answered_by_one_flag(
    medtask: RunCommand, project_folder: Path, server: Server
) -> None:
    app, model = server("ollama")
    outcome = medtask("ask", "What is glaucoma?", "--model", model, "--json")
    assert outcome.code == 0
    document = json.loads(outcome.out)
    assert document["answer"]
    assert "Ollama" in document["model"]
    assert "What is glaucoma?" in str(app.log[-1].body["messages"])


def test_a_check_asks_the_server_and_reports_what_it_cannot_know(
    medtask: RunCommand, project_folder: Path, server: Server
) -> None:
    _, model = server("ollama")
    outcome = medtask("check", "surgery", "--model", model)
    assert outcome.code == 0
    assert "does not report token counts" in outcome.out
    assert "on this machine (measured on 3 rows)" in outcome.out
    look = medtask("check", "surgery", "--model", model, "--row", 1)
    assert look.code == 5
    assert "does not show its prompts" in look.err


@pytest.mark.parametrize(
    ("dialect", "features", "result"),
    [
        ("ollama", {}, "ok    score      the probabilities of 3 labels sum to 1.000000\n"),
        (
            "ollama",
            {"logprobs": False},
            "note  score      it chooses one of 3 labels and reports no probabilities: ",
        ),
        ("vllm", {}, "ok    score      the probabilities of 3 labels sum to 1.000000\n"),
    ],
)
def test_the_doctor_tries_a_server_and_reports_what_it_found(
    medtask: RunCommand, server: Server, dialect: str, features: dict[str, Any], result: str
) -> None:
    _, model = server(dialect, **features)
    outcome = medtask("doctor", "--model", model)
    assert outcome.code == 0
    assert result in outcome.out
    held_out = {"ollama": "format", "vllm": "choice"}[dialect]
    assert f"ok    load       probe: hold {held_out}, schema " in outcome.out
    assert "ok    load       remote: no\n" in outcome.out


def test_a_server_with_irrelevant_answers_is_reported_as_faulty_with_the_reason(
    medtask: RunCommand, server: Server
) -> None:
    _, model = server("openai", response_format="ignored", logprobs=False)
    outcome = medtask("doctor", "--model", model)
    assert outcome.code == 5
    assert "bad   score      the model answered something outside the set, twice\n" in outcome.out


def test_models_of_servers_here_are_listed_and_can_be_used_as_they_are_listed(
    medtask: RunCommand, project_folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = server("vllm", name="org/served")
    here = address.ServerPreset(model.partition("#")[0], address.API_KEY_VARIABLE)
    server("ollama")
    nobody = address.ServerPreset("http://127.0.0.1:9/v1", address.API_KEY_VARIABLE)
    monkeypatch.setattr(
        address,
        "PRESETS",
        MappingProxyType({**address.PRESETS, "vllm-server": here, "llama-server": nobody}),
    )
    document = json.loads(medtask("models", "--json").out)
    assert document["served"] == ["ollama:toy-1:latest", "vllm-server:org/served"]
    assert "Models on local servers\n  ollama:toy-1:latest\n" in medtask("models").out
    for reference in document["served"]:
        assert medtask("ask", "What is glaucoma?", "--model", reference).code == 0


def test_a_server_that_is_not_there_is_reported_before_anything_is_written(
    medtask: RunCommand, project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")
    for model, remedy in (
        ("ollama:toy-1", "ollama serve"),
        ("http://127.0.0.1:9/v1#toy-1", "check that a model server runs there"),
    ):
        outcome = medtask("run", "surgery", "--model", model)
        assert outcome.code == 5
        assert remedy in outcome.err
        assert not list(Path("surgery").glob("runs/*/answers.csv"))


def test_a_model_that_is_not_there_is_reported_with_the_command_that_fetches_it(
    medtask: RunCommand, project_folder: Path, server: Server
) -> None:
    server("ollama")
    outcome = medtask("run", "surgery", "--model", "ollama:gemma3:4b")
    assert outcome.code == 5
    assert "fix: ollama pull gemma3:4b" in outcome.err


def test_a_server_that_does_not_report_tokens_read_needs_permission(
    medtask: RunCommand, project_folder: Path, server: Server
) -> None:
    _, model = server("openai", usage="missing")
    refused = medtask("run", "surgery", "--model", model)
    assert refused.code == 5
    assert "--allow-unverified-context" in refused.err
    taken = medtask("run", "surgery", "--model", model, "--allow-unverified-context")
    assert taken.code == 0
    assert "it is not known whether prompts are read to their end" in taken.err


@pytest.mark.parametrize("fault", ["reset", "status"])
def test_a_run_whose_server_goes_down_ends_with_5_and_goes_on_with_the_same_command(
    medtask: RunCommand,
    project_folder: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setattr(pace, "MAX_DELAY_S", 0.002)  # the open circuit waits for minutes
    many = 60
    Path("procedures.csv").write_text(
        "case_id,procedure,purpose\n"
        + "".join(f"B{row},Operation {row},staging\n" for row in range(many))
    )
    app, model = server("ollama")
    assert medtask("doctor", "--model", model).code == 0
    probes = sum(call.path == "/api/chat" for call in app.log)
    app.script = FaultScript(
        [FaultRule(fault, status=503, path="/api/chat", calls=range(probes + 20, 10**6))]
    )
    command = ("run", "surgery", "--model", model, "--out", "answers")
    stopped = medtask(*command)
    assert stopped.code == 5
    assert "20 consecutive calls to the server failed" in stopped.err
    assert "run the same command again" in stopped.err
    assert "Operation" not in stopped.out + stopped.err
    app, _ = server("ollama")  # it comes back at another port
    document = json.loads(medtask(*command, "--json").out)
    assert document["exit_code"] == 0
    assert 0 < document["asked"] < many
    answers = read_answers(Path("answers"))
    assert [row["case_id"] for row in answers] == [f"B{row}" for row in range(many)]
    assert {row["status"] for row in answers} <= {"ok", "review"}
    assert read_manifest(Path("answers"))["timing"]["sessions"] == 2


def find_private_address() -> str:
    """An address of this machine by which it counts as another one, in a private network."""
    found = (
        subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
        if shutil.which("hostname")
        else []
    )
    for text in found:
        if classify_address(ip_address(text)) is AddressScope.PRIVATE:
            try:
                socket.create_server(
                    (text, 0), family=socket.AF_INET6 if ":" in text else socket.AF_INET
                ).close()
            except OSError:
                continue
            return text
    pytest.skip("this machine has no address in a private network")


def test_what_leaves_the_machine_is_reported_in_manifest_and_report(
    medtask: RunCommand, project_folder: Path, server: Server
) -> None:
    app, model = server("vllm", host=(index := find_private_address()))
    url = model.partition("#")[0]
    assert (
        medtask("run", "surgery", "--model", model, "--out", "answers", "--allow-remote").code == 0
    )
    manifest = read_manifest(Path("answers"))
    assert manifest["egress"] == {
        "guard": "on",
        "connections_attempted": 0,
        "sent_to": {url: [index]},
    }
    assert manifest["model"]["details"]["remote"] is True
    assert read_egress_section(Path("answers")).startswith(
        f"The text of every row that was asked was sent to {url}, as permitted."
    )
    assert len(app.log) > 4
    say = medtask("ask", "What is glaucoma?", "--model", model, "--allow-remote")
    assert say.code == 0


@pytest.mark.parametrize("verb", ["run", "check", "ask", "doctor"])
def test_without_the_users_word_no_verb_sends_anything_to_another_machine(
    medtask: RunCommand, project_folder: Path, server: Server, verb: str
) -> None:
    app, model = server("vllm", host=find_private_address())
    words = {"run": ["surgery"], "check": ["surgery"], "ask": ["What is glaucoma?"], "doctor": []}[
        verb
    ]
    outcome = medtask(verb, *words, "--model", model)
    assert outcome.code == 2
    assert "--allow-remote" in outcome.err
    assert not app.log


@pytest.mark.parametrize(
    "model", ["groq:m", "openai:m", "https://house.openai.azure.com/openai/v1#d"]
)
def test_what_is_elsewhere_by_its_name_is_not_even_looked_up(
    medtask: RunCommand, project_folder: Path, model: str
) -> None:
    with block_network() as guard:
        outcome = medtask("run", "surgery", "--model", model)
    assert outcome.code == 2
    assert "is another machine" in outcome.err
    assert guard.attempts == 0


# S3 of the security plan: no flag, no name and no detour lets the records of such a task leave this
# machine.
ADDRESSES_BY_HOST = {
    "models.example.org": ["8.8.8.8", "2606:4700::1111"],
    "models.house.lan": ["10.1.2.3"],
    "half.example.org": ["127.0.0.1", "8.8.8.8"],
    "api.groq.com": ["104.18.1.1"],
    "api.openai.com": ["104.18.2.2"],
    "house.openai.azure.com": ["20.1.1.1"],
}
REMOTE_REFERENCES = [
    "groq:llama-3.3-70b-versatile",
    "openai:gpt-5",
    "https://api.groq.com/openai/v1#m",
    "https://api.openai.com/v1#m",
    "https://house.openai.azure.com/openai/deployments/d?api-version=2025-04-01-preview",
    "https://house.openai.azure.com/openai/v1/#d",
    "https://8.8.8.8/v1#m",
    "https://[2606:4700::1111]/v1#m",
    "https://models.example.org#m",
    "http://models.example.org#m",
    "https://half.example.org#m",
    "http://models.house.lan:8000/v1#m",
    "http://10.0.0.1:8000/v1#m",
    "http://192.168.1.10:11434#m",
    "http://[fd12:3456::1]:8000/v1#m",
    "http://169.254.169.254/v1#m",
    "ollama:gpt-oss:120b-cloud",
    "ollama:kimi-k2:cloud",
    "https://ollama.com/v1#m",
]


@pytest.fixture
def network_guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Names lead where NAMES says; nothing is connected to, not even tried."""
    monkeypatch.setattr(address, "resolve_host", lambda host, port: ADDRESSES_BY_HOST[host])
    with block_network() as guard:
        yield
    assert guard.attempts == 0


def assert_refused(outcome: CommandResult) -> None:
    assert outcome.code == 2
    assert "  fix: " in outcome.err
    assert not list(Path("surgery").glob("runs/*/answers.csv"))


@pytest.mark.parametrize(
    "flag", [(), ("--allow-remote",)], ids=["without the flag", "with the flag"]
)
@pytest.mark.parametrize("model", REMOTE_REFERENCES)
@pytest.mark.usefixtures("network_guard")
def test_a_task_with_patients_data_is_asked_nowhere_else(
    medtask: RunCommand, project_folder: Path, model: str, flag: tuple[str, ...]
) -> None:
    edit_task("name: surgery\n", "name: surgery\nphi: true\n")
    assert_refused(medtask("run", "surgery", "--model", model, *flag))


@pytest.mark.parametrize(
    "flag", [(), ("--allow-remote",)], ids=["without the flag", "with the flag"]
)
@pytest.mark.parametrize(
    ("variable", "value", "model"),
    [
        ("OLLAMA_HOST", "models.house.lan", "ollama:m"),
        ("OPENAI_BASE_URL", "https://models.example.org/v1", "openai:m"),
    ],
)
@pytest.mark.usefixtures("network_guard")
def test_a_task_with_patients_data_is_not_sent_where_a_variable_points(
    medtask: RunCommand,
    project_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    model: str,
    flag: tuple[str, ...],
) -> None:
    edit_task("name: surgery\n", f"name: surgery\nphi: true\nmodel: {model}\n")
    monkeypatch.setenv(variable, value)
    assert_refused(medtask("run", "surgery", *flag))


@pytest.mark.parametrize(
    "flag", [(), ("--allow-remote",)], ids=["without the flag", "with the flag"]
)
@pytest.mark.usefixtures("network_guard")
def test_a_task_with_patients_data_is_not_sent_by_the_model_of_a_further_pass(
    medtask: RunCommand, project_folder: Path, flag: tuple[str, ...]
) -> None:
    passes = "passes:\n  - {name: refine, when: {confidence_below: 0.99}, model: 'groq:m'}\n"
    edit_task("name: surgery\n", f"name: surgery\nphi: true\n{passes}")
    assert_refused(medtask("run", "surgery", "--model", "fake:", *flag))


@pytest.mark.parametrize(
    "flag", [(), ("--allow-remote",)], ids=["without the flag", "with the flag"]
)
def test_a_task_with_patients_data_follows_no_redirect_to_another_machine(
    medtask: RunCommand, project_folder: Path, server: Server, flag: tuple[str, ...]
) -> None:
    edit_task("name: surgery\n", "name: surgery\nphi: true\n")
    app, model = server("openai")
    app.script = FaultScript(
        [FaultRule("redirect", rate=1.0, location="https://models.example.org/v1/chat/completions")]
    )
    with block_network() as guard:
        assert_refused(medtask("run", "surgery", "--model", model, *flag))
    assert guard.attempts == 0


@pytest.mark.parametrize("verb", ["run", "check"])
@pytest.mark.parametrize(
    "flag", [(), ("--allow-remote",)], ids=["without the flag", "with the flag"]
)
def test_no_row_with_patients_data_reaches_a_remote_server(
    medtask: RunCommand, project_folder: Path, server: Server, verb: str, flag: tuple[str, ...]
) -> None:
    edit_task("name: surgery\n", "name: surgery\nphi: true\n")
    app, model = server("vllm", host=find_private_address())
    assert_refused(medtask(verb, "surgery", "--model", model, *flag))
    assert not [call for call in app.log if "Biliary stent" in str(call.body)]


def test_a_task_with_patients_data_is_answered_by_a_local_server(
    medtask: RunCommand, project_folder: Path, server: Server
) -> None:
    edit_task("name: surgery\n", "name: surgery\nphi: true\n")
    _, model = server("ollama")
    assert medtask("run", "surgery", "--model", model, "--out", "answers").code == 0
    assert_nothing_left(Path("answers"))


def save_trained_model(folder: Path) -> str:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    from medtask.engines.linear import save_linear
    from medtask.engines.model_metadata import ModelMetadata

    texts = [
        "total gastrectomy",
        "gastric resection",
        "biliary stent",
        "palliative bypass",
        "staging biopsy",
        "diagnostic laparoscopy",
    ]
    gold = [label for label in LABELS for _ in range(2)]
    words = TfidfVectorizer().fit(texts)
    classifier = LogisticRegression(C=10).fit(words.transform(texts), gold)
    folder.mkdir()
    save_linear(folder, words, classifier, ModelMetadata("linear", "label", LABELS))
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        "hf",
        *(
            pytest.param(name, marks=pytest.mark.scale)
            for name in ("llamacpp", "mlx", "encoder", "linear")
        ),
    ],
)
def test_local_engines_answer_without_any_network(project_folder: Path, engine: str) -> None:
    words = list_no_network_command()
    if not is_installed(engine):
        pytest.skip(f"the packages of {engine} are not installed")
    models = {"encoder": "minilm", "linear": "trained", "hf": "hf:tiny", "mlx": "mlx:tiny"}
    model = models.get(engine, f"{engine}:smollm2-135m")
    if engine == "linear":
        save_trained_model(Path(model))
    if engine in ("hf", "mlx"):  # without a GPU the built-in model takes minutes
        from support.tiny_models import save_model

        save_model(Path("tiny"), "llama")
    command = [
        *words,
        sys.executable,
        "-m",
        "medtask",
        "run",
        "surgery",
        "--model",
        model,
        "--out",
        "answers",
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "MEDTASK_OFFLINE": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    answers = read_answers(Path("answers"))
    assert [row["status"] for row in answers if row["case_id"] != "A3"] == [
        row["status"] for row in answers if row["answer"]
    ]
    assert {row["answer"] for row in answers if row["case_id"] != "A3"} <= set(LABELS)
    manifest = read_manifest(Path("answers"))
    assert manifest["model"]["name"] == engine
    assert manifest["caps"]["score"] == "exact"
    assert manifest["egress"]["connections_attempted"] == 0
