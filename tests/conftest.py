"""No network, one thread, the same seed; and the quick run."""

import os
import tempfile

# Before torch and gradio are imported: no network, no telemetry, one thread (busy machines are slow
# at two), and an empty cache: no test depends on what a machine has downloaded.
os.environ |= {
    "HF_HOME": tempfile.mkdtemp(),
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "OMP_NUM_THREADS": "1",
    "TRITON_INTERPRET": "1",  # where Triton is installed, its kernels run on the processor
}

import pytest
import torch

# hooks of pytest
from quick import (  # noqa: F401
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_terminal_summary,
)

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
