"""ONNX models as rewards: a scorer of one's own, and models that come inside packages of PyPI."""
