"""Where transformers keeps the parts of DistilBERT, BERT and RoBERTa: one map for all code that uses them."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Anatomy:
    """Paths of modules and of numbers: the `layers` below the base model; from `query` to `heads` within a
    layer; the two linear layers of the head, `dense` and `out`, below the classifier, and what stands between
    them; and the config's fields."""

    layers: str
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    up: str
    activation: str
    down: str
    output_norm: str
    heads: str
    dense: str
    head_activation: str
    out: str
    depth_field: str
    width_field: str


BERT = Anatomy(
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    activation="intermediate.intermediate_act_fn",
    down="output.dense",
    output_norm="output.LayerNorm",
    heads="attention.self.num_attention_heads",
    dense="bert.pooler.dense",
    head_activation="tanh",
    out="classifier",
    depth_field="num_hidden_layers",
    width_field="intermediate_size",
)
DISTILBERT = Anatomy(
    layers="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    activation="ffn.activation",
    down="ffn.lin2",
    output_norm="output_layer_norm",
    heads="attention.n_heads",
    dense="pre_classifier",
    head_activation="relu",
    out="classifier",
    depth_field="n_layers",
    width_field="hidden_dim",
)
ROBERTA = replace(BERT, dense="classifier.dense", out="classifier.out_proj")
ANATOMIES = {"bert": BERT, "distilbert": DISTILBERT, "roberta": ROBERTA}
