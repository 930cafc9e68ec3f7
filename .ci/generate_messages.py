"""Write the message classes of protos/: our own, which the codec uses, and betterproto's, their reference.

Ours go to common/transport/codec/wire (wire_messages.py). betterproto's, in common/generated, are what ours are tested
against, and what large event batches are read and written by. Streams are grpclib's (common/transport/grpc), so services
are taken out of the descriptors before the plugin sees them, and what remains is data only. Everything it runs is in
requirements/dev.txt: no network, no protoc of the machine. `--to DIR` and `--wire-to DIR` write elsewhere; a test
compares that with what is committed.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from wire_messages import write_messages

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = Path(sys.executable).parent / "protoc-gen-python_betterproto"


def generate(protos: Path, target: Path, wire: Path) -> None:
    """Every .proto below ``protos`` into packages below ``target``, and into modules of ours in ``wire``.

    Raises `SystemExit` in protoc's words.
    """
    sources = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    if not sources:
        raise SystemExit(f"no .proto file below {protos}")
    with tempfile.TemporaryDirectory() as scratch:
        descriptors = Path(scratch) / "descriptors"
        _protoc(
            f"--proto_path={protos}",
            f"--descriptor_set_out={descriptors}",
            "--include_imports",
            "--include_source_info",  # carries the comments, which become docstrings
            *sources,
        )
        files = FileDescriptorSet.FromString(descriptors.read_bytes())
        for file in files.file:
            del file.service[:]
        descriptors.write_bytes(files.SerializeToString())
        write_messages(files, wire)

        output = Path(scratch) / "output"
        output.mkdir()
        _protoc(
            f"--descriptor_set_in={descriptors}",
            f"--plugin=protoc-gen-python_betterproto={PLUGIN}",
            f"--python_betterproto_out={output}",
            *sources,
        )
        (output / "__init__.py").unlink(missing_ok=True)  # the top package is ours, with its docstring
        _replace(output, target)


def _replace(output: Path, target: Path) -> None:
    """Make ``target`` hold exactly what is in ``output``, and leave files with equal content untouched."""
    wanted = {path.relative_to(output): path.read_text() for path in output.rglob("*.py")}
    for path in target.rglob("*.py"):
        if path.parent != target and path.relative_to(target) not in wanted:
            path.unlink()
    for name, text in wanted.items():
        compile(text, str(name), "exec")  # a comment with quotes at its end breaks the plugin's output
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _protoc(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"protoc failed:\n{done.stderr.strip()}")


def main() -> None:
    """Command line: where from and where to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protos", type=Path, default=ROOT / "protos")
    parser.add_argument("--to", type=Path, default=ROOT / "common" / "generated")
    parser.add_argument("--wire-to", type=Path, default=ROOT / "common" / "transport" / "codec" / "wire")
    arguments = parser.parse_args()
    generate(arguments.protos, arguments.to, arguments.wire_to)


if __name__ == "__main__":
    main()
