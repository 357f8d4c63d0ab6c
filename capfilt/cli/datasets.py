"""`capfilt dataset …`: datasets as things one can make and look at."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from capfilt.cli import sharing
from capfilt.cli.console import Output, command
from capfilt.cli.options import Given, Json, Option, Shown, TextFilter, ThresholdOf, named_values
from capfilt.cli.versions import versions
from components.common.contracts import DatasetRef
from components.common.programs import command_line
from components.common.storage import open_store
from components.regeneration.config import CapfiltConfig

app = typer.Typer(help="Import datasets and look at them.", no_args_is_help=True)

StoreUri = Annotated[str, typer.Option("--store", help="Root of the store: a folder or s3://bucket/prefix.")]
RECUT = Shown(
    CapfiltConfig,
    Option("threshold", default=None),
    "policy",
    Option("text", default=None),
    "keep",
    "weigh",
    "score",
    also=("threshold_of",),
)
Limit = Annotated[int | None, typer.Option(min=1, help="The first N samples only.")]


@app.command("import-coco")
def import_coco(
    annotations: Annotated[
        str,
        typer.Option(help="COCO captions JSON or Karpathy JSON; of dataset_coco.json, FILE#SPLIT+SPLIT."),
    ],
    images: Annotated[str, typer.Option(help="Folder that its file names are relative to.")],
    store: StoreUri,
    name: Annotated[str, typer.Option(help="Name of the dataset.")] = "human",
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 1000,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Import human captions and their images."""
    with command(as_json=as_json) as out:
        from components.data.coco import import_coco as work

        run_import(out, work, "images", annotations, images, store=store, name=name, shard_size=shard_size, limit=limit)


