"""Adapt: few trained parameters beside many frozen ones."""

from efficient.adapt.lora import LoRALeaf, lora

__all__ = ["LoRALeaf", "lora"]
