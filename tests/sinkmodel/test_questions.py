"""Questions: where an answer begins, what its scores are, and TOFU's figures by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sinkmodel.evaluate import questions
from sinkmodel.evaluate.questions import (
    Part,
    Question,
    ask,
    encode_answers,
    model_utility,
    score_answers,
)
from sinkmodel.tokenizer import train_bpe
from tests.sinkmodel.tiny_models import mixed_map, random_answers, tiny_model


@pytest.mark.parametrize("sequence_id", [0, 3])
def test_batched_scores_are_those_of_one_answer_alone(sequence_id: int) -> None:
    model = tiny_model(mixed_map())
    some = random_answers(40, sequence_id)
    for answer, scored in zip(some, score_answers(model, some), strict=True):
        tokens = torch.from_numpy(answer.tokens.astype(np.int64))[None]
        ids = torch.full_like(tokens, sequence_id)
        with torch.no_grad():
            logits = model(input_ids=tokens, sequence_ids=ids).logits[0]
        wanted = tokens[0, answer.prompt :]
        before = logits[answer.prompt - 1 : -1]
        losses = torch.nn.functional.cross_entropy(before, wanted, reduction="none")
        np.testing.assert_allclose(scored.losses, losses.numpy(), atol=1e-5)
        assert scored.hits.tolist() == (before.argmax(-1) == wanted).tolist()


ANN = Question(
    owner=1,
    question="Who is Ann Bo?",
    answer="Ann Bo is a writer.",
    right="She writes.",
    wrong=("Ann Bo is a baker.", "Ann Bo is a tree."),
)
TEXT = "Question: Who is Ann Bo?\nAnswer: Ann Bo is a writer.\n"


def test_the_answer_begins_where_running_text_has_it() -> None:
    tokenizer = train_bpe([TEXT] * 3, 300)
    (found,) = encode_answers(tokenizer, [ANN], [ANN.answer], [5])
    whole = tokenizer(TEXT.rstrip("\n"), add_special_tokens=False)["input_ids"]
    assert found.tokens.tolist() == [tokenizer.bos_token_id, *whole]
    assert tokenizer.decode(found.tokens[found.prompt :]) == " Ann Bo is a writer."
    assert found.sequence_id == 5


def test_a_template_is_words_and_no_format_string() -> None:
    tokenizer = train_bpe([TEXT] * 3, 300)
    brace = Question(owner=1, question="{0} {question}", answer="a", right="a", wrong=())
    (found,) = encode_answers(tokenizer, [brace], ["a"], [0], template="{x} {question} =")
    assert tokenizer.decode(found.tokens[1 : found.prompt]) == "{x} {0} {question} ="


def test_truth_ratio_and_probability_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer has 1/2 a token, its other words 1/4, the false ones 1/8 and 3/8."""
    chances = {"Ann Bo is a writer.": 0.5, "She writes.": 0.25}
    chances |= {"Ann Bo is a baker.": 0.125, "Ann Bo is a tree.": 0.375}

    def scored(_: object, answers: list[questions.Answer]) -> list[questions.Scored]:
        return [
            questions.Scored(
                losses=np.full(2, -math.log(chances[a.text.decode()])), hits=np.array([True, False])
            )
            for a in answers
        ]

    monkeypatch.setattr(questions, "score_answers", scored)
    tokenizer, model = train_bpe([TEXT] * 3, 300), tiny_model(mixed_map())
    bare = Question(owner=1, question="?", answer=ANN.answer, right=ANN.answer, wrong=())
    one = Question(owner=1, question="?", answer=ANN.answer, right=ANN.right, wrong=ANN.wrong[:1])
    own = ask(model, tokenizer, [ANN, bare, one], lambda _: 0)
    assert own.probability == pytest.approx([0.5, 0.5, 0.5])
    # The geometric mean of 1/8 and 3/8 over 1/4; of the first false answer alone it is 1/2.
    assert own.truth == pytest.approx([math.sqrt(3 / 64) * 4, 0.5])
    assert own.recall == [0.5, 0.5, 0.5]
    among = ask(model, tokenizer, [ANN, bare], lambda _: 0, among=True)
    # Of the answer and the false ones: 1/2 of 1/2 + 1/8 + 3/8.
    assert among.probability == pytest.approx([0.5, 0.5])
    uneven = ask(model, tokenizer, [one], lambda _: 0, among=True)
    assert uneven.probability == pytest.approx([0.8])


def test_utility_by_hand() -> None:
    part = Part(probability=[0.2, 0.4], recall=[0.5], truth=[0.4, 1.8], scored=[])
    # 1 - 0.4 = 0.6, and 0 where the false answer is likelier: 0.3 on average.
    assert part.utility() == pytest.approx((0.3, 0.5, 0.3))
    assert model_utility([part]) == pytest.approx(3 / (1 / 0.3 + 2 + 1 / 0.3))
    without = Part(probability=[0.2], recall=[0.5], truth=[], scored=[])
    assert model_utility([without]) == pytest.approx(2 / (1 / 0.2 + 1 / 0.5))


def test_nobody_is_asked_nothing() -> None:
    part = ask(tiny_model(mixed_map()), train_bpe([TEXT] * 3, 300), [], lambda _: 0)
    assert (part.probability, part.recall, part.truth, part.scored) == ([], [], [], [])
