"""Predictor, runtimes and the TorchServe handler: the bottom layer, which imports nothing from the rest."""

import os
import sys

# Before any OpenMP runtime is loaded. Threads that spin while they wait make every barrier a lost time
# slice as soon as anything else runs (the server's JVM, a load generator): on two busy cores one call of a
# small compiled model took 225 ms spinning and 0.9 ms sleeping. TorchServe imports torch
# before us: there the variable comes with the environment, from `activate` or `deploy`.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# One request's texts are too few to share among threads, and the tokenizer's pool would fight the runtime's.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# OpenVINO and NNCF send each conversion to Google Analytics unless somebody has declined. What is None here
# cannot be imported, and both go without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None: not to be imported
