"""Write models as GGUF: tensors and tokenizer, and how positions are scaled."""
