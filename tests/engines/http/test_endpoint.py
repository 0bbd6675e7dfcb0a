from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medtask.engines.http.endpoint import API_KEY_VARIABLE, PRESETS, find_endpoint
from medtask.errors import EngineError, MedtaskError, UsageError

NAMES = {
    "localhost": ["::1", "127.0.0.1"],
    "models.house.lan": ["10.1.2.3"],
    "models.example.org": ["8.8.8.8", "2606:4700::1111"],
    "api.groq.com": ["104.18.1.1"],
    "api.openai.com": ["104.18.2.2"],
    "house.openai.azure.com": ["20.1.1.1"],
    "link-local.example.org": ["169.254.169.254"],
    "mapped.example.org": ["::ffff:169.254.169.254"],
    "both.example.org": ["8.8.8.8", "169.254.169.254"],
    "rebinds.example.org": ["127.0.0.1", "8.8.8.8"],
    "inside-and-out.example.org": ["127.0.0.1", "10.0.0.1"],
    "nowhere.example.org": ["0.0.0.0"],
    "wire.example.org": ["168.63.129.16"],
    "nat64.example.org": ["64:ff9b::a9fe:a9fe"],
    "scoped.example.org": ["fe80::1%eth0"],
}


def resolve_host(host: str, port: int) -> Sequence[str]:
    return NAMES[host]


