# Cells to play with: open in VS Code, PyCharm or Spyder, or run as a script from the repository root.

# %% A small model, trained twice: without a penalty, and with a strong one.
from pathlib import Path

from config import TrainingConfig
from train import train

config = TrainingConfig.from_yaml(Path(__file__).parent / "configs" / "shakespeare_char_cpu.yaml")
config.max_steps = 200
config.eval_interval = config.generate_interval = 100
results = {}
for weight in (0.0, 0.3):
    config.penalty_weight = weight
    results[weight] = train(config)

# %% What did the penalty do? (A temperature below 1 would raise max p as well.)
for weight, result in results.items():
    metrics = {name: round(value, 4) for name, value in result.metrics.items() if "val/" in name}
    print(weight, metrics)

# %% The penalties of one distribution, and how they fall as it sharpens.
import torch

from model import PENALTIES

logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
for temperature in (2.0, 1.0, 0.5, 0.25):
    log_p = (logits / temperature).log_softmax(-1)
    values = {name: round(p.value(log_p.exp(), log_p, 5).item(), 3) for name, p in PENALTIES.items()}
    print(temperature, values)

# %% A trained checkpoint is a HuggingFace model.
from transformers import pipeline

generator = pipeline("text-generation", model=str(results[0.3].checkpoint))
print(generator("ROMEO:", max_new_tokens=50, do_sample=True)[0]["generated_text"])
