"""Compile protos/ into mesh/generated: messages, services, types, and one descriptor set with source positions.

The descriptor set (contract.binpb) is what the core gateway transcodes by and what lets the lint name file and line.
"""

import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

from google.protobuf import descriptor_pb2
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "protos"
GENERATED = ROOT / "mesh" / "generated"
_VALIDATE = "buf/validate/validate.proto"


def generate(target: Path = GENERATED, sources: Path = SOURCES) -> None:
    """Write the generated code for every .proto under `sources` into `target`, replacing what stood there."""
    files = sorted(str(path.relative_to(sources)) for path in sources.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as work:
        validate = Path(work) / "validate.binpb"
        validate.write_bytes(_validate_descriptors())
        for folder in ("isthmus", "buf"):
            for old in sorted((target / folder).rglob("*.py*"), reverse=True):
                old.unlink()
        target.mkdir(parents=True, exist_ok=True)
        rules = f"--descriptor_set_in={validate}"
        python = [f"--python_out={target}", f"--mypy_out=quiet:{target}"]
        grpc = [f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}"]
        descriptors = Path(work) / "contract.binpb"
        described = [f"--descriptor_set_out={descriptors}", "--include_imports", "--include_source_info"]
        _protoc([rules, *python, _VALIDATE])
        _protoc([rules, f"-I{sources}", f"-I{_googleapis()}", *python, *grpc, *described, *files])
        (target / "contract.binpb").write_bytes(descriptors.read_bytes())
    for base in ("isthmus", "buf"):
        (target / base / "py.typed").touch()
        for package in (target / base, *(target / base).rglob("*")):
            # Bytecode of the code that was here before is no package.
            if package.is_dir() and package.name != "__pycache__":
                (package / "__init__.py").touch()


def _protoc(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", *arguments]
    environment = {"PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin"}
    subprocess.run(command, check=True, env=environment, timeout=120)


def _googleapis() -> Path:
    """The folder whose google/api holds annotations.proto."""
    return Path(str(resources.files("google.api").joinpath("annotations.proto"))).parent.parent.parent


def _validate_descriptors() -> bytes:
    files = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()

    def add(file: object) -> None:
        proto = file.proto  # type: ignore[attr-defined]
        if proto.name in seen:
            return
        seen.add(proto.name)
        for dependency in file.dependencies:  # type: ignore[attr-defined]
            add(dependency)
        files.file.append(descriptor_pb2.FileDescriptorProto.FromString(proto.to_binary()))

    add(validate_pb.desc())
    return files.SerializeToString(deterministic=True)


if __name__ == "__main__":
    generate()
    print(f"generated {len(list(GENERATED.rglob('*_pb2.py')))} modules in {GENERATED.relative_to(ROOT)}")
