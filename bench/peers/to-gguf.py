"""Writes the checkpoint as a GGUF file for llama.cpp. Usage: to-gguf.py CHECKPOINT OUT.gguf Q4_0|Q8_0

Linear weights take the given type. The tied embedding stays Q8_0, as in published Q4_0 files of this size: it is the
head too, and 4 bits hurt there most. Biases and norms stay f32.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors import safe_open

EMBEDDING = "model.embed_tokens.weight"


def main() -> None:
    folder, out, type_name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "qwen2")
    add_shape(writer, config)
    add_tokenizer(writer, config, json.loads((folder / "tokenizer.json").read_text()))
    add_tensors(writer, config, folder / "model.safetensors", Type[type_name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_shape(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])


def add_tokenizer(writer: gguf.GGUFWriter, config: dict, tokenizer: dict) -> None:
    """llama.cpp wants a text for every id, so the ids without one get a placeholder."""
    texts = [f"<unused {i}>" for i in range(config["vocab_size"])]
    types = [gguf.TokenType.UNUSED] * len(texts)
    for text, i in tokenizer["model"]["vocab"].items():
        texts[i], types[i] = text, gguf.TokenType.NORMAL
    for token in tokenizer["added_tokens"]:
        types[token["id"]] = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(texts)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def add_tensors(writer: gguf.GGUFWriter, config: dict, file: Path, type: Type) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config["num_hidden_layers"])
    with safe_open(file, "np") as tensors:
        for name in tensors.keys():
            target = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if target is None:
                raise SystemExit(f"expected a tensor of Qwen2, got {name}")
            values = tensors.get_tensor(name).astype(np.float32)
            if values.ndim == 1:
                writer.add_tensor(target, values)
                continue
            stored = Type.Q8_0 if name == EMBEDDING else type
            writer.add_tensor(target, gguf.quants.quantize(values, stored), raw_dtype=stored)


main()
