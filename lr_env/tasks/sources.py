"""Sources of the data sets: published files, their formats, and the sizes of their splits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError, find
from lr_env.tasks.downloads import Archive, DataFile, read, read_archive

Arrays = tuple[NDArray[Any], NDArray[np.int64]]
"""Examples, (examples, ...) uint8 for images and int64 for text, and their labels."""

Parts = Mapping[tuple[str, ...], Arrays]
"""Names of splits -> examples that are published together and cut into these splits, in that order."""


@dataclass(frozen=True)
class DataSource:
    """A data set: its source, its splits and its scaling.

    Attributes:
        description: one line, with the reference.
        sizes: numbers of examples in "train", "val" and "test".
        input_shape: shape of one example as the network gets it; (context,) for text.
        num_classes: number of labels; for text, the size of the vocabulary.
        fetch: function that returns the raw examples.
        scale: the grey level that becomes 1.
        mean, std: mean and standard deviation of the scaled training inputs, one number for each channel, or one for
            all; the network gets (x / scale - mean) / std.
        tokens: whether examples are text: inputs and labels are (examples, context) int64, each label is the token
            after its input, and nothing is scaled.
    """

    description: str
    sizes: Mapping[str, int]
    input_shape: tuple[int, ...]
    num_classes: int
    fetch: Callable[[], Parts]
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    tokens: bool = False

    @property
    def positions(self) -> int:
        """Number of predictions for an example: one, or one for each token of the context."""
        return self.input_shape[0] if self.tokens else 1

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the logits of one example: (classes,), or (context, classes) for text."""
        return (*self.input_shape, self.num_classes) if self.tokens else (self.num_classes,)


def find_source(name: str) -> DataSource:
    """Return the data set of that name.

    Raises:
        UserError: there is none.
    """
    return find("data set", name, SOURCES)


# Digits ------------------------------------------------------------------------------------------------------------


def _digits() -> Parts:
    from sklearn.datasets import load_digits  # here, because the import takes longer than reading the data

    inputs, labels = load_digits(return_X_y=True)
    return {("test", "val", "train"): (np.asarray(inputs, dtype=np.uint8), np.asarray(labels, dtype=np.int64))}


def _digit_tokens() -> Parts:
    """Turn each image into the text of its 64 grey levels, row by row: a network predicts each from those before."""
    ((names, (pixels, _)),) = _digits().items()
    levels = pixels.astype(np.int64)
    return {names: (levels[:, :-1], levels[:, 1:])}


# MNIST and Fashion-MNIST -------------------------------------------------------------------------------------------


def _idx(content: bytes) -> NDArray[np.uint8]:
    """Read an array in the IDX format: two zero bytes, type 8 (uint8), number of dimensions, sizes, data."""
    dims = content[3]
    shape = np.frombuffer(content, ">u4", count=dims, offset=4)
    return np.frombuffer(content, np.uint8, count=math.prod(shape.tolist()), offset=4 + 4 * dims).reshape(shape)


def _idx_parts(idx_files: Mapping[str, DataFile]) -> Parts:
    arrays = {key: _idx(read(file)) for key, file in idx_files.items()}
    return {
        ("val", "train"): (arrays["train-images"], arrays["train-labels"].astype(np.int64)),
        ("test",): (arrays["t10k-images"], arrays["t10k-labels"].astype(np.int64)),
    }


def _idx_files(folders: tuple[str, ...], url: str, hashes: Mapping[str, tuple[str, str]]) -> dict[str, DataFile]:
    """Return the four files; the hashes are those of each published file and of its content."""
    files = {}
    for key, (sha256, content_sha256) in hashes.items():
        name = f"{key}-idx{3 if key.endswith('images') else 1}-ubyte.gz"
        files[key] = DataFile(name, folders, url + name, sha256, content_sha256)
    return files


