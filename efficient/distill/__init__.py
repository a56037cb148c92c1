"""Distill: losses by which one network teaches another."""

from efficient.core.features import features
from efficient.distill.attention import attention, attention_map
from efficient.distill.boundaries import boundaries
from efficient.distill.cache import TopK, cached_kl, load_top_k, save_top_k, top_k
from efficient.distill.contrastive import Memory, contrastive, contrastive_memory, memory, remembered
from efficient.distill.detection import bounded_boxes, box_edges, weighted_classes
from efficient.distill.flow import flow, flow_matrix
from efficient.distill.hints import hint, regressor
from efficient.distill.layer_map import by_layers
from efficient.distill.logits import forward_kl, jensen_shannon, reverse_kl, skewed_kl, squared_logits
from efficient.distill.mean import mean_over
from efficient.distill.mmd import selectivity
from efficient.distill.mutual import mutual
from efficient.distill.netaug import augmented, drawn_width, masked_subnet, subnet
from efficient.distill.relations import angle_relation, distance_relation
from efficient.distill.segmentation import channelwise, pairwise, pixelwise
from efficient.distill.self_distillation import own_teacher
from efficient.distill.slopes import slopes
from efficient.distill.teachers import mean_teacher

__all__ = [
    "Memory", "TopK", "angle_relation", "attention", "attention_map", "augmented", "boundaries",
    "bounded_boxes", "box_edges", "by_layers", "cached_kl", "channelwise", "contrastive",
    "contrastive_memory", "distance_relation", "drawn_width", "features", "flow", "flow_matrix", "forward_kl",
    "hint", "jensen_shannon", "load_top_k", "masked_subnet", "mean_over", "mean_teacher", "memory", "mutual",
    "own_teacher", "pairwise", "pixelwise", "regressor", "remembered", "reverse_kl", "save_top_k",
    "selectivity", "skewed_kl", "slopes", "squared_logits", "subnet", "top_k", "weighted_classes",
]  # fmt: skip