# What no flag opens: metadata services, addresses in disguise, other protocols, parser tricks.
FORBIDDEN = [
    # metadata services and link-local, plain
    "http://169.254.169.254/v1#m",
    "http://169.254.170.2/v1#m",
    "https://169.254.169.254/latest/meta-data#m",
    "http://100.100.100.200/v1#m",
    "http://192.0.0.192/v1#m",
    "http://168.63.129.16/v1#m",
    "http://[fd00:ec2::254]/v1#m",
    "http://[fd00:ec2::23]/v1#m",
    "http://[fd20:ce::254]/v1#m",
    "http://[fd00:42::42]/v1#m",
    "http://[fe80::1]/v1#m",
    "http://[fe80::a9fe:a9fe]/v1#m",
    "http://[fec0::1]/v1#m",
    "http://[fe80::1%25eth0]/v1#m",
    "http://metadata.google.internal/v1#m",
    "http://METADATA.google.internal./v1#m",
    "http://metadata/computeMetadata/v1#m",
    "http://metadata.goog/v1#m",
    "http://instance-data/v1#m",
    "http://instance-data.ec2.internal/v1#m",
    # in disguise: decimal, hexadecimal, octal, short, percent, full-width, IPv6 around IPv4
    "http://2852039166/v1#m",
    "http://0xa9fea9fe/v1#m",
    "http://0xA9.0xFE.0xA9.0xFE/v1#m",
    "http://0251.0376.0251.0376/v1#m",
    "http://169.254.43518/v1#m",
    "http://2130706433/v1#m",
    "http://0x7f.1/v1#m",
    "http://0177.0.0.1/v1#m",
    "http://127.1/v1#m",
    "http://017700000001/v1#m",
    "http://127.0.0.1.0x7f/v1#m",
    "http://169%2e254%2e169%2e254/v1#m",
    "http://１６９.254.169.254/v1#m",
    "http://ⓛocalhost/v1#m",
    "http://127。0。0。1/v1#m",
    "http://[::ffff:169.254.169.254]/v1#m",
    "http://[::ffff:a9fe:a9fe]/v1#m",
    "http://[0:0:0:0:0:ffff:a9fe:a9fe]/v1#m",
    "http://[::169.254.169.254]/v1#m",
    "http://[::127.0.0.2]/v1#m",
    "http://[64:ff9b::169.254.169.254]/v1#m",
    "http://[64:ff9b::7f00:1]/v1#m",
    "http://[64:ff9b:1::a9fe:a9fe]/v1#m",
    "http://[2002:a9fe:a9fe::1]/v1#m",
    "http://[2002:7f00:1::]/v1#m",
    "http://[2002:a00:1::]/v1#m",
    "http://[2001:0:a9fe:a9fe::1]/v1#m",
    "https://[2620::5efe:a9fe:a9fe]/v1#m",
    # nobody's address
    "http://0.0.0.0/v1#m",
    "http://0/v1#m",
    "http://0.1.2.3/v1#m",
    "http://[::]/v1#m",
    "http://[::ffff:0.0.0.0]/v1#m",
    "http://255.255.255.255/v1#m",
    "http://224.0.0.1/v1#m",
    "http://240.0.0.1/v1#m",
    "http://[ff02::1]/v1#m",
    # user names, parser differences
    "http://user@127.0.0.1/v1#m",
    "http://user:secret@127.0.0.1/v1#m",
    "http://127.0.0.1@169.254.169.254/v1#m",
    "http://127.0.0.1:80@169.254.169.254/v1#m",
    "http://127.0.0.1\\@169.254.169.254/v1#m",
    "http://127.0.0.1\t.example.org/v1#m",
    "http://127.0.0.1 /v1#m",
    "http://127.0.0.1\r\nHost: x/v1#m",
    "http://127.0.0.1:8000:80/v1#m",
    "http://127.0.0.1:0/v1#m",
    "http://127.0.0.1:65536/v1#m",
    "http://127.0.0.1:８０/v1#m",
    "http://[127.0.0.1]x/v1#m",
    "http://[::1/v1#m",
    "http:///v1#m",
    "http://#m",
    "http://127.0.0.1/../admin#m",
    "http://127.0.0.1//evil.example.org/v1#m",
    "http://127.0.0.1/v1?url=http://169.254.169.254#m",
    "http://127.0.0.1/v1?key=secret#m",
    "http://127.0.0.1/v1?api-version=1&api-key=secret#m",
    # other protocols
    "http:127.0.0.1/v1#m",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_INFO#m",
    "ftp://127.0.0.1/v1#m",
    "dict://127.0.0.1:11211/stat#m",
    "unix:///var/run/docker.sock#m",
    "ws://127.0.0.1/v1#m",
    "jar:http://127.0.0.1!/v1#m",
    # names that lead there, all of them or one of several
    "http://link-local.example.org/v1#m",
    "http://mapped.example.org/v1#m",
    "https://both.example.org/v1#m",
    "https://rebinds.example.org/v1#m",
    "http://inside-and-out.example.org/v1#m",
    "http://nowhere.example.org/v1#m",
    "https://wire.example.org/v1#m",
    "https://nat64.example.org/v1#m",
    "http://scoped.example.org/v1#m",
    # clear text over the internet
    "http://8.8.8.8/v1#m",
    "http://models.example.org/v1#m",
    "http://[2606:4700::1111]/v1#m",
    "http://[64:ff9b::8.8.8.8]/v1#m",
    # Ollama's cloud
    "ollama:gpt-oss:120b-cloud",
    "ollama:qwen3-coder:480b-CLOUD",
    "ollama:kimi-k2:cloud",
    "http://127.0.0.1:11434#kimi-k2:cloud",
    "http://127.0.0.1:11434/v1#gpt-oss:120b-cloud",
    "https://ollama.com/v1#m",
    "https://api.ollama.com#m",
]

# Honest addresses of other machines: the user's word opens them. A task with protected data never
# gives it.
REMOTE = [
    "groq:llama-3.3-70b-versatile",
    "openai:gpt-5",
    "https://api.groq.com/openai/v1#m",
    "https://api.openai.com/v1#m",
    "https://house.openai.azure.com/openai/deployments/d?api-version=2025-04-01-preview",
    "https://house.openai.azure.com/openai/v1/#d",
    "https://8.8.8.8/v1#m",
    "https://models.example.org#m",
    "https://[2606:4700::1111]/v1#m",
    "https://[64:ff9b::8.8.8.8]/v1#m",
    "http://10.0.0.1:8000/v1#m",
    "http://172.16.5.4:8000/v1#m",
    "http://192.168.1.10:11434#m",
    "http://100.64.1.2:8000/v1#m",
    "http://198.18.0.1/v1#m",
    "http://[fd12:3456::1]:8000/v1#m",
    "http://[::ffff:10.0.0.1]/v1#m",
    "http://models.house.lan:8000/v1#m",
]


