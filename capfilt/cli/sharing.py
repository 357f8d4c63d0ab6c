"""`capfilt dataset export / select / list / add-scores`: versions out to others, their lists and scores in."""

from pathlib import Path
from typing import Annotated

import typer

from capfilt.cli.console import command, counting
from capfilt.cli.options import Json, named_values
from components.common.errors import ConfigError
from components.common.programs import command_line
from components.data.scores import Kind
from components.data.versions.scores import Texts

Uri = Annotated[str, typer.Argument(help="A dataset's folder or prefix.")]
NewRoot = Annotated[str, typer.Option("--out", help="Root of the new dataset: a folder or s3://bucket/prefix.")]


def export(
    uri: Uri,
    out: Annotated[
        str | None,
        typer.Argument(
            help="Where to: an empty folder or s3://bucket/prefix, or one begun before.", show_default=False
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Name of the split.")] = "train",
    license: Annotated[  # noqa: A002 - the option's name
        str, typer.Option(help="The dataset's own licence as the Hugging Face hub spells it.", show_default="unknown")
    ] = "",
    license_of: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=LICENCE",
            help="Licence of what it was made from (captioner, filter, web …), where a model's own card does not tell.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Instead: copy the tars alone, as 00000.tar …, to this folder.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Export what a version kept for datasets.load_dataset, webdataset, open_clip and mlcroissant, with its card.

    Interrupted, the same command goes on. Images are written byte for byte; docs/sharing.md says what the files are.
    """
    with command(as_json=as_json) as output:
        from components.common.storage import normalise_uri

        if (out is None) == (folder is None):
            raise ConfigError(
                "where to? Give a place, capfilt dataset export URI PLACE, or --out FOLDER for tars alone"
            )
        if folder is not None:
            from components.data.versions.handout import export_shards

            made = [str(path) for path in export_shards(normalise_uri(uri), folder)]
            output.result(made, f"{len(made)} tars in {folder}")
            return
        from capfilt.sharing import export as work

        licenses = named_values(license_of, "--license-of")
        with counting("images", "export", _kept(uri)) as count:
            found = work(uri, out or "", split=split, license=license, licenses=licenses, progress=count)
        samples = sum(one.samples for one in found.shards)
        text = f"{samples:,} images in {len(found.shards)} tars in {out}; read its README.md before handing it on"
        output.result(found.model_dump(mode="json"), text)


def select(
    uri: Uri,
    keys: Annotated[
        str, typer.Option(help="List: a .npy of uids as DataComp publishes them, or text with a key or uid a line.")
    ],
    out: NewRoot,
    as_json: Json = False,
) -> None:
    """A new version with the samples of a list only, without a model and without web shards."""
    with command(as_json=as_json) as output:
        from capfilt.sharing import select as work

        with counting("images", "select", _kept(uri)) as count:
            found = work(uri, keys, out=out, progress=count)
        ref = found.dataset
        text = (
            f"{ref.name}: {ref.images:,} images, {ref.pairs:,} pairs; of {found.listed:,} names {found.missing:,} are "
            f"not there\n{ref.uri}\nversion {ref.digest}\nnext: {command_line('browse', ref.uri)}"
        )
        output.result(found.model_dump(mode="json"), text)


def list_(
    uri: Uri,
    target: Annotated[str, typer.Argument(metavar="FILE", help="FILE.npy: uids as DataComp's; else a key a line.")],
    as_json: Json = False,
) -> None:
    """Write the uids or keys of what a version kept, for `select` and for DataComp's tools."""
    with command(as_json=as_json) as output:
        from components.common.storage import normalise_uri
        from components.data.versions.selecting import export_list

        with counting("images", "list", _kept(uri)) as count:
            listed = export_list(normalise_uri(uri), target, progress=count)
        text = f"{listed:,} samples in {target}"
        if not target.endswith(".npy"):
            text += f"\nnext: {command_line('dataset', 'select', uri, '--keys', target, '--out', 'selected')}"
        output.result({"listed": listed, "file": target}, text)


def add_scores(
    uri: Uri,
    table: Annotated[str, typer.Argument(metavar="FILE", help="Parquet with a row per image.")],
    score: Annotated[
        list[str], typer.Option(metavar="NAME=COLUMN", help="Name of the score and the column that has it; repeatable.")
    ],
    out: NewRoot,
    key: Annotated[str, typer.Option(help="Column with the images' keys.")] = "key",
    kind: Annotated[Kind, typer.Option(help="What the values are.")] = "logit",
    texts: Annotated[Texts, typer.Option(help="Captions that they are about; all: they are the image's.")] = "all",
    as_json: Json = False,
) -> None:
    """A new version with scores that another program found, for `recut --keep` and `--weigh`."""
    with command(as_json=as_json) as output:
        from capfilt.sharing import add_scores as work

        columns = named_values(score, "--score")
        found = work(uri, table, columns, out=out, key=key, kind=kind, texts=texts)
        told = f"{found.captions - found.missing:,} of {found.captions:,} captions have their scores"
        text = f"{told}; {found.unused:,} keys of the file are not there\n{found.dataset.uri}"
        text += f"\nversion {found.dataset.digest}\nnext: {command_line('dataset', 'show', found.dataset.uri)}"
        output.result(found.model_dump(mode="json"), text)


def _kept(uri: str) -> int:
    """Images that a dataset kept."""
    from components.common.storage import normalise_uri
    from components.data.manifest import load_manifest

    return load_manifest(normalise_uri(uri)).totals.kept