@app.command("import-web")
def import_web(
    web: Annotated[str, typer.Option(help="Folder of img2dataset tars, shard-{00000..00127}.tar, or a list of tars.")],
    store: StoreUri,
    name: Annotated[str, typer.Option(help="Name of the dataset.")] = "web",
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Import web shards: every sample is read once, bad ones are listed."""
    with command(as_json=as_json) as out:
        from components.data.web import import_web as work

        run_import(out, work, "samples", web, store=store, name=name, limit=limit)


@app.command("import-table")
def import_table(
    table: Annotated[str, typer.Argument(help="CSV, TSV or parquet, with a header.", metavar="FILE")],
    image: Annotated[str, typer.Option(help="Column with the images' paths.")],
    text: Annotated[str, typer.Option(help="Column with their texts.")],
    store: StoreUri,
    name: Annotated[str, typer.Option(help="Name of the dataset.")] = "web",
    images: Annotated[
        str | None,
        typer.Option(help="Folder that the paths are relative to; default: the table's.", show_default=False),
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 1000,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Import a table of image files and texts as web data: rows of no use are listed with their lines.

    Interrupted, the same command goes on with the next shard. Flickr30k's, CC's and LAION's lists are such tables, once
    their images are files here.
    """
    with command(as_json=as_json) as out:
        from components.data.web import import_table as work

        run_import(
            out,
            work,
            "images",
            table,
            store=store,
            name=name,
            image=image,
            text=text,
            images_uri=images,
            shard_size=shard_size,
            limit=limit,
        )


@app.command("import-questions")
def import_questions(
    questions: Annotated[str, typer.Option(help="VQA v2's questions JSON, or a list of {image, question, answers}.")],
    images: Annotated[str, typer.Option(help="Folder that the images' names are relative to.")],
    store: StoreUri,
    annotations: Annotated[
        str | None, typer.Option(help="VQA v2's annotations JSON; none with a plain list.", show_default=False)
    ] = None,
    image_name: Annotated[
        str | None,
        typer.Option(help="VQA v2: an image's file, e.g. '{:012d}.jpg'; default: as COCO 2014's.", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the dataset.")] = "questions",
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 1000,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Import questions about images with all annotators' answers, for finetuning on VQA."""
    with command(as_json=as_json) as out:
        from components.data.vqa import import_questions as work

        run_import(
            out,
            work,
            "images",
            questions,
            images,
            store=store,
            name=name,
            annotations_uri=annotations,
            image_name=image_name,
            shard_size=shard_size,
            limit=limit,
        )


@app.command()
def show(uri: Annotated[str, typer.Argument(help="A dataset's folder or prefix.")], as_json: Json = False) -> None:
    """A dataset's version, counts and parents."""
    with command(as_json=as_json) as out:
        from capfilt.cli.dataset_tables import shown
        from capfilt.cli.tables import rendered
        from components.common.storage import normalise_uri
        from components.data.manifest import load_manifest

        manifest = load_manifest(normalise_uri(uri))
        document: dict[str, Any] = manifest.model_dump(mode="json", exclude={"shards"})
        document |= {"counts": document.pop("totals"), "shards": len(manifest.shards), "uri": normalise_uri(uri)}
        out.result(document, lambda: rendered(*shown(document)))


@app.command()
def verify(uri: Annotated[str, typer.Argument(help="A dataset's folder or prefix.")], as_json: Json = False) -> None:
    """Check every file, count and picture of a dataset against its manifest; exit code 1 if something is wrong."""
    with command(as_json=as_json) as out:
        from components.common.storage import normalise_uri
        from components.data.versions.verify import verify as work

        found = work(normalise_uri(uri))
        head = f"{found.uri}: {found.shards} shards, {found.samples:,} samples, {found.bytes:,} bytes; "
        remedy = "next: bring the files back from a copy, or make the dataset again at another place"
        told = ["WRONG", *found.problems, remedy] if found.problems else ["all is well"]
        out.result(found.model_dump(mode="json"), head + "\n".join(told))
        if found.problems:
            raise typer.Exit(1)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="One dataset, e.g. the older version.", metavar="A")],
    b: Annotated[str, typer.Argument(help="The other.", metavar="B")],
    as_json: Json = False,
) -> None:
    """How two versions differ: settings, counts, captions, with examples."""
    with command(as_json=as_json) as out:
        from capfilt.cli.dataset_tables import compared
        from capfilt.cli.tables import rendered
        from components.common.storage import normalise_uri
        from components.data.versions.diff import diff as work

        document = work(normalise_uri(a), normalise_uri(b))
        out.result(document, lambda: rendered(*compared(document)))


@app.command()
@RECUT
def recut(
    uri: Annotated[str, typer.Argument(help="A dataset made by CapFilt.")],
    out: Annotated[str, typer.Option(help="Root of the new dataset: a folder or s3://bucket/prefix.")],
    given: Given[CapfiltConfig],
    threshold_of: ThresholdOf = None,
    text_filter: TextFilter = None,
    as_json: Json = False,
) -> None:
    """Another threshold, rule or policy from the stored scores, without a model, as a new dataset."""
    with command(as_json=as_json) as output:
        more: dict[str, Any] = {
            "threshold_of": named_values(threshold_of, "--threshold-of"),
            "text_filters": named_values(text_filter, "--text-filter"),
        }
        given.config(**more)
        from capfilt.api import recut as work
        from capfilt.cli.results import told
        from capfilt.cli.tables import rendered

        with given.in_options():
            result = work(uri, out=out, **more, **given.values)
        output.result(result.dataset.model_dump(mode="json"), lambda: rendered(*told(result)))


@app.command()
def explain(
    uri: Annotated[str, typer.Argument(help="A dataset's folder or prefix.")],
    key: Annotated[str, typer.Argument(help="Key of a sample, e.g. 000010042.", metavar="KEY")],
    as_json: Json = False,
) -> None:
    """Where a sample comes from and why each of its captions was kept or not."""
    with command(as_json=as_json) as out:
        from capfilt.cli.dataset_tables import explained
        from capfilt.cli.tables import rendered
        from components.common.storage import normalise_uri
        from components.regeneration.provenance import explain as work

        document = work(normalise_uri(uri), key)
        out.result(document, lambda: rendered(*explained(document)))


@app.command()
def urls(uri: Annotated[str, typer.Argument(help="A dataset's folder or prefix.")], as_json: Json = False) -> None:
    """The tars of a dataset, one a line, as webdataset and open_clip take them."""
    with command(as_json=as_json) as out:
        from components.common.storage import normalise_uri
        from components.data.versions.handout import shard_urls

        found = shard_urls(normalise_uri(uri))
        out.result(found, "\n".join(found))


app.command()(sharing.export)
app.command()(sharing.select)
app.command("list")(sharing.list_)
app.command("add-scores")(sharing.add_scores)


def run_import(
    out: Output, work: Callable[..., DatasetRef], unit: str, *source: Any, store: str, name: str, **settings: Any
) -> None:
    """Run an import with its progress, and show the dataset."""
    from components.common.progress import Progress

    with Progress(None, unit, name) as progress:
        told = {"progress": progress.advance, "expect": progress.expect}
        ref = work(*source, store=open_store(store), name=name, **settings, **told)
    show_ref(out, ref)


def show_ref(out: Output, ref: DatasetRef) -> None:
    """A dataset that was made, as every import shows it."""
    lines = [f"{ref.name}: {ref.images:,} images, {ref.pairs:,} pairs", ref.uri, f"version {ref.digest}"]
    lines.append(f"next: {command_line('dataset', 'show', ref.uri)}")
    out.result(ref.model_dump(mode="json"), "\n".join(lines))


app.command()(versions)