@pytest.fixture(autouse=True)
def unset_server_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OLLAMA_HOST",
        "OPENAI_BASE_URL",
        API_KEY_VARIABLE,
        "OPENAI_API_KEY",
        "GROQ_API_KEY",
        "AZURE_OPENAI_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)


def test_the_corpus_is_as_large_as_was_promised() -> None:
    assert len(set(FORBIDDEN)) >= 60


@pytest.mark.parametrize("reference", FORBIDDEN)
def test_what_can_only_be_a_trick_is_refused_whatever_the_user_says(reference: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_endpoint(reference, allow_remote=True, resolve=resolve_host)
    assert caught.value.exit_code == 2
    assert "secret" not in f"{caught.value} {caught.value.fix}"


@pytest.mark.parametrize("reference", [*REMOTE, *FORBIDDEN])
def test_without_the_users_word_nothing_leaves_this_machine(reference: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_endpoint(reference, resolve=resolve_host)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("reference", REMOTE)
def test_the_users_word_opens_another_machine_and_it_is_called_remote(reference: str) -> None:
    assert find_endpoint(reference, allow_remote=True, resolve=resolve_host).remote


def test_an_ipv4_address_in_an_ipv6_one_is_connected_to_as_what_it_is() -> None:
    assert find_endpoint("http://[::ffff:127.0.0.1]:8000/v1#m").addresses == ("127.0.0.1",)


@pytest.mark.parametrize(
    ("reference", "url", "dialect", "model"),
    [
        ("http://127.0.0.1:8000/v1#org/name", "http://127.0.0.1:8000/v1", "openai", "org/name"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1", "openai", None),
        ("HTTP://LocalHost:8000/v1/#m", "http://localhost:8000/v1", "openai", "m"),
        ("http://127.8.9.10/gateway/v1#m", "http://127.8.9.10/gateway/v1", "openai", "m"),
        ("https://[::1]:8443/v1#m", "https://[::1]:8443/v1", "openai", "m"),
        ("http://localhost:11434#gemma3:4b", "http://localhost:11434", "ollama", "gemma3:4b"),
        ("http://localhost:11434/v1#gemma3:4b", "http://localhost:11434/v1", "openai", "gemma3:4b"),
        ("ollama:gemma3:4b", "http://127.0.0.1:11434", "ollama", "gemma3:4b"),
        (
            "ollama:hf.co/org/name-GGUF:Q4_K_M",
            "http://127.0.0.1:11434",
            "ollama",
            "hf.co/org/name-GGUF:Q4_K_M",
        ),
        ("llama-server:", "http://127.0.0.1:8080/v1", "openai", None),
        ("vllm-server:org/name", "http://127.0.0.1:8000/v1", "openai", "org/name"),
    ],
)
def test_a_server_on_this_machine_needs_no_flag(
    reference: str, url: str, dialect: str, model: str | None
) -> None:
    found = find_endpoint(reference, resolve=resolve_host)
    assert (found.url, found.api_type, found.model, found.remote) == (url, dialect, model, False)


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("127.0.0.1", "http://127.0.0.1:11434"),
        ("127.0.0.2:1234", "http://127.0.0.2:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("http://127.0.0.1", "http://127.0.0.1:80"),
        ("https://127.0.0.1/", "https://127.0.0.1:443"),
        ("http://127.0.0.1:11434/ollama", "http://127.0.0.1:11434/ollama"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:9", "http://[::1]:9"),
        ('"127.0.0.1:5"', "http://127.0.0.1:5"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("[::]:5", "http://127.0.0.1:5"),
        ("localhost", "http://localhost:11434"),
    ],
)
def test_ollama_host_is_read_by_ollamas_rules(
    monkeypatch: pytest.MonkeyPatch, value: str, url: str
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", value)
    found = find_endpoint("ollama:m", resolve=resolve_host)
    assert (found.url, found.api_type) == (url, "ollama")


@pytest.mark.parametrize(
    "value",
    ["http://10.0.0.1", "ssh://127.0.0.1", "127.0.0.1:port", "user@127.0.0.1", "169.254.169.254"],
)
def test_ollama_host_is_checked_like_any_address(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", value)
    with pytest.raises(UsageError):
        find_endpoint("ollama:m", resolve=resolve_host)


def test_an_azure_address_keeps_its_version_and_names_its_deployment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "azure-secret")
    reference = (
        "https://house.openai.azure.com/openai/deployments/gpt-5-eu?api-version=2025-04-01-preview"
    )
    found = find_endpoint(reference, allow_remote=True, resolve=resolve_host)
    assert (found.api_type, found.model, found.build_auth_headers()) == (
        "azure",
        "gpt-5-eu",
        {"api-key": "azure-secret"},
    )
    assert found.build_url("chat/completions") == (
        "https://house.openai.azure.com/openai/deployments/gpt-5-eu/chat/completions?api-version=2025-04-01-preview"
    )


def test_paths_are_below_the_base_or_beside_its_version() -> None:
    found = find_endpoint("http://127.0.0.1:8000/gateway/v1#m")
    assert (
        found.build_url("chat/completions") == "http://127.0.0.1:8000/gateway/v1/chat/completions"
    )
    assert found.build_url("/tokenize") == "http://127.0.0.1:8000/gateway/tokenize"


def test_each_address_has_the_key_of_its_own_variable_and_shows_it_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (API_KEY_VARIABLE, "GROQ_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, f"secret-of-{name}")
    plain = find_endpoint("http://127.0.0.1:8000/v1#m")
    groq = find_endpoint("groq:m", allow_remote=True, resolve=resolve_host)
    assert plain.build_auth_headers() == {"authorization": f"Bearer secret-of-{API_KEY_VARIABLE}"}
    assert groq.build_auth_headers() == {"authorization": "Bearer secret-of-GROQ_API_KEY"}
    assert find_endpoint("ollama:m").build_auth_headers() == {}
    assert "secret" not in f"{plain!r} {groq!r}"


@pytest.mark.parametrize("key", ["two\nlines", "ключ", "a b"])
def test_a_key_that_would_break_its_header_is_refused_unseen(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, key)
    with pytest.raises(UsageError, match=API_KEY_VARIABLE) as caught:
        find_endpoint("http://127.0.0.1:8000/v1#m").build_auth_headers()
    assert key not in f"{caught.value} {caught.value.fix}"


def test_the_openai_preset_goes_where_its_variable_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9000/v1")
    assert find_endpoint("openai:m").url == "http://127.0.0.1:9000/v1"


def test_a_name_without_an_address_is_an_engine_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(EngineError, match=r"no address is known for models\.example\.org"):
        find_endpoint("https://models.example.org/v1#m", allow_remote=True)


_PIECES = st.sampled_from(
    [
        "http://",
        "https://",
        "ollama:",
        "127.0.0.1",
        "localhost",
        "169.254.169.254",
        "[::1]",
        "[",
        "]",
        "@",
        ":",
        "/",
        "\\",
        "#",
        "?",
        "%00",
        "..",
        "0x7f",
        "models.house.lan",
    ]
)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.one_of(_PIECES, st.text(max_size=6)), max_size=8).map("".join))
def test_any_address_leads_to_this_machine_or_to_an_error(reference: str) -> None:
    try:
        found = find_endpoint(reference, resolve=lambda host, _port: NAMES.get(host, []))
    except MedtaskError:
        return
    assert {ip_address(address).is_loopback for address in found.addresses} == {True}
    # What is shown is what another parser reads, too.
    assert urlsplit(found.url).hostname == found.host


def test_every_error_has_a_remedy() -> None:
    for reference in [*FORBIDDEN, *REMOTE]:
        with pytest.raises(MedtaskError) as caught:
            find_endpoint(reference, resolve=resolve_host)
        assert caught.value.fix
        assert str(caught.value).isprintable()


def test_the_presets_are_known_without_waking_the_client() -> None:
    code = (
        "import sys; from medtask.engines.http.endpoint import PRESETS; print(len(PRESETS), "
        "'httpcore2' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [str(len(PRESETS)), "False"]
