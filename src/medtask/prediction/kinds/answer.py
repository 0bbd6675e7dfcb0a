"""Prediction for kind ``answer``: the model writes text, section by section."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from medtask.engines.base import Engine
from medtask.prediction.engine_output import EngineOutput, list_prompts, require_one_each
from medtask.prediction.kinds.base import KindPrediction, require_generation
from medtask.prediction.truncation import cut_at_sentence
from medtask.records import Answer, Fault, Limits, Status
from medtask.tasks.kinds.answer import format_close_tag, format_open_tag
from medtask.tasks.task import FreeText

EARLY_SECTIONS_DIVISOR = 2  # all sections before the last share 1/2 of the tokens

_TRUNCATION_REASONS = {
    "length": "the answer reached max_tokens and was cut after its last whole sentence",
    "loop": "the answer repeated itself and was cut after its last whole sentence",
    "deadline": "the answer took too long and was cut after its last whole sentence",
}


class AnswerPrediction(KindPrediction[FreeText]):
    """Generates the sections; the value is the last one."""

    def check_engine(self, engine: Engine) -> None:
        require_generation(engine)

    def build_limits(self) -> Limits:
        spec = self.spec
        return Limits(
            spec.max_tokens,
            stop=spec.stop,
            temperature=spec.temperature,
            top_p=spec.top_p,
            seed=spec.seed,
        )

    def ask(
        self, engine: Engine, outputs: dict[str, EngineOutput]
    ) -> Iterator[EngineOutput | Fault]:
        """Generate each section; one that does not end by itself is closed, so the last always
        begins.
        """
        sections = self.spec.sections or ("",)
        for index, section in enumerate(sections):
            last = index == len(sections) - 1
            opening, closing = (
                (format_open_tag(section), format_close_tag(section)) if section else ("", "")
            )
            for name, before in outputs.items():
                opened = before.prompt.partial_response + opening
                outputs[name] = replace(
                    before, prompt=replace(before.prompt, partial_response=opened)
                )
            limits = self._build_section_limits(len(sections), closing, last=last)
            results = engine.generate(list_prompts(outputs), limits)
            for result in require_one_each(results, list_prompts(outputs)):
                if isinstance(result, Fault):
                    del outputs[result.record_id]
                    yield result
                    continue
                before = outputs[result.record_id]
                written = before.prompt.partial_response + result.text + closing
                outputs[result.record_id] = replace(
                    before.add_output(result),
                    text=written,
                    last_section=result.text,
                    finish_reason=result.finish_reason,
                    prompt=replace(
                        before.prompt, partial_response=written + ("" if last else "\n")
                    ),
                )
        yield from outputs.values()

    def decide(self, record_id: str, output: EngineOutput) -> Answer:
        final = (output.last_section or "").strip()
        if output.finish_reason != "stop":
            return Answer(
                record_id,
                Status.TRUNCATED,
                value=cut_at_sentence(final) or None,
                reason=_TRUNCATION_REASONS[output.finish_reason],
            )
        if not final:
            return Answer(record_id, Status.UNPARSABLE, reason="the model wrote nothing")
        return Answer(record_id, Status.OK, value=final)

    def _build_section_limits(self, count: int, closing: str, *, last: bool) -> Limits:
        limits = self.build_limits()
        if not last:
            early_tokens = self.spec.max_tokens // (EARLY_SECTIONS_DIVISOR * (count - 1))
            limits = replace(limits, max_tokens=max(1, early_tokens))
        return replace(limits, stop=(*limits.stop, closing)) if closing else limits
