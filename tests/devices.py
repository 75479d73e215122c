"""The devices of a test: the CPU, and a GPU if there is one (``pytest -m gpu``)."""

import pytest
import torch

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    # Advice on speed and on names, not on results; in this suite warnings are errors.
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores for float32 matrix multiplication:UserWarning"),
    pytest.mark.filterwarnings("ignore:Please use the new API settings to control TF32 behavior:UserWarning"),
    # cuDNN tries its algorithms out, and some do not support a shape.
    pytest.mark.filterwarnings("ignore:Plan failed with a:UserWarning"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