MNIST_FILES: Mapping[str, DataFile] = _idx_files(
    ("MNIST/raw", "mnist"),
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    {
        "train-images": (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        "train-labels": (
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        "t10k-images": (
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        "t10k-labels": (
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    },
)

FASHION_FILES: Mapping[str, DataFile] = _idx_files(
    ("FashionMNIST/raw", "fashion-mnist"),
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    {
        "train-images": (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        "train-labels": (
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        "t10k-images": (
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        "t10k-labels": (
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
)


# CIFAR -------------------------------------------------------------------------------------------------------------

_CIFAR_IMAGE = 3 * 32 * 32
"""Number of bytes of an image: 1,024 red, 1,024 green and 1,024 blue levels."""


@dataclass(frozen=True)
class Cifar:
    """A binary version of CIFAR: records of one or two labels, of which the last counts, and an image.

    Attributes:
        name: of the data set.
        archive: the published file.
        train: its files with training images, in order.
        test: its file with test images.
        labels: bytes before an image.
        classes: number of classes.
    """

    name: str
    archive: Archive
    train: tuple[str, ...]
    test: str
    labels: int
    classes: int

    @property
    def record(self) -> int:
        """Bytes of an image and its labels."""
        return self.labels + _CIFAR_IMAGE

    def parts(self) -> Parts:
        """Read the images, (images, 3, 32, 32) uint8, and their labels.

        Raises:
            UserError: as by `downloads.read_archive`; also for a label that there is not.
        """
        batches = {}
        for name, content in read_archive(self.archive).items():
            records = np.frombuffer(content, np.uint8).reshape(-1, self.record)
            if records[:, self.labels - 1].max() >= self.classes:
                raise UserError(
                    f"{name} has labels above {self.classes - 1}, so it is no batch of {self.name}: replace the folder "
                    f"{self.archive.unpacked!r} with that of the published archive ({self.archive.url})"
                )
            batches[name] = records
        train = np.concatenate([batches[name] for name in self.train])
        return {
            names: self._arrays(part) for names, part in ((("val", "train"), train), (("test",), batches[self.test]))
        }

    def _arrays(self, records: NDArray[np.uint8]) -> Arrays:
        return records[:, self.labels :].reshape(-1, 3, 32, 32), records[:, self.labels - 1].astype(np.int64)


def _cifar(name: str, classes: int, labels: int, folder: str, sha256: str, images: Mapping[str, int]) -> Cifar:
    """A published CIFAR; `images` are those of each file, of which the last has the test images."""
    *train, test = images
    archive = f"{name.lower()}-binary.tar.gz"
    return Cifar(
        name,
        Archive(
            archive,
            ("", name.lower().replace("-", "")),
            f"https://www.cs.toronto.edu/~kriz/{archive}",
            sha256,
            folder,
            {file: count * (labels + _CIFAR_IMAGE) for file, count in images.items()},
        ),
        tuple(train),
        test,
        labels,
        classes,
    )


CIFAR10 = _cifar(
    "CIFAR-10",
    10,
    1,
    "cifar-10-batches-bin",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    dict.fromkeys((*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"), 10_000),
)

CIFAR100 = _cifar(
    "CIFAR-100",
    100,
    2,
    "cifar-100-binary",
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    {"train.bin": 50_000, "test.bin": 10_000},
)


def _cifar_source(cifar: Cifar, mean: tuple[float, ...], std: tuple[float, ...]) -> DataSource:
    return DataSource(
        f"60,000 colour photographs of {cifar.classes} classes, 32x32 "
        "(Krizhevsky, Learning Multiple Layers of Features, 2009)",
        {"train": 45_000, "val": 5_000, "test": 10_000},
        (3, 32, 32),
        cifar.classes,
        cifar.parts,
        scale=255.0,
        mean=mean,
        std=std,
    )


# Tiny Shakespeare --------------------------------------------------------------------------------------------------

SHAKESPEARE_FILE = DataFile(
    "input.txt",
    ("tinyshakespeare",),
    "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/"
    "data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)


def _shakespeare(context: int) -> Parts:
    return _text_parts(read(SHAKESPEARE_FILE), context)


def _text_parts(content: bytes, context: int) -> Parts:
    """Cut a text: the first 90 % for training, the next 5 % for validation, the rest for tests.

    Args:
        content: a text with one byte for each character. The token of a character is its rank among the distinct ones.
        context: number of characters in an example. Examples do not overlap, and a label is never from another split:
            the last characters of a split, too few for an example and the label after it, are dropped.
    """
    tokens = np.unique(np.frombuffer(content, np.uint8), return_inverse=True)[1].astype(np.int64)
    cuts = len(tokens) * 90 // 100, len(tokens) * 95 // 100
    parts = {}
    for split, part in zip(("train", "val", "test"), np.split(tokens, cuts), strict=True):
        used = (len(part) - 1) // context * context
        parts[split,] = part[:used].reshape(-1, context), part[1 : used + 1].reshape(-1, context)
    return parts


def _shakespeare_source(context: int, train: int, val: int, test: int) -> DataSource:
    return DataSource(
        f"1.1 million characters of Shakespeare's plays, {context} at a time (Karpathy, char-rnn, 2015)",
        {"train": train, "val": val, "test": test},
        (context,),
        65,
        partial(_shakespeare, context),
        tokens=True,
    )


_DIGITS = DataSource(
    "1,797 handwritten digits, 8x8, from scikit-learn (Alpaydin & Kaynak, UCI, 1998)",
    {"train": 997, "val": 400, "test": 400},
    (64,),
    10,
    _digits,
    scale=16.0,
    mean=(0.3053,),
    std=(0.3760,),
)

SOURCES: Mapping[str, DataSource] = {
    "digits": _DIGITS,
    "digits-8x8": replace(_DIGITS, description=f"{_DIGITS.description}, as images", input_shape=(1, 8, 8)),
    "digits-tokens": DataSource(
        f"{_DIGITS.description}, as text of 17 grey levels (after Chen et al., Image GPT, ICML 2020)",
        _DIGITS.sizes,
        (63,),
        17,
        _digit_tokens,
        tokens=True,
    ),
    "mnist": DataSource(
        "70,000 handwritten digits, 28x28 (LeCun, Bottou, Bengio & Haffner, Proc. IEEE, 1998)",
        {"train": 50_000, "val": 10_000, "test": 10_000},
        (1, 28, 28),
        10,
        partial(_idx_parts, MNIST_FILES),
        scale=255.0,
        mean=(0.1307,),
        std=(0.3081,),
    ),
    "fashion-mnist": DataSource(
        "70,000 images of clothing, 28x28 (Xiao, Rasul & Vollgraf, arXiv 1708.07747)",
        {"train": 50_000, "val": 10_000, "test": 10_000},
        (1, 28, 28),
        10,
        partial(_idx_parts, FASHION_FILES),
        scale=255.0,
        mean=(0.2860,),
        std=(0.3530,),
    ),
    "cifar10": _cifar_source(CIFAR10, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "cifar100": _cifar_source(CIFAR100, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
    "tiny-shakespeare-64": _shakespeare_source(64, 15_685, 871, 871),
    "tiny-shakespeare-256": _shakespeare_source(256, 3_921, 217, 217),
}
