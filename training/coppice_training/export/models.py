"""A checkpoint or a run -> a folder that transformers (and, for text, coppice) loads; and a text folder -> a model."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from ..errors import TrainingError
from ..model.llama import NORM_EPSILON, Llama, LlamaShape
from ..model.sight import Sight
from ..train.plan import SightPlan, TextPlan, make_plan
from ..train.run import read_checkpoint
from ..train.sight import SightModel
from . import configs
from .shards import SHARD_BYTES, write_weights
from .weights import sight_weights, text_weights

DTYPES = {"float16": torch.float16, "float32": torch.float32}


def export_checkpoint(
    checkpoint: Path, tokenizer: Tokenizer, folder: Path, dtype: str = "float16", shard_bytes: int = SHARD_BYTES
) -> int:
    """Exports a text or a vision checkpoint; returns the bytes of its weights."""
    state = read_checkpoint(checkpoint)
    plan = make_plan(state["plan"], str(checkpoint))
    if plan.model.vocabulary != tokenizer.get_vocab_size():
        expected, got = plan.model.vocabulary, tokenizer.get_vocab_size()
        raise TrainingError(f"--tokenizer: expected the {expected} entries of the checkpoint, got {got}")
    if isinstance(plan, TextPlan):
        text = Llama(plan.model)
        text.load_state_dict(state["model"])
        return export_text(text, plan, tokenizer, folder, dtype, shard_bytes)
    trained = SightModel(plan)
    trained.load_state_dict(state["model"])
    return export_sight(trained.sight, plan, tokenizer, folder, dtype, shard_bytes)


def export_text(
    model: Llama,
    plan: TextPlan,
    tokenizer: Tokenizer,
    folder: Path,
    dtype: str = "float16",
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Writes a LlamaForCausalLM folder; returns the bytes of its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    size = write_weights(folder, text_weights(model), DTYPES[dtype], shard_bytes)
    configs.write_json(folder / "config.json", configs.text_config(plan.model, dtype, plan.context))
    configs.write_generation_config(folder, 256)
    configs.write_tokenizer(folder, tokenizer, plan.context, with_images=False)
    return size


def export_sight(
    model: Sight,
    plan: SightPlan,
    tokenizer: Tokenizer,
    folder: Path,
    dtype: str = "float16",
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Writes a LlavaForConditionalGeneration folder; returns the bytes of its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    size = write_weights(folder, sight_weights(model), DTYPES[dtype], shard_bytes)
    configs.write_json(folder / "config.json", configs.sight_config(plan.vision, plan.model, dtype, plan.context))
    configs.write_generation_config(folder, 64)
    configs.write_tokenizer(folder, tokenizer, plan.context, with_images=True)
    configs.write_processor(folder, plan.vision)
    return size


def read_text_model(folder: Path) -> Llama:
    """An exported text model (not any other Llama) as fp32; raises TrainingError where it cannot be one."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise TrainingError(f"--model: expected a folder with config.json, got {folder}")
    config = json.loads(config_file.read_text(encoding="utf8"))
    if config.get("model_type") != "llama" or not config.get("tie_word_embeddings"):
        raise TrainingError(f"{config_file}: expected a Llama with tied embeddings, got {config.get('model_type')}")
    if config["rms_norm_eps"] != NORM_EPSILON:
        raise TrainingError(f"{config_file}: expected rms_norm_eps {NORM_EPSILON}, got {config['rms_norm_eps']}")
    shape = LlamaShape(
        vocabulary=config["vocab_size"],
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        query_heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        mlp=config["intermediate_size"],
        rope_theta=config["rope_theta"],
    )
    model = Llama(shape)
    stored = {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    wanted = text_weights(model)
    if stored.keys() != wanted.keys():
        raise TrainingError(f"{folder}: expected the tensors {sorted(wanted)}, got {sorted(stored)}")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(stored[name])
    return model
