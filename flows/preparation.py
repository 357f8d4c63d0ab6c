"""From raw data to sealed datasets and a tokenizer: generated or read, imported once, found again ever after."""

from pathlib import Path
from typing import Any

from components.common.contracts import DatasetRef, RawData, SourceFiles, TokenizerRef
from components.common.progress import Progress
from components.common.seeding import digest_of
from components.common.storage import join_uri, open_store, sha256_hex
from components.config import BootstrapConfig
from flows.stages import BootstrapContext, Stage, StageContext


def prepare(context: BootstrapContext) -> RawData:
    """The human splits and the web data as datasets."""
    config = context.config
    if config.data.source == "sampleworld":
        files = context.run(_world_stage(context))
        origin = digest_of({"world": config.world()})
    else:
        files = named_files(config)
        origin = ""
    splits = zip(("train", "val", "test"), (files.train, files.val, files.test), files.images, strict=True)
    human = [_import_human(context, name, uri, images, origin) for name, uri, images in splits]
    web = _import_web(context, files.web_folder, origin)
    return RawData(train=human[0], val=human[1], test=human[2], web=web, truth_uri=files.truth_uri)


def named_files(config: BootstrapConfig) -> SourceFiles:
    """The files a config names; without a test split the validation split is the test."""
    human, web = config.data.human, config.data.web
    train, val, images = str(human.train), str(human.val), str(human.images)
    val_images = human.val_images or images
    test = human.test or val
    test_images = human.test_images or (images if human.test else val_images)
    return SourceFiles(train=train, val=val, test=test, images=(images, val_images, test_images), web_folder=str(web))


def make_tokenizer(context: BootstrapContext, raw: RawData) -> TokenizerRef:
    """The configured vocabulary, or one trained on the human and web texts."""
    config = context.config.tokenizer
    if config.vocab_file is not None:
        depends: dict[str, Any] = {"vocabulary": sha256_hex(Path(config.vocab_file).read_bytes())}
    else:
        depends = {"size": config.vocab_size, "corpus": [raw.train.digest, raw.web.digest]}

    def work(stage: StageContext) -> TokenizerRef:
        from components.data.texts import kept_texts
        from components.model.tokenizer import BlipTokenizer

        if config.vocab_file is not None:
            tokenizer = BlipTokenizer.from_vocab_file(Path(config.vocab_file))
        else:
            tokenizer = BlipTokenizer.train(kept_texts([raw.train, raw.web]), config.vocab_size)
        tokenizer.save(stage.work_dir / "tokenizer")
        key = f"tokenizers/{tokenizer.digest[:32]}"
        for path in sorted((stage.work_dir / "tokenizer").iterdir()):
            context.store.upload(path, f"{key}/{path.name}")
        folder = join_uri(context.store.uri, key)
        return TokenizerRef(uri=folder, digest=tokenizer.digest, file_uri=join_uri(folder, "tokenizer.json"))

    return context.run(Stage("tokenizer", "tokenizer", 1, depends, TokenizerRef, work))


def world_key(config: BootstrapConfig) -> str:
    """Where the config's sample world lies in its store."""
    return f"sampleworld/{digest_of(config.world())[:32]}"


def _world_stage(context: BootstrapContext) -> Stage[SourceFiles]:
    world, key = context.config.world(), world_key(context.config)

    def work(stage: StageContext) -> SourceFiles:
        from components.data.sampleworld import SampleWorldPaths, generate_sample_world

        local = context.store.local_path(key)
        folder = local if local is not None else stage.work_dir / "world"
        paths: SampleWorldPaths = generate_sample_world(world, folder)
        if local is None:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                context.store.upload(path, f"{key}/{path.relative_to(folder).as_posix()}")

        def uri(path: Path) -> str:
            return join_uri(context.store.uri, key, path.relative_to(folder).as_posix())

        train, val, test = uri(paths.captions_train), uri(paths.captions_val), uri(paths.captions_test)
        images = (uri(paths.images),) * 3
        web, truth = uri(paths.web), uri(paths.truth)
        return SourceFiles(train=train, val=val, test=test, images=images, web_folder=web, truth_uri=truth)

    return Stage("sample-world", "sample-world", 1, {"world": world}, SourceFiles, work)


def _import_human(context: BootstrapContext, split: str, annotations: str, images: str, origin: str) -> DatasetRef:
    from components.data import coco

    data = context.config.data
    name = f"import/human-{split}"
    limit = data.human_limit if split == "train" else None
    content = origin or _human_content(annotations, images, limit)
    depends: dict[str, Any] = {"split": split, "content": content, "images": "" if origin else images}
    depends |= {"limit": limit, "shard_size": data.shard_size}

    def work(stage: StageContext) -> DatasetRef:
        with Progress(None, "images", name) as progress:
            return coco.import_coco(
                annotations,
                images,
                store=context.store,
                name=f"human-{split}",
                shard_size=data.shard_size,
                limit=limit,
                progress=progress.advance,
                expect=progress.expect,
            )

    return context.run(Stage(name, "import-human", coco.REVISION, depends, DatasetRef, work))


def _import_web(context: BootstrapContext, folder: str, origin: str) -> DatasetRef:
    from components.data import web

    limit = context.config.data.web_limit
    content = origin or [(item.key, item.size, item.etag) for item in web.list_tars(folder)[1]]
    depends = {"content": content, "folder": "" if origin else folder, "limit": limit}

    def work(stage: StageContext) -> DatasetRef:
        with Progress(None, "samples", "import/web") as progress:
            return web.import_web(
                folder,
                store=context.store,
                name="web",
                limit=limit,
                progress=progress.advance,
                expect=progress.expect,
            )

    return context.run(Stage("import/web", "import-web", web.REVISION, depends, DatasetRef, work))


def _human_content(annotations: str, images: str, limit: int | None) -> list[str]:
    """What an import depends on: the annotations, and which images are there (one that was added later counts)."""
    from components.data.coco import image_sizes, read_annotations, sizes_digest

    read = read_annotations(annotations, limit)
    return [read.sha256, sizes_digest(image_sizes(open_store(images), read))]
