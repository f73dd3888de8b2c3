"""Compiles the gRPC service's description: `python -m tests.house.protobuf`."""

from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from deploy.app.protocols.rpc import DESCRIPTION

SOURCE = DESCRIPTION.with_suffix(".proto")


def compiled() -> bytes:
    """Not a module, which would want the version of protobuf that made it, or a later one."""
    with TemporaryDirectory() as folder:
        target = Path(folder, "set")
        words = ["protoc", f"-I{SOURCE.parent}", f"--descriptor_set_out={target}", SOURCE.name]
        assert protoc.main(words) == 0
        (file,) = FileDescriptorSet.FromString(target.read_bytes()).file
    return file.SerializeToString(deterministic=True)


if __name__ == "__main__":
    DESCRIPTION.write_bytes(compiled())
