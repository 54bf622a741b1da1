"""The JSON files beside the weights: model, generation, tokenizer and image processor configurations."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..chat import END_OF_TEXT, IMAGE, SIGHT_TEMPLATE, TEXT_TEMPLATE, TURN_END, TURN_START
from ..model.llama import NORM_EPSILON, LlamaShape
from ..model.sight import VisionShape
from ..sight.pixels import MEAN, STD

_END_ID, _STOP_ID, _IMAGE_ID = 0, 2, 3
_SPECIAL = {"bos_token": END_OF_TEXT, "eos_token": TURN_END, "pad_token": END_OF_TEXT}


def write_json(file: Path, value: Any) -> None:
    """Indented, with a newline at the end."""
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf8")


def text_config(shape: LlamaShape, dtype: str, context: int) -> dict[str, Any]:
    """config.json of LlamaForCausalLM; `head_dim` is said because heads x head_dim need not be the hidden size."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.query_heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "initializer_range": 0.02,
        "rms_norm_eps": NORM_EPSILON,
        "use_cache": True,
        "tie_word_embeddings": True,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "bos_token_id": _END_ID,
        "eos_token_id": _STOP_ID,
        "pad_token_id": _END_ID,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def sight_config(vision: VisionShape, text: LlamaShape, dtype: str, context: int) -> dict[str, Any]:
    """config.json of LlavaForConditionalGeneration."""
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "dtype": dtype,
        "torch_dtype": dtype,
        "image_token_index": _IMAGE_ID,
        "image_token_id": _IMAGE_ID,
        "ignore_index": -100,
        "image_seq_length": vision.patches,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": True,
        "pad_token_id": _END_ID,
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": vision.hidden,
            "intermediate_size": vision.mlp,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "num_channels": 3,
            "image_size": vision.image,
            "patch_size": vision.patch,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "attention_dropout": 0.0,
            "projection_dim": vision.hidden,
        },
        "text_config": text_config(text, dtype, context),
    }


def write_generation_config(folder: Path, max_new_tokens: int) -> None:
    """Greedy, stopping at the end of a turn or of the text."""
    config = {"bos_token_id": _END_ID, "eos_token_id": [_STOP_ID, _END_ID], "pad_token_id": _END_ID}
    write_json(folder / "generation_config.json", config | {"do_sample": False, "max_new_tokens": max_new_tokens})


def write_tokenizer(folder: Path, tokenizer: Tokenizer, context: int, *, with_images: bool) -> None:
    """tokenizer.json and what says how prompts are put together."""
    tokenizer.save(str(folder / "tokenizer.json"))
    template = SIGHT_TEMPLATE if with_images else TEXT_TEMPLATE
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        **_SPECIAL,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": [TURN_START, TURN_END],
        "chat_template": template,
    }
    if with_images:
        config["additional_special_tokens"].append(IMAGE)
        config |= {"processor_class": "LlavaProcessor", "image_token": IMAGE}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", _SPECIAL)


def write_processor(folder: Path, vision: VisionShape) -> None:
    """How images become pixels, and how many visual tokens stand for one."""
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_resize": True,
        "size": {"shortest_edge": vision.image},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": vision.image, "width": vision.image},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "do_convert_rgb": True,
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE,
        "patch_size": vision.patch,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    write_json(folder / "preprocessor_config.json", preprocessor)
    write_json(folder / "processor_config.json", processor)
    (folder / "chat_template.jinja").write_text(SIGHT_TEMPLATE, encoding="utf8")
    write_json(folder / "chat_template.json", {"chat_template": SIGHT_TEMPLATE})
