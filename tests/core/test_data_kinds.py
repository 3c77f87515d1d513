import dataclasses
import json
from dataclasses import dataclass

import pytest

from pipeline.core.data_kinds import DATA_KINDS, IMAGES, POINTS, VOLUMES, DataKind
from pipeline.core.serialization import build_record, encode_plain


@dataclass(frozen=True)
class Inner:
    kind: DataKind


@dataclass(frozen=True)
class Outer:
    inner: Inner


@pytest.mark.parametrize("kind", DATA_KINDS.values(), ids=lambda kind: kind.name)
def test_a_record_keeps_a_kind_by_its_name(kind):
    text = json.dumps(Outer(Inner(kind)), default=encode_plain)
    assert json.loads(text) == {"inner": {"kind": kind.name}}
    assert build_record(Outer, json.loads(text)) == Outer(Inner(kind))


def test_only_volumes_have_patients_and_only_point_clouds_no_pixels():
    assert [kind.has_patients for kind in (VOLUMES, IMAGES, POINTS)] == [True, False, False]
    assert [kind.is_image for kind in (VOLUMES, IMAGES, POINTS)] == [True, True, False]
    assert dataclasses.replace(IMAGES, group="patient").has_patients
