"""The .proto files, held field by field against the descriptors that the clients carry."""
import shutil
import subprocess

import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import model_config_pb2, service_pb2

from muster_server import ROOT

PROTOS = ROOT / "src/api/protobuf"
FILES = {
    "grpc_service.proto": service_pb2,
    "model_config.proto": model_config_pb2,
    "grpc/health/v1/health.proto": health_pb2,
    "grpc/reflection/v1alpha/reflection.proto": reflection_pb2,
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """{file name: FileDescriptorProto}, from the compiler that the build uses."""
    out = tmp_path_factory.mktemp("protos") / "set.pb"
    names = [str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto")]
    subprocess.run([shutil.which("protoc-c"), f"-I{PROTOS}", f"--descriptor_set_out={out}", *names], check=True)
    files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return {file.name: file for file in files}


def facts_of_enum(enum, scope):
    return {(f"{scope}.{enum.name}", "enum value", value.name): value.number for value in enum.value}


def facts_of_message(message, scope):
    """{(message, field): number, type, label, oneof}, nested messages and enums included."""
    path = f"{scope}.{message.name}"
    facts = {(path, "message"): message.options.map_entry}
    for field in message.field:
        oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
        facts[path, "field", field.name] = (field.number, field.type, field.type_name, field.label, oneof,
                                            field.options.packed if field.options.HasField("packed") else None)
    for enum in message.enum_type:
        facts |= facts_of_enum(enum, path)
    for nested in message.nested_type:
        facts |= facts_of_message(nested, path)
    return facts


def facts_of_file(file):
    facts = {"package": file.package, "syntax": file.syntax}
    for enum in file.enum_type:
        facts |= facts_of_enum(enum, file.package)
    for message in file.message_type:
        facts |= facts_of_message(message, file.package)
    for service in file.service:
        for method in service.method:
            facts[service.name, "method", method.name] = (method.input_type, method.output_type,
                                                          method.client_streaming, method.server_streaming)
    return facts


@pytest.mark.parametrize("name", FILES)
def test_same_as_the_clients(ours, name):
    theirs = descriptor_pb2.FileDescriptorProto()
    FILES[name].DESCRIPTOR.CopyToProto(theirs)
    mine, published = facts_of_file(ours[name]), facts_of_file(theirs)
    assert len(published) > 5
    assert {k: v for k, v in mine.items() if published.get(k) != v} == {}, "other than published, or not published"
    assert {k: v for k, v in published.items() if mine.get(k) != v} == {}, "missing"


def test_reflection_v1_is_v1alpha(ours):
    alpha, v1 = (ours[f"grpc/reflection/{version}/reflection.proto"] for version in ("v1alpha", "v1"))
    renamed = descriptor_pb2.FileDescriptorProto.FromString(v1.SerializeToString())
    assert repr(facts_of_file(renamed)) == repr(facts_of_file(alpha)).replace("v1alpha", "v1")


def test_no_file_is_left_out(ours):
    assert set(ours) == set(FILES) | {"grpc/reflection/v1/reflection.proto"}
