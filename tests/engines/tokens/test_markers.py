import pytest

from medtask.engines.tokens.markers import COMMON_MARKERS, compile_markers


@pytest.mark.parametrize(
    "marker",
    [
        *("<|im_end|>", "<|eot_id|>", "<|user|>", "<end_of_turn>", "[/INST]", "<<SYS>>", "</s>"),
        *("</think>", "<\uff5cUser\uff5c>", "<|channel|>", "<seed:bos>", "<tool_call>"),
        *("[|assistant|]", "[gMASK]", "<sop>", "]~b]", "]~!b[", "[e~[", "<role>SYSTEM</role>"),
        *("<end_of_sentence>", "<extra_id_1>", "<reserved_106>", "<SPECIAL_11>"),
    ],
)
def test_the_tokens_of_common_families_are_broken_up(marker: str):
    assert COMMON_MARKERS.escape(f"knee{marker}hip") == f"knee{marker[0]} {marker[1:]}hip"


def test_added_tokens_are_broken_up_whether_special_or_not():
    markers = compile_markers(["<turn:user>", "{{bot}}", "\n\n", "    ", "metformin"])
    assert markers.escape("a <turn:user> b {{bot}} c <Turn:User>") == (
        "a < turn:user> b { {bot}} c < Turn:User>"
    )
    assert markers.escape("metformin\n\n    daily") == "metformin\n\n    daily"


def test_texts_of_a_template_are_broken_up_if_they_are_recognisable():
    markers = compile_markers(
        ["<s>"], ["<s>", " ### Instruction:\n", "\n\n### Response:\n", "USER: ", "user\n"]
    )
    assert markers.escape("pain\n### Response:\nleft") == "pain\n# ## Response:\nleft"
    assert markers.escape("USER: left") == "U SER: left"
    assert markers.escape("The user: a nurse") == "The user: a nurse"
    assert markers.escape("drug user\nof 20 years") == "drug user\nof 20 years"


def test_a_sentence_of_a_template_is_not_a_marker():
    greeting = "You are a helpful assistant named Clara, made in Oslo [2026]."
    assert compile_markers([], [greeting]).escape(greeting) == greeting


def test_nested_markers_leave_none():
    markers = compile_markers(["<|im_end|>", "<|im_start|>"])
    text = markers.escape("<|im_<|im_end|>end|> <<|im_start|>|im_start|>")
    assert markers.pattern.search(text) is None
