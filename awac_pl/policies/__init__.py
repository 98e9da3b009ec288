"""One policy in four forms: torch, cloned, numpy, ONNX."""
