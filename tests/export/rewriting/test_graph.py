import logging
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from torch._inductor.exc import InductorError

from export.rewriting import graph
from export.rewriting.graph import Layer, lean, parts, trace
from handler.errors import UserError
from tests.versions import skip_without_pruned_heads

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
FAMILIES = {
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "Bert": SIZES,
    "Roberta": SIZES | {"max_position_embeddings": 130},
    "XLMRoberta": SIZES | {"max_position_embeddings": 130},
    "Electra": SIZES,
}
OTHERS = {"MPNet": SIZES, "DebertaV2": SIZES}


def classifier(family: str, **more: object) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**({**FAMILIES, **OTHERS}[family] | more))
    return getattr(transformers, f"{family}ForSequenceClassification")(config).eval()


def inputs(batch: int = 3, length: int = 20) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 1000, (batch, length), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(length) < torch.tensor([[length], [length // 2], [2]])[:batch]).long()
    return {"input_ids": ids.where(mask.bool(), torch.tensor(1)), "attention_mask": mask}


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_lean_form_computes_the_same_and_traces_for_any_shape(family: str) -> None:
    model = classifier(family)
    model.config.pad_token_id = 1
    cases = [inputs(), inputs(1, 2), inputs(3, 64)]
    expected = [model(**case).logits for case in cases]
    leaned = lean(model)
    assert sum(isinstance(module, Layer) for module in leaned.modules()) == 2
    traced = trace(leaned, 64).module()
    for case, logits in zip(cases, expected, strict=True):
        torch.testing.assert_close(traced(*case.values()), logits, atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_last_layer_computes_the_first_token_alone() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = classifier("DistilBert")
    counts = []
    for form in (lambda model: model, lean):  # in turn: the model is changed in place
        formed = form(model)
        with FlopCounterMode(display=False) as counter:
            formed(**inputs(1, 16))
        counts.append(counter.get_total_flops())
    # Of the 8 squares of dim that a layer of these sizes is, 6 are saved for 15 of 16 tokens in one of two.
    assert counts[1] < 0.7 * counts[0]


@pytest.mark.parametrize("family", OTHERS)
def test_an_encoder_of_another_form_is_left_as_it_is(family: str) -> None:
    model = classifier(family)
    assert lean(model) is model
    assert not any(isinstance(module, Layer) for module in model.modules())


@torch.no_grad()
def test_a_head_that_reads_more_than_the_first_token_keeps_all_tokens() -> None:
    """What looks like DistilBERT but averages over tokens must not lose any."""
    model = classifier("DistilBert")

    def mean_of_tokens(input_ids=None, attention_mask=None):
        hidden = model.distilbert(input_ids, attention_mask)[0].mean(dim=1)
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=model.classifier(hidden))

    model.forward = mean_of_tokens
    expected = model(**inputs()).logits
    torch.testing.assert_close(lean(model)(**inputs()).logits, expected)
    assert [module.first_only for module in model.modules() if isinstance(module, Layer)] == [False, False]


@torch.no_grad()
def test_pruned_heads_are_kept_pruned() -> None:
    model = classifier("DistilBert")
    skip_without_pruned_heads()
    model.prune_heads({0: [1]})
    expected = model(**inputs()).logits
    torch.testing.assert_close(lean(model)(**inputs()).logits, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["DistilBert", "Bert"])
def test_lean_layers_know_which_layers_of_the_model_they_compute(family: str) -> None:
    before = {name for name, module in classifier(family).named_modules() if isinstance(module, nn.Linear)}
    leaned = {
        name for name, module in lean(classifier(family)).named_modules() if isinstance(module, nn.Linear)
    }
    known = {part for name in leaned for part in parts(name)}
    assert before <= known


FAILED = "CppCompileError: C++ compile error\n\nCommand:\ng++ a.cpp\n\nOutput:\n"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            FAILED + "g++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.\n",
            "g++: fatal error: Killed signal terminated program cc1plus",
        ),
        (
            FAILED + "a.cpp: In function 'f':\na.cpp:1:1: error: the first\na.cpp:2:1: error: the second\n",
            "a.cpp:1:1: error: the first",
        ),
        (FAILED + "virtual memory exhausted\n", "virtual memory exhausted"),
        (FAILED, "CppCompileError: C++ compile error"),
        (
            "LoweringException: InvalidCxxCompiler: No working C++ compiler found\n  target: aten.linear\n"
            "    return F.linear(input, self.weight, self.bias)",
            "LoweringException: InvalidCxxCompiler: No working C++ compiler found",
        ),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/gone/g++'",) * 2,
        ("", "no message"),
    ],
)  # fmt: skip
def test_a_compiler_that_fails_is_named_by_its_first_error(
    message: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever Inductor prints of it: the command, the operator, the sources."""

    def fails(*_, **__):
        assert logging.getLogger("torch._inductor.select_algorithm").disabled
        raise InductorError(RuntimeError(message), None)

    monkeypatch.setattr(InductorError, "__str__", lambda _: message)
    monkeypatch.setattr(graph, "trace", lambda *_: None)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fails)
    monkeypatch.setenv("CXX", "/own/g++")
    with pytest.raises(UserError) as caught:
        graph.compile_ahead(torch.nn.Linear(2, 2), 16, tmp_path / "model.pt2", {})
    assert caught.value.seen == expected
    assert "/own/g++ --version" in caught.value.remedy
    assert not logging.getLogger("torch._inductor.select_algorithm").disabled
