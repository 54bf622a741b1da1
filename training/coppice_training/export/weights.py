"""Names of the weights in the Hugging Face layout."""

from torch import Tensor

from ..model.llama import Llama
from ..model.sight import Sight

_LAYER = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_VISION_LAYER = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.out_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
_VISION = "vision_tower.vision_model."


def text_weights(model: Llama, prefix: str = "model.") -> dict[str, Tensor]:
    """The model's own tensors (not copies) by their exported names; the output embedding is tied."""
    weights = {f"{prefix}embed_tokens.weight": model.embedding.weight, f"{prefix}norm.weight": model.norm.weight}
    for index, layer in enumerate(model.layers):
        for name, exported in _LAYER.items():
            weights[f"{prefix}layers.{index}.{exported}.weight"] = getattr(layer, name).weight
    return weights


def sight_weights(model: Sight) -> dict[str, Tensor]:
    """As text_weights, for LlavaForConditionalGeneration with a CLIP encoder."""
    embeddings = f"{_VISION}embeddings."
    weights = {
        f"{embeddings}class_embedding": model.class_embedding,
        f"{embeddings}patch_embedding.weight": model.patch_embedding.weight,
        f"{embeddings}position_embedding.weight": model.position,
    }
    # CLIP spells it so.
    modules = {f"{_VISION}pre_layrnorm": model.norm_before, f"{_VISION}post_layernorm": model.norm_after}
    for index, layer in enumerate(model.vision_layers):
        for name, exported in _VISION_LAYER.items():
            modules[f"{_VISION}encoder.layers.{index}.{exported}"] = getattr(layer, name)
    modules |= {"multi_modal_projector.linear_1": model.projector1, "multi_modal_projector.linear_2": model.projector2}
    for name, module in modules.items():
        weights |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    return weights | text_weights(model.language, "language_model.model.")
