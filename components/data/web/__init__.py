"""The one reader of web shards: which tars there are, what they are called, what is a sample, which texts it has.

The import (`importing`) and CapFilt (`components.regeneration`) both read by these rules, so that rounds are compared
on the same texts. What cannot be used is counted with a reason; nothing is passed over without a word.

Tars (`listing`)
  a folder or prefix             every `.tar` below it, subfolders too, in order of their keys: what lies there is meant
  one `.tar`                     that one
  a brace range, a list          the tars it names, in its order (`named`); all of them must be there
  `._x.tar`, hidden folders      no shards: macOS and editors leave them
  `<dataset>/shards/*.tar`       not read where `<dataset>/plan.json` lies: CapFilt's own output below its input (told)
  `.tar.gz`, `.tgz`, `.tar.zst`  not read, named with the remedy: tars are used in place and read at any byte, which
                                 packed ones do not allow
  a shard's name                 `00000` for `00000.tar`; other letters and subfolders give readable letters and a hash:
                                 one tar more never renames the others, and no two names collide
Members and samples (`components.data.shards`)
  key and extension              as WebDataset has them: the key ends at the first dot of the file's name
  members apart in the tar       joined by key (`tar cf x.tar *.jpg *.txt`); only the index is held in memory
  an extension twice             a second sample of this key: `duplicate_key`, wherever it lies
  a key in an earlier shard      `duplicate_key`; the first sample counts, whatever became of it
  `a//b.jpg`, `./b.jpg`          their own keys (`a//b`, `./b`), as webdataset has them: a key is text, not a path
  names in any script            keys as they are
  `._a.jpg`, `.x`, `__meta__`    belong to no sample, nor do names without a dot, directories and volume labels
  links, devices, `..`, `/a`     spoil their sample (`link`, `device`, `parent_name`, `absolute_name` …)
  a tar that is cut or damaged   its whole samples count, the rest is `broken_shard`; packed data under the name `.tar`
                                 is called what it is
Images (`samples`)
  one image member               the image: `k.jpg`, or `k.v2.jpg` (a key with a dot)
  none, or several               `no_image`, `several_images`
  anything wrong with it         the reason of `components.data.decoding`
Texts (`texts`)
  where                          `caption` (else `captions`) of the json, or the json itself if it is a text or a list;
                                 else the txt; where one is bad, the other. `v2.json`, `v2.txt` beside `v2.jpg` go first
  a txt or json by another name  taken if it is the only one (`k.outputs.txt`); several txt: `several_texts`
  lists                          every usable text once
  white space, control letters   become single spaces: a caption is one line, and duplicates are seen
  byte order marks               are no letters; UTF-16 with its mark is read
  no letter and no digit (`!!!`) `empty_text`: it says nothing of the image
  longer than 20,000 bytes       `text_too_long`
  NaN, Infinity in a json        null, and so never written again
  no usable text                 the image stays, its text is dropped with the reason: CapFilt can write one
"""

from components.data.web.files import import_files
from components.data.web.importing import REVISION, import_web
from components.data.web.listing import WebTar, check_tars, list_tars
from components.data.web.table import import_table

__all__ = [
    "REVISION", "WebTar", "check_tars", "import_files", "import_table", "import_web", "list_tars",
]  # fmt: skip
