"""NVIDIA FastConformer inference without NeMo. Nothing here yet but the name."""
