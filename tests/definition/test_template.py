"""What makes a definition that of a template, and what makes it an ordinary one again."""

import pytest

from virtomate.definition import codec
from virtomate.definition.codec import Definition
from virtomate.definition.template import (
    NAMESPACE,
    MarkedImage,
    TemplateMark,
    as_ordinary,
    as_template,
    is_template,
    read_mark,
)

UUID = "11111111-2222-4333-8444-555555555555"
MARK = TemplateMark(UUID, True, (MarkedImage("/pool/a <&> b.qcow2", 0o664, 12), MarkedImage("/pool/c", 0o600, 13)))
LABELS = {
    "none": "",
    "dynamic": "<seclabel type='dynamic' model='dac' relabel='yes'/>",
    "two": "<seclabel type='dynamic' model='selinux'/><seclabel type='none' model='dac'/>",
    "without a driver": "<seclabel type='none'/>",
}
METADATA = {
    "none": "",
    "empty": "<metadata/>",
    "vendor": "<metadata>\n    <a:b xmlns:a='urn:a'><!-- c --><a:d/></a:b>\n  </metadata>",
}


def definition(labels: str = "", metadata: str = "") -> Definition:
    """A small definition."""
    return codec.parse_definition(f"<domain type='qemu'><name>t</name><uuid>{UUID}</uuid>{metadata}{labels}</domain>")


@pytest.mark.parametrize("metadata", METADATA)
@pytest.mark.parametrize("labels", LABELS)
def test_the_way_back_is_exact(labels: str, metadata: str) -> None:
    """A template has one label more, or one with a driver that does not exist, and a mark; nothing of that stays."""
    before = definition(LABELS[labels], METADATA[metadata])

    template = codec.parse_definition(codec.unparse_definition(as_template(before, MARK)))

    assert (is_template(before.domain), is_template(template.domain)) == (False, True)
    mark = read_mark(template)
    assert mark == MARK._replace(labels_driver=labels == "without a driver", had_metadata=metadata == "empty")
    drivers = [label.get("@model", "") for label in template.domain["seclabel"]]
    assert all(drivers), "libvirt takes a label without a driver only alone"
    assert sum("virtomate domain-template --undo" in driver for driver in drivers) == 1
    after = as_ordinary(template)
    assert after.domain == before.domain
    assert after.metadata == before.metadata
    assert read_mark(after) is None


def test_a_template_of_a_template_has_one_mark() -> None:
    """What a killed run has marked is replaced."""
    first = as_template(definition(), MARK)

    again = as_template(first, MARK._replace(autostart=False))

    assert len(again.domain["seclabel"]) == 1
    assert (again.metadata or "").count(NAMESPACE) == 1
    assert read_mark(again) == MARK._replace(autostart=False)


def test_a_mark_that_was_copied_along_says_nothing() -> None:
    """Another tool that copies the definition copies label and mark; both go, and the mark is not believed."""
    template = as_template(definition(), MARK)
    copied = template._replace(domain={**template.domain, "uuid": UUID.replace("1", "9")})

    assert (is_template(copied.domain), read_mark(copied)) == (True, None)
    after = as_ordinary(copied)
    assert (is_template(after.domain), after.metadata) == (False, None)


@pytest.mark.parametrize(
    "element",
    [
        "<x:template xmlns:x='urn:virtomate:template:1'/>",
        f"<x:template xmlns:x='urn:virtomate:template:1' schema='2' uuid='{UUID}' autostart='no'/>",
        f"<template xmlns='urn:virtomate:template:1' schema='1' uuid='{UUID}' autostart='no'><image a='/'/></template>",
    ],
)
def test_a_mark_that_cannot_be_read_says_nothing(element: str) -> None:
    """Somebody else may write there."""
    assert read_mark(definition(metadata=f"<metadata>{element}</metadata>")) is None
