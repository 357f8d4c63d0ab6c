"""A dataset's Croissant document: what its files are and how they become records, for programs.

Croissant 1.1 (docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html), with its terms for responsible AI and PROV-O
for what the dataset was made from. Two sets of records: `samples` from the tables beside the tars, and `images`, which
names the sample that an image belongs to.
"""

from collections.abc import Sequence
from typing import Any

from components.common.redact import redact_values
from components.data.manifest import Manifest
from components.data.records import FileRecord
from components.data.versions.card import UNKNOWN, Card

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_MIME = {"jpg": "image/jpeg", "png": "image/png"}


def croissant_document(
    manifest: Manifest, card: Card, tars: Sequence[FileRecord], split: str, ending: str, scores: Sequence[str]
) -> dict[str, Any]:
    """The document as JSON values; arguments as of `card_text`."""
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": manifest.name,
        "description": (
            f"{manifest.totals.kept:,} images with {manifest.totals.kept_pairs:,} captions ({manifest.kind}); version "
            f"{manifest.digest}. What it was made from, how, and its limits: README.md"
        ),
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "license": card.licence or UNKNOWN,
        "version": f"1.0.0+{manifest.digest[:16]}",
        "prov:wasDerivedFrom": [_entity(one.role, one.name, one.digest, one.licence) for one in card.sources],
        "rai:dataLimitations": ["Captions and scores are those of the models named; no person has checked them all."],
        "distribution": [*map(_tar, tars), _tables(split), _image_files(tars, ending)],
        "recordSet": [_samples(scores), _images()],
    }
    if machines := [one.name for one in card.sources if one.role in ("captioner", "filter")]:
        document["rai:machineAnnotationTools"] = machines
    found: dict[str, Any] = redact_values(document)
    return found


def _entity(role: str, name: str, digest: str, licence: str) -> dict[str, Any]:
    return {"@type": "prov:Entity", "name": f"{role}: {name}", "identifier": digest, "license": licence}


def _tar(tar: FileRecord) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": tar.uri,
        "name": tar.uri,
        "contentUrl": tar.uri,
        "contentSize": f"{tar.bytes} B",
        "encodingFormat": "application/x-tar",
        "sha256": tar.sha256,
    }


def _tables(split: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": "tables",
        "name": "tables",
        "encodingFormat": "application/x-parquet",
        "includes": f"metadata/{split}-*.parquet",
    }


def _image_files(tars: Sequence[FileRecord], ending: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": "image-files",
        "name": "image-files",
        "containedIn": [{"@id": tar.uri} for tar in tars],
        "encodingFormat": _MIME[ending],
        "includes": f"*.{ending}",
    }


def _samples(scores: Sequence[str]) -> dict[str, Any]:
    texts = ("key", "uid", "url", "image_sha256", "format", "text")
    fields = [_field(name, "sc:Text") for name in texts]
    fields += [_field(name, "sc:Text", repeated=True) for name in ("captions", "sources")]
    fields += [_field(name, "sc:Float", repeated=True) for name in ("weights", *(f"score_{one}" for one in scores))]
    return {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": "One record per image: its captions, and per caption its source, weight and scores.",
        "key": {"@id": "samples/key"},
        "field": fields,
    }


def _field(name: str, kind: str, *, repeated: bool = False) -> dict[str, Any]:
    source = {"fileSet": {"@id": "tables"}, "extract": {"column": name}}
    more = {"repeated": True} if repeated else {}
    return {"@type": "cr:Field", "@id": f"samples/{name}", "name": name, "dataType": kind, "source": source, **more}


def _images() -> dict[str, Any]:
    files = {"@id": "image-files"}
    name = {
        "@type": "cr:Field",
        "@id": "images/sample",
        "name": "sample",
        "dataType": "sc:Text",
        "source": {
            "fileSet": files,
            "extract": {"fileProperty": "filename"},
            "transform": {"regex": r"^(.*)\.[a-z]+$"},
        },
    }
    image = {
        "@type": "cr:Field",
        "@id": "images/image",
        "name": "image",
        "dataType": "sc:ImageObject",
        "source": {"fileSet": files, "extract": {"fileProperty": "content"}},
    }
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "description": "The images, each with the last part of its sample's key.",
        "key": {"@id": "images/sample"},
        "field": [name, image],
    }
