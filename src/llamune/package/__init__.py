"""The folder to share or sell: weights, card, licences, notices, bill of materials, checksums."""

from llamune.package.bom import bill_of_materials
from llamune.package.contents import (
    Change,
    Contents,
    Kind,
    PackageError,
    check,
    licence_texts,
    suggested_name,
    trademark_remark,
)
from llamune.package.verifying import Verified, verify_package
from llamune.package.writing import BOM, CHECKSUMS, MANIFEST, SIGNATURE, write_package

__all__ = [
    "BOM",
    "CHECKSUMS",
    "MANIFEST",
    "SIGNATURE",
    "Change",
    "Contents",
    "Kind",
    "PackageError",
    "Verified",
    "bill_of_materials",
    "check",
    "licence_texts",
    "suggested_name",
    "trademark_remark",
    "verify_package",
    "write_package",
]
