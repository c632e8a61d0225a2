"""A sample of text at each validation."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from gecko_lab.callbacks.tensorboard import writer
from gecko_lab.generation import generate


class TextSample(Callback):
    """Let the model continue a prompt at each validation, and log the text.

    Args:
        prompt: text after the BOS.
        num_tokens: tokens to add.
        temperature: divides the logits; 0 takes the likeliest token.
        seed: of the sampling, the same at each validation.
    """

    def __init__(self, prompt: str = "", num_tokens: int = 128, temperature: float = 0.8, seed: int = 0) -> None:
        self.prompt, self.num_tokens, self.temperature, self.seed = prompt, num_tokens, temperature, seed

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample and log."""
        board = writer(trainer)
        data: Any = getattr(trainer, "datamodule", None)
        if board is None or not hasattr(data, "tokenizer") or trainer.sanity_checking or trainer.world_size > 1:
            return
        ids = [data.bos_id, *data.tokenizer.encode(self.prompt)]
        prompt = torch.tensor([ids], device=pl_module.device)
        network: Any = pl_module.network
        generator = torch.Generator(device=prompt.device).manual_seed(self.seed)
        starts = torch.zeros_like(prompt, dtype=torch.bool)
        starts[:, 0] = True
        eager = torch.compiler.set_stance("force_eager")  # each step has other shapes: nothing to compile
        with eager, trainer.precision_plugin.forward_context():
            added = generate(
                network,
                prompt,
                self.num_tokens,
                temperature=self.temperature,
                generator=generator,
                document_starts=starts,
            )
        text = self.prompt + data.tokenizer.decode([i for i in added[0].tolist() if i != data.bos_id])
        board.add_text("sample", "    " + text.replace("\n", "\n    "), global_step=trainer.global_step)
