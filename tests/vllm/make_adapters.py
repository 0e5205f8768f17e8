"""Make tiny LoRA adapters for the tiny model: `make_adapters.py MODEL DIR NAME...`; the same for a name each time."""

import json
import sys
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file

RANK = 4
STRENGTH = 0.5
"""So strong that another text comes out at temperature 0."""
TARGETS = ("q_proj", "v_proj")


def save(model: Path, directory: Path, name: str) -> None:
    config = json.loads((model / "config.json").read_text())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    drawn = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    weights = {}
    for layer in range(layers):
        for target in TARGETS:
            place = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            weights[f"{place}.lora_A.weight"] = torch.randn(RANK, hidden, generator=drawn) * STRENGTH
            weights[f"{place}.lora_B.weight"] = torch.randn(hidden, RANK, generator=drawn) * STRENGTH
    directory.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: value.to(torch.bfloat16) for key, value in weights.items()}, directory / "adapter_model.safetensors"
    )
    (directory / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": str(model),
                "r": RANK,
                "lora_alpha": RANK,
                "lora_dropout": 0.0,
                "bias": "none",
                "target_modules": list(TARGETS),
            }
        )
    )


if __name__ == "__main__":
    for each in sys.argv[3:]:
        save(Path(sys.argv[1]), Path(sys.argv[2]) / each, each)
