"""TorchServe as a process: start, stop, access, containers, roll-outs."""
