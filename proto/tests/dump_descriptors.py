"""Writes the descriptors of the Dapr Python SDK to stdout, as a serialized FileDescriptorSet."""

import importlib
import pkgutil
import sys

import dapr.proto
from google.protobuf.descriptor_pb2 import FileDescriptorSet

files = FileDescriptorSet()
seen = set()


def add(descriptor):
    if descriptor.name in seen:
        return
    seen.add(descriptor.name)
    for dependency in descriptor.dependencies:
        add(dependency)
    descriptor.CopyToProto(files.file.add())


for module in pkgutil.walk_packages(dapr.proto.__path__, "dapr.proto."):
    if module.name.endswith("_pb2"):
        add(importlib.import_module(module.name).DESCRIPTOR)

sys.stdout.buffer.write(files.SerializeToString())
