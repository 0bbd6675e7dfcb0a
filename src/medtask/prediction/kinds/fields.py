"""Prediction for kind ``fields``: the model writes an object, then its enums are scored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from medtask.display import join_reasons
from medtask.engines.base import Engine
from medtask.errors import EngineError
from medtask.prediction.engine_output import (
    EngineOutput,
    list_prompts,
    require_one_each,
    score_prompts,
)
from medtask.prediction.field_answers import (
    build_field_branches,
    find_outcome,
    parse_object,
)
from medtask.prediction.field_checks import check_fields
from medtask.prediction.kinds.base import (
    CAPABLE_ENGINE_FIX,
    INVALID_SCORES,
    MAX_SLACK,
    KindPrediction,
    describe_slack,
    find_review_reason,
    require_generation,
)
from medtask.prediction.probabilities import OutcomeProbabilities, Probabilities
from medtask.prediction.quotes import extract_quotes
from medtask.records import Answer, Fault, Limits, Prompt, Status
from medtask.tasks.task import Fields, ScoredField


class FieldsPrediction(KindPrediction[Fields]):
    """Scores one branch for each enum and boolean, after everything written before it."""

    def check_engine(self, engine: Engine) -> None:
        require_generation(engine)
        if not engine.caps.schema:
            raise EngineError(
                f"{engine.info.title} cannot be restricted to a JSON schema",
                fix=CAPABLE_ENGINE_FIX,
            )

    def build_limits(self) -> Limits:
        return Limits(self.spec.max_tokens, schema=self.spec.schema)

    def ask(
        self, engine: Engine, outputs: dict[str, EngineOutput]
    ) -> Iterator[EngineOutput | Fault]:
        scored: dict[str, EngineOutput] = {}
        results = engine.generate(list_prompts(outputs), self.build_limits())
        for result in require_one_each(results, list_prompts(outputs)):
            if isinstance(result, Fault):
                yield result
                continue
            before = outputs[result.record_id]
            after = replace(
                before.add_output(result),
                text=result.text,
                last_section=result.text,
                finish_reason=result.finish_reason,
            )
            is_scored = result.finish_reason == "stop" and engine.caps.score != "none"
            value = parse_object(result.text) if is_scored else None
            found = [] if value is None else build_field_branches(self.spec, value)
            if not found:
                yield after
                continue
            fields, branches = zip(*found, strict=True)
            scored[result.record_id] = replace(
                after, prompt=replace(before.prompt, branches=branches), fields=fields
            )
        for output in score_prompts(engine, scored) if scored else ():
            if isinstance(output, EngineOutput):
                yield output
            else:  # the object is kept, without its probabilities
                yield replace(scored[output.record_id], fields=()).add_note(
                    f"its enums were not scored: {output.reason}"
                )

    def name_probabilities(
        self, prompt: Prompt, rows: Sequence[Sequence[float]], fields: Sequence[ScoredField]
    ) -> OutcomeProbabilities:
        return {
            outcome: probability
            for field, row in zip(fields, rows, strict=True)
            for outcome, probability in zip(field.outcomes, row, strict=True)
        }

    def decide(self, record_id: str, output: EngineOutput) -> Answer:
        if output.finish_reason != "stop":
            why = (
                f"did not fit into max_tokens ({self.spec.max_tokens:,})"
                if output.finish_reason == "length"
                else "repeated themselves"
            )
            return Answer(record_id, Status.TRUNCATED, reason=f"the fields {why}")
        written = parse_object(output.text or "")
        if written is None:
            return Answer(
                record_id, Status.UNPARSABLE, reason="what the model wrote is not a JSON object"
            )
        value, quotes, missing = extract_quotes(self.spec, written, output.prompt.text)
        answer = Answer(record_id, Status.OK, value=value, quotes=quotes or None)
        if output.scores and output.fields and not output.scores.choice_only:
            probabilities = self.to_probabilities(output.prompt, output.scores, output.fields)
            if probabilities is None:
                return Answer(record_id, Status.FAILED, reason=INVALID_SCORES)
            answer = _add_probabilities(answer, probabilities, output.fields, written)
        doubts = [find_review_reason(self.task.review, answer.confidence, answer.off_set)]
        written_quotes = {name: quote.text for name, quote in quotes.items()}
        doubts += check_fields(self.spec, value, written_quotes, missing)
        reason = join_reasons(*doubts)
        return replace(
            answer,
            status=Status.REVIEW if reason else Status.OK,
            reason=join_reasons(reason, answer.reason),
        )


def _add_probabilities(
    answer: Answer,
    probabilities: Probabilities,
    fields: Sequence[ScoredField],
    written: Mapping[str, Any],
) -> Answer:
    """The answer with the probabilities of its fields, unless their error bound is too large."""
    if probabilities.slack > MAX_SLACK:
        return replace(
            answer, slack=probabilities.slack, reason=describe_slack(probabilities.slack)
        )
    by_outcome = probabilities.by_outcome
    return replace(
        answer,
        # Each field is conditioned on those before it, so the probabilities multiply.
        confidence=math.prod(by_outcome[find_outcome(field, written)] for field in fields),
        probabilities=dict(by_outcome) or None,
        off_set=probabilities.off_set,
        slack=probabilities.slack,
    )
