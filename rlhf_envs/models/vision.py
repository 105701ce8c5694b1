"""Load vision-language models and their processors. Importing this module imports neither torch nor transformers."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_envs.models import (
    base_folder,
    clear_errors,
    first_line,
    load_config,
    load_tokenizer,
    local_folder,
    model_errors,
    no_progress_bars,
    resolve,
)
from rlhf_envs.models.adapters import is_adapter_folder, load_adapters

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["is_vision_config", "is_vision_model", "load_processor", "load_vision_model", "save_processor"]


PROCESSORS = "*processor_config.json"  # the files that a processor loads from


def is_vision_config(config: PreTrainedConfig) -> bool:
    """Return whether a configuration is that of a decoder that reads pictures in its context."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    decodes = not config.is_encoder_decoder and getattr(config, "vision_config", None) is not None
    return decodes and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def is_vision_model(name: str) -> bool:
    """Return whether the model of this name reads pictures, by its configuration."""
    return is_vision_config(load_config(name))


@lru_cache(maxsize=4)
def load_processor(name: str) -> Any:
    """Load the processor of a vision-language model, once per name. It is shared, so do not change its attributes.

    Raises:
        ValueError: the model has none, or it reads no pictures.
    """
    from transformers import AutoProcessor

    folder = local_folder(name)
    if is_adapter_folder(folder) and not any(Path(folder).glob(PROCESSORS)):
        folder = base_folder(folder)
    errors: tuple[type[Exception], ...] = (ImportError, *model_errors())
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except errors as error:
        if isinstance(error, ImportError) and (alone := _pictures_alone(name, folder)) is not None:
            return alone
        raise ValueError(
            f"the model {name!r} has no processor that loads ({first_line(error)}): its folder needs the model's "
            "processor_config.json, which processor.save_pretrained writes"
        ) from error
    if getattr(processor, "image_processor", None) is None:
        raise ValueError(f"the model {name!r} has the processor {type(processor).__name__}, which reads no pictures")
    return processor


class _PicturesAlone:
    """Stand for a processor of pictures and films whose part for films needs torchvision, which is not installed."""

    def __init__(self, name: str, folder: str, image_processor: Any) -> None:
        self.folder, self.image_processor, self.tokenizer = Path(folder), image_processor, load_tokenizer(name)
        self.image_token = self.tokenizer.convert_ids_to_tokens(load_config(name).image_token_id)

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy the files that the whole processor loads from, without a template, which the tokenizer has."""
        for file in self.folder.glob(PROCESSORS):
            shutil.copyfile(file, Path(folder) / file.name)


def _pictures_alone(name: str, folder: str) -> _PicturesAlone | None:
    """Return what reads pictures as a processor's part for pictures does; None if that part is not Qwen2-VL's kind."""
    from transformers import AutoImageProcessor

    errors: tuple[type[Exception], ...] = (ImportError, *model_errors())
    try:
        found = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except errors:
        return None
    return _PicturesAlone(name, folder, found) if "image_grid_thw" in found.model_input_names else None


def load_vision_model(name: str, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load a vision-language model in evaluation mode; the adapters of a folder of adapters stay as they are, to learn.

    Args:
        name: see `rlhf_envs.models.resolve`.
        dtype: the type of the weights, by default float32 for any stored type.

    Raises:
        ValueError: the model cannot be loaded, or reads no pictures.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    if is_adapter_folder(own := resolve(name)):
        return load_adapters(load_vision_model(base_folder(own), dtype), own)
    if not is_vision_config(load_config(name)):
        raise ValueError(
            f"the model {name!r} ({load_config(name).model_type}) reads no pictures: take 'tiny-vision', or a folder "
            "or hub id that AutoModelForImageTextToText loads"
        )
    with no_progress_bars(), clear_errors(name, "weights"):
        return AutoModelForImageTextToText.from_pretrained(
            own, dtype=dtype or torch.float32, trust_remote_code=False
        ).eval()


def save_processor(name: str, folder: str | Path) -> None:
    """Write the processor of a vision-language model beside its weights; do nothing for other models."""
    if is_vision_model(name):
        load_processor(name).save_pretrained(folder)
