"""Nothing is meant where no token is: chances by hand, missed expressions and false alarms."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from support import eval_world
from svp.model.projectors.token_answer import TokenAnswer, none_meant
from svp.model.ris import Reply, RisModel
from svp.pipeline.errors import ConfigError
from svp.train.data.collate import CachedVisuals
from svp.train.evaluation.evaluate import Settings, evaluate
from svp.train.evaluation.protocols import examples, plan
from svp.train.evaluation.rejection import rejections, rejects
from svp.train.evaluation.results import Header, Results, Row
from svp.train.evaluation.trained import Trained
from svp.train.metrics import CONVENTIONS, metrics, target_accuracy
from svp.train.recipe import StageConfig, TrainRecipe

# Sentences 300, 302 and 500 are of an empty mask; the chances of all others are 0.1.
CHANCES = {300: 0.9, 302: 0.3, 500: 0.7, 301: 0.8}
FOUND, MISSED, ALARM = (300, 500), 302, 301


def test_the_chance_that_no_token_is_meant() -> None:
    never = -math.inf
    scores = torch.tensor([[0, never], [math.log(3), 0], [never, never], [math.nan, 0]])
    found = none_meant(scores)
    torch.testing.assert_close(found[:3], torch.tensor([1 / 2, 1 / 4 * 1 / 2, 1.0]))
    assert found[3].isnan() and not rejects(float(found[3]), 0.0)
    assert rejects(0.6, None) and not rejects(0.5, None) and not rejects(0.6, 0.6)
    assert not rejects(None, 0.0)


def _model(monkeypatch: pytest.MonkeyPatch) -> RisModel:
    """Its first token has the scores that make `CHANCES`, the others have none."""
    model = eval_world.model()
    model.projector.answers = TokenAnswer(16)

    def meant(reply: Reply, batch: Any) -> torch.Tensor:
        chances = torch.tensor([CHANCES.get(sent, 0.1) for (sent,) in batch.sent_ids])
        scores = torch.full((len(chances), reply.tokens.shape[1]), -math.inf)
        scores[:, 0] = (1 - chances).logit()
        return scores

    monkeypatch.setattr(model, "meant", meant)
    return model


def test_missed_expressions_and_false_alarms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, words, model = range(3, 7), eval_world.vocabulary(), _model(monkeypatch)
    cache = eval_world.write_cache(tmp_path / "cache", ids)
    source = eval_world.make_source("d", ids, empty=[3, 5])
    units, visuals = plan(examples(source, [cache]), "full"), CachedVisuals([cache], {"masks"})
    head = Header(svp="0", commit="", protocol="full", generate=False, seed=0, repeats=1,
                  order="area", splits=[], digests={}, libraries={})  # fmt: skip

    def asked(**settings: Any) -> tuple[dict[int, Row], Results]:
        rows = evaluate(
            model, units, words, visuals, Settings(unions=True, decoder=False, **settings)
        )
        return {row.sent_id: row for row in rows}, Results(head, rows)

    usual, before = asked()
    assert all(row.has_seg and row.rejection is None for row in usual.values())
    assert before.counts.rejected is None and len(usual) == 10

    rows, results = asked(reject_above=0.5)
    for sent, row in rows.items():
        assert row.rejection == pytest.approx(CHANCES.get(sent, 0.1), abs=1e-6)
        assert row.has_seg == (sent not in (*FOUND, ALARM))
        assert row.counts == usual[sent].counts if row.has_seg else row.union == row.target
    assert target_accuracy(results.counts, CONVENTIONS["gres"]) == (2 / 3, 6 / 7)
    others = [row for sent, row in usual.items() if sent not in (*FOUND, MISSED, ALARM)]
    inter, union = sum(r.intersection for r in others), sum(r.union for r in others)
    union += usual[MISSED].union + usual[ALARM].target
    found = metrics(results.counts, CONVENTIONS["gres"])
    assert found["gIoU"] == pytest.approx((2 + sum(row.iou for row in others)) / 10)
    assert found["cIoU"] == pytest.approx(inter / union)

    stricter, results = asked(reject_above=0.85)
    assert [sent for sent, row in stricter.items() if not row.has_seg] == [300]
    assert target_accuracy(results.counts, CONVENTIONS["gres"]) == (1 / 3, 1.0)


def test_a_model_with_rej_is_asked_by_it_alone() -> None:
    model: Any = SimpleNamespace(
        rejection=lambda before, seg, rej: torch.full((len(before),), rej / 8 + seg / 64)
    )
    reply: Any = SimpleNamespace(before=torch.zeros(2, 3))
    words: Any = SimpleNamespace(rej=2, seg=1)
    batch: Any = None
    for above in (None, 0.9):
        assert rejections(model, batch, reply, words, above) == [0.265625] * 2
    words = SimpleNamespace(rej=None, seg=1)
    assert rejections(model, batch, reply, words, None) == [None, None]


def test_results_are_named_after_the_chance() -> None:
    model, words = eval_world.model(), eval_world.vocabulary()
    recipe = TrainRecipe(stages=(StageConfig(name="a", steps=2, warmup=0),))
    trained = Trained(model, words, recipe, {})
    with pytest.raises(ConfigError, match=r"no token answers.*model\.projector\.options\.token_"):
        trained.to_answer("cpu", reject_above=0.5)
    model.projector.answers = TokenAnswer(16)
    told = trained.to_answer("cpu", reject_above=0.5)
    assert (told.reject_above, told.digests) == (0.5, {"reject_above": "0.5"})
    assert (trained.to_answer("cpu").reject_above, trained.to_answer("cpu").digests) == (None, {})
