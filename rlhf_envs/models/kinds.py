"""Refuse models that are no decoder of text alone, by their configuration. Importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["check_text_decoder", "is_encoder", "loaded_config"]

SENSES = ("vision", "image", "video", "audio", "speech", "vq")  # in the names of sub-configurations


def check_text_decoder(config: PreTrainedConfig, model: str) -> None:
    """Raise ValueError if a model, called `model` in the message, has an encoder or reads more than text."""
    if config.is_encoder_decoder:
        raise ValueError(
            f"{model} is an encoder-decoder ({config.model_type}): its encoder reads the prompt apart, and an agent "
            "needs a decoder, whose one context grows by a token at a time; take a causal language model"
        )
    senses = [name for name in config.sub_configs if any(sense in name for sense in SENSES)]
    if senses := [name for name in senses if getattr(config, name, None) is not None]:
        raise ValueError(
            f"{model} ({config.model_type}) reads more than text ({', '.join(senses)}), and an agent would ignore all "
            "else: pass its text model, AutoModelForCausalLM.from_config(model.config.get_text_config()) with the "
            "decoder and the head of this one (docs/guides/models.md has the lines)"
        )


def loaded_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration that a loaded model has: its text model's, where that alone is loaded (Llama 4)."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    network: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    is_text = network is not None and network.config_class is config.sub_configs.get("text_config")
    return config.get_text_config() if is_text else config


def is_encoder(config: PreTrainedConfig) -> bool:
    """Return whether a model reads texts in both directions and writes none, as BERT, which masked-LM trains."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    masked: Any = MODEL_FOR_MASKED_LM_MAPPING.get(type(config), None)
    causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if masked is None or masked is causal or config.is_encoder_decoder or getattr(config, "is_decoder", False):
        return False
    return causal is None or causal.__name__ not in (config.architectures or [])
