from __future__ import annotations

import pytest

from medtask.engines.base import EngineInfo
from medtask.engines.fake import FakeEngine
from medtask.engines.load_options import ALL_OPTIONS, LoadOptions, format_option
from medtask.engines.registry import load_model
from medtask.runs.manifest import describe_model, list_destinations

GIVEN = LoadOptions(device="cpu", memory=10**9, allow_remote=True)


def test_options_that_differ_from_their_default_are_given() -> None:
    assert LoadOptions().list_given() == ()
    assert GIVEN.list_given() == ("device", "memory", "allow_remote")


def test_a_selection_resets_all_other_options() -> None:
    assert GIVEN.select(frozenset({"device"})) == LoadOptions(device="cpu")
    assert GIVEN.select(frozenset()) == LoadOptions()
    assert GIVEN.select(ALL_OPTIONS) == GIVEN


def test_an_option_is_spelled_as_on_the_command_line() -> None:
    assert format_option("context_tokens") == "--context-tokens"


def test_keyword_arguments_replace_fields_of_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[LoadOptions] = []

    def load(reference: str, options: LoadOptions) -> FakeEngine:
        calls.append(options)
        return FakeEngine()

    monkeypatch.setattr("medtask.engines.fake.load_fake", load)
    load_model("fake:", GIVEN, device="mps", context_tokens=512)
    assert calls == [LoadOptions(device="mps", memory=10**9, allow_remote=True, context_tokens=512)]
    with pytest.raises(TypeError, match="contxt"):
        load_model("fake:", contxt=512)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("addresses", "remote"),
    [(("127.0.0.1", "::1"), False), (("10.0.0.7",), True), (("::1", "2606:4700::1111"), True)],
)
def test_a_destination_on_another_machine_is_remote(
    addresses: tuple[str, ...], remote: bool
) -> None:
    info = EngineInfo(
        "http", "a model", {"model": "m"}, destinations={"https://host/v1": addresses}, notes=("n",)
    )
    assert info.remote is remote
    engine = type("Server", (), {"info": info})()
    assert list_destinations(engine) == ({"https://host/v1": [*addresses]} if remote else {})
    assert describe_model(info) == {
        "name": "http",
        "title": "a model",
        "identity": {"model": "m"},
        "family": "language",
        "details": {
            "url": "https://host/v1",
            "remote": remote,
            "addresses": [*addresses],
            "notes": ["n"],
        },
    }


def test_the_manifest_of_a_local_model_has_its_device_and_no_destination() -> None:
    info = EngineInfo("hf", "a model", {}, device="cpu", details={"threads": 2})
    assert not info.remote
    assert describe_model(info)["details"] == {"device": "cpu", "threads": 2, "notes": []}
