# SPDX-License-Identifier: Apache-2.0
"""
The messages of containerd's snapshots service and of the one CRI call we make, written down here
because Debian packages no .proto of them.

    name: field:number[:type] ...

A type is string (when none is given), int64, strings (repeated), map (string to string), or a
message; [] behind it: repeated. Enumerations are int64: on the wire they are the same.
"""
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    empty_pb2,
    field_mask_pb2,
    message_factory,
)

_Field = descriptor_pb2.FieldDescriptorProto

SNAPSHOTS = "containerd.services.snapshots.v1"
SNAPSHOTS_TEXT = """
Mount: type:1 source:2 target:3 options:4:strings
Info: name:1 parent:2 kind:3:int64 labels:6:map
PrepareSnapshotRequest: snapshotter:1 key:2 parent:3 labels:4:map
ViewSnapshotRequest: snapshotter:1 key:2 parent:3 labels:4:map
MountsRequest: snapshotter:1 key:2
MountsResponse: mounts:1:Mount[]
CommitSnapshotRequest: snapshotter:1 name:2 key:3 labels:4:map
RemoveSnapshotRequest: snapshotter:1 key:2
StatSnapshotRequest: snapshotter:1 key:2
UpdateSnapshotRequest: snapshotter:1 info:2:Info update_mask:3:google.protobuf.FieldMask
InfoResponse: info:1:Info
ListSnapshotsRequest: snapshotter:1 filters:2:strings
ListSnapshotsResponse: info:1:Info[]
UsageRequest: snapshotter:1 key:2
UsageResponse: size:1:int64 inodes:2:int64
"""

CRI = "runtime.v1"
CRI_TEXT = """
ImageSpec: image:1
PullImageRequest: image:1:ImageSpec
PullImageResponse: image_ref:1
"""

Empty = empty_pb2.Empty


def messages(package, text):
    """Message classes by name."""
    file = descriptor_pb2.FileDescriptorProto(name=package, package=package, syntax="proto3")
    file.dependency.append(field_mask_pb2.DESCRIPTOR.name)
    for line in text.strip().splitlines():
        name, _, fields = line.partition(": ")
        message = file.message_type.add(name=name)
        for field in fields.split():
            _add_field(message, package, *field.split(":"))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(field_mask_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    factory = message_factory.MessageFactory(pool)
    names = [message.name for message in file.message_type]
    return {
        name: factory.GetPrototype(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in names
    }


def _add_field(message, package, name, number, kind="string"):
    repeated = kind.endswith("[]") or kind in ("strings", "map")
    field = message.field.add(name=name, number=int(number))
    field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    kind = kind.rstrip("[]")
    if kind in ("string", "strings"):
        field.type = _Field.TYPE_STRING
    elif kind == "int64":
        field.type = _Field.TYPE_INT64
    else:
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{kind}" if "." in kind else f".{package}.{kind}"
    if kind == "map":
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        for number, part in enumerate(("key", "value"), start=1):
            _add_field(entry, package, part, number)
        field.type_name = f".{package}.{message.name}.{entry.name}"
