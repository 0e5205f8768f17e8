"""Make a tiny random reward model out of the tiny model: `make_reward.py MODEL DIR`; the same each time.

As real ones it is a Llama for sequence classification with one label; its head is drawn so large that rewards differ by
whole points, and are of both signs.
"""

import shutil
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

HEAD = 1.0
"""Standard deviation of the head's weights."""


def save(model: Path, directory: Path) -> None:
    config = LlamaConfig.from_pretrained(model, num_labels=1)
    torch.manual_seed(1)
    reward = LlamaForSequenceClassification(config)
    torch.nn.init.normal_(reward.score.weight, std=HEAD)
    reward.to(torch.bfloat16).save_pretrained(directory)
    for file in model.iterdir():
        if "token" in file.name or file.suffix == ".jinja":
            shutil.copy(file, directory / file.name)


if __name__ == "__main__":
    save(Path(sys.argv[1]), Path(sys.argv[2]))
