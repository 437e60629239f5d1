"""Data: splits that never move, and variations of the training split."""

from __future__ import annotations

import os
import random
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from lr_env.errors import UserError
from lr_env.tasks import data, downloads, find_task, sources
from lr_env.tasks.downloads import Published
from lr_env.tasks.sources import CIFAR10, CIFAR100, FASHION_FILES, MNIST_FILES, SHAKESPEARE_FILE, SOURCES, DataSource
from tests.test_cli import lr_env

# Splits ------------------------------------------------------------------------------------------------------------


def source(train: int, val: int, test: int) -> DataSource:
    return replace(SOURCES["digits"], sizes={"train": train, "val": val, "test": test}, input_shape=(1,))


def numbered(first: int, count: int) -> sources.Arrays:
    """Examples whose image and label are their own number."""
    return np.arange(first, first + count)[:, None], np.arange(first, first + count)


def test_a_pool_is_cut_into_disjoint_shuffled_splits() -> None:
    splits = data._cut(source(60, 25, 15), {("test", "val", "train"): numbered(0, 100)})
    assert {name: len(labels) for name, (_, labels) in splits.items()} == {"train": 60, "val": 25, "test": 15}
    rows = np.concatenate([labels for _, labels in splits.values()])
    assert sorted(rows) == list(range(100))
    assert not np.array_equal(rows, np.sort(rows))
    for images, labels in splits.values():
        np.testing.assert_array_equal(images[:, 0], labels)


def test_an_official_test_set_is_left_as_it_is() -> None:
    splits = data._cut(source(60, 40, 30), {("val", "train"): numbered(0, 100), ("test",): numbered(1000, 30)})
    np.testing.assert_array_equal(splits["test"][1], np.arange(1000, 1030))
    assert sorted(np.concatenate([splits["train"][1], splits["val"][1]])) == list(range(100))


def test_splits_published_apart_are_shuffled_but_not_mixed() -> None:
    parts = {("train",): numbered(0, 60), ("val",): numbered(100, 25), ("test",): numbered(200, 15)}
    splits = data._cut(source(60, 25, 15), parts)
    for name, first, count in (("train", 0, 60), ("val", 100, 25)):
        labels = splits[name][1].tolist()
        assert sorted(labels) == list(range(first, first + count)) != labels
    assert splits["test"][1].tolist() == list(range(200, 215))


@pytest.mark.parametrize("sizes", [(60, 25, 14), (60, 25, 16), (61, 25, 15)])
def test_data_of_another_size_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="another version"):
        data._cut(source(*sizes), {("test", "val", "train"): numbered(0, 100)})


def test_digits_are_split_as_ever_and_no_global_generator_is_touched() -> None:
    def generators() -> tuple[object, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    import sklearn.datasets  # noqa: F401 (its first import draws a random number, by way of rich)

    data.forget()
    before = generators()
    digits = data.load("digits")
    data.load("digits", train_fraction=0.5, label_noise=0.1)
    assert generators() == before
    assert {name: len(split) for name, split in digits.splits.items()} == {"train": 997, "val": 400, "test": 400}
    # Recorded when the task was defined: results are comparable only as long as it stays.
    assert digits.sha256 == "49aea0257d8d91ff0efe5358745d695cf7e1bbb205606b61fee503bc412b93b5"
    train = digits.splits["train"]
    assert train.inputs.shape == (997, 64)
    assert train.inputs.dtype == torch.float32
    assert abs(float(train.inputs.mean())) < 0.01
    assert abs(float(train.inputs.std()) - 1) < 0.01


# Published files, where they are at hand: nothing is downloaded for a test ------------------------------------------

FILES: dict[str, tuple[Published, ...]] = {
    "mnist": tuple(MNIST_FILES.values()),
    "fashion-mnist": tuple(FASHION_FILES.values()),
    "cifar10": (CIFAR10.archive,),
    "cifar100": (CIFAR100.archive,),
    "tiny-shakespeare-64": (SHAKESPEARE_FILE,),
    "tiny-shakespeare-256": (SHAKESPEARE_FILE,),
}


def at_hand(name: str) -> data.Data:
    if not os.environ.get("LR_ENV_DATA"):
        pytest.skip(f"LR_ENV_DATA is not set: no {name} to test on")
    root = Path(os.environ["LR_ENV_DATA"]).expanduser()
    if not root.is_dir() or not all(downloads._find(root, file, "") for file in FILES[name]):
        pytest.skip(f"LR_ENV_DATA has no {name} to test on")
    return data.load(name)


def test_every_source_that_is_read_from_files_is_tested_on_them() -> None:
    assert {*FILES, "digits", "digits-8x8", "digits-tokens"} == {
        name for name in SOURCES if not name.startswith("test-")
    }


@pytest.mark.parametrize(
    ("name", "mean", "std", "expected", "published"),
    [
        ("mnist", 0.1307, 0.3081, "9257a259865a76eea6ca2d451c9c13ebb5b496a255bd252a57470ec14c2f33fd", MNIST_FILES),
        (
            "fashion-mnist",
            0.2860,
            0.3530,
            "df0973eb337ee0445363ecc04462e42e32602b32afc782384e34f2519c582584",
            FASHION_FILES,
        ),
    ],
    ids=["mnist", "fashion-mnist"],
)
def test_idx_data_are_split_as_ever(
    name: str, mean: float, std: float, expected: str, published: dict[str, downloads.DataFile]
) -> None:
    loaded = at_hand(name)
    sizes = {name: len(split) for name, split in loaded.splits.items()}
    assert sizes == {"train": 50_000, "val": 10_000, "test": 10_000}
    assert loaded.sha256 == expected
    images = downloads.read(published["t10k-images"])[16:]
    labels = downloads.read(published["t10k-labels"])[8:]
    test = loaded.splits["test"]
    assert bytes(test.labels.tolist()) == labels
    grey = (test.inputs[:500] * std + mean) * 255
    np.testing.assert_allclose(grey.numpy().ravel(), np.frombuffer(images, np.uint8, 500 * 784), atol=1e-3)
    train = loaded.splits["train"]
    assert train.inputs.shape == (50_000, 1, 28, 28)
    assert abs(float(train.inputs.mean())) < 0.01
    assert abs(float(train.inputs.std()) - 1) < 0.01


def test_cifar_is_normalised_by_channel() -> None:
    loaded = at_hand("cifar10")  # of which there are several copies, so that no hash is expected
    assert {name: len(split) for name, split in loaded.splits.items()} == {
        "train": 45_000,
        "val": 5_000,
        "test": 10_000,
    }
    train = loaded.splits["train"]
    assert train.inputs.shape == (45_000, 3, 32, 32)
    assert train.labels.bincount().min() > 4_300
    assert train.inputs.mean((0, 2, 3)).abs().max() < 0.01
    assert (train.inputs.std((0, 2, 3)) - 1).abs().max() < 0.02


@pytest.mark.parametrize(
    ("context", "sizes", "expected"),
    [
        (64, [15_685, 871, 871], "c4cc455b0ab833ce6c72c7de1710158a272e3030a3293c81d9a59d1ba3eb1f49"),
        (256, [3_921, 217, 217], "1fd49d4e7e6a6460da3e346efcba56d65befcd141909f8fcbafba4b18ef767c7"),
    ],
)
def test_shakespeare_is_split_as_ever(context: int, sizes: list[int], expected: str) -> None:
    loaded = at_hand(f"tiny-shakespeare-{context}")
    assert [len(split) for split in loaded.splits.values()] == sizes
    assert loaded.sha256 == expected
    letters = sorted(set(downloads.read(SHAKESPEARE_FILE).decode("ascii")))
    text = downloads.read(SHAKESPEARE_FILE).decode("ascii")
    assert len(letters) == 65
    first = "".join(letters[token] for token in loaded.splits["test"].inputs.ravel().tolist())
    assert text[1_059_624:].startswith(first)
    assert len(text) - 1_059_624 - len(first) <= context
    for split, passage in (("train", text[:1_003_854]), ("val", text[1_003_854:1_059_624])):
        inputs = loaded.splits[split].inputs
        assert inputs.dtype == torch.int64
        blocks = ["".join(letters[token] for token in row) for row in inputs.tolist()]
        there = [passage[at : at + context] for at in range(0, len(passage) - context, context)]
        assert sorted(blocks) == sorted(there)
        assert blocks != there
        labels = loaded.splits[split].labels
        assert torch.equal(labels[:, :-1], inputs[:, 1:])


# Readers -----------------------------------------------------------------------------------------------------------


def test_idx_files_are_read() -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = struct.pack(">4B3I", 0, 0, 8, 3, 2, 3, 4) + values.tobytes()
    np.testing.assert_array_equal(sources._idx(content), values)


SMALL_CIFAR = replace(
    CIFAR10, archive=replace(CIFAR10.archive, members=dict.fromkeys(CIFAR10.archive.members, 20 * 3073))
)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of batches with 20 images each: red is the number of the image, green that of the batch, blue 200."""
    monkeypatch.setenv("LR_ENV_DATA", str(tmp_path))
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate(SMALL_CIFAR.archive.members):
        records = [bytes([image % 10, *[image] * 1024, *[number] * 1024, *[200] * 1024]) for image in range(20)]
        (folder / name).write_bytes(b"".join(records))
    return folder


def test_cifar_batches_are_read(cifar: Path) -> None:
    parts = SMALL_CIFAR.parts()
    pool, labels = parts["val", "train"]
    assert pool.shape == (100, 3, 32, 32)
    for channel, expected in enumerate([np.tile(np.arange(20), 5), np.repeat(np.arange(5), 20), np.full(100, 200)]):
        assert (pool[:, channel] == expected[:, None, None]).all()
    np.testing.assert_array_equal(labels, np.arange(100) % 20 % 10)
    test, labels = parts["test",]
    assert (test[:, 1] == 5).all()
    np.testing.assert_array_equal(labels, np.arange(20) % 10)


def test_each_channel_has_its_own_mean_and_deviation(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(
        SOURCES["cifar10"],
        sizes={"train": 90, "val": 10, "test": 20},
        fetch=lambda: SMALL_CIFAR.parts(),
    )
    monkeypatch.setitem(SOURCES, "small-cifar", small)
    test = data.load("small-cifar", dtype=torch.float64).splits["test"].inputs
    levels = test[7].amax((1, 2))
    assert torch.equal(levels, test[7].amin((1, 2)))
    expected = [(7 / 255 - 0.4914) / 0.2470, (5 / 255 - 0.4822) / 0.2435, (200 / 255 - 0.4465) / 0.2616]
    assert levels.tolist() == pytest.approx(expected, rel=1e-12)


def test_a_batch_with_another_label_is_refused(cifar: Path) -> None:
    path = cifar / "data_batch_3.bin"
    content = bytearray(path.read_bytes())
    content[3073] = 10
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^data_batch_3\.bin has labels above 9[^\n]*replace the folder[^\n]*$"):
        SMALL_CIFAR.parts()


def test_of_the_two_labels_of_cifar_100_the_fine_one_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LR_ENV_DATA", str(tmp_path))
    folder = tmp_path / "cifar100" / "cifar-100-binary"
    folder.mkdir(parents=True)
    small = {"train.bin": 30, "test.bin": 7}
    for number, (name, images) in enumerate(small.items()):
        records = [bytes([image % 20, image % 100, *[image] * 1024, *[number] * 2048]) for image in range(images)]
        (folder / name).write_bytes(b"".join(records))
    made = replace(
        CIFAR100, archive=replace(CIFAR100.archive, members={name: count * 3074 for name, count in small.items()})
    )
    parts = made.parts()
    pool, labels = parts["val", "train"]
    assert pool.shape == (30, 3, 32, 32)
    np.testing.assert_array_equal(labels, np.arange(30))
    assert (pool[:, 0] == np.arange(30)[:, None, None]).all()
    assert parts["test",][0][:, 2].max() == 1
    (folder / "test.bin").write_bytes(bytes([0, 100, *[0] * 3072]) * 7)
    with pytest.raises(UserError, match=r"^test\.bin has labels above 99, so it is no batch of CIFAR-100"):
        made.parts()


@pytest.mark.parametrize("length", [1000, 1001, 1019, 1020])
@pytest.mark.parametrize("context", [1, 7, 49])
def test_text_is_cut_in_place_and_no_label_is_from_another_split(length: int, context: int) -> None:
    content = np.random.RandomState(0).choice(list(b"adgz"), length).astype(np.uint8)
    tokens = np.searchsorted(list(b"adgz"), content)
    begin = 0
    parts = sources._text_parts(content.tobytes(), context)
    for split, end in (("train", length * 90 // 100), ("val", length * 95 // 100), ("test", length)):
        inputs, labels = parts[split,]
        assert inputs.dtype == labels.dtype == np.int64
        assert inputs.shape == labels.shape
        np.testing.assert_array_equal(inputs.ravel(), tokens[begin : begin + inputs.size])
        np.testing.assert_array_equal(labels.ravel(), tokens[begin + 1 : begin + 1 + inputs.size])
        assert begin + inputs.size < end  # so the last label is of this split, too
        assert end - begin - inputs.size <= context  # and no block more would fit
        begin = end


# Variations --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["digits", "text"])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A data set with one label an example, and one with many."""
    content = np.random.RandomState(1).randint(0, 11, 4001).astype(np.uint8).tobytes()
    sizes = {"train": 449, "val": 24, "test": 25}
    text = DataSource("", sizes, (8,), 11, lambda: sources._text_parts(content, 8), tokens=True)
    monkeypatch.setitem(SOURCES, "text", text)
    data.forget()  # of an earlier "text"
    yield request.param
    data.forget()


def test_a_fraction_is_the_first_examples_and_a_view(name: str) -> None:
    whole = data.load(name)
    size = len(whole.splits["train"])
    for fraction in (0.001, 0.1, 0.5, 0.9999):
        part = data.load(name, train_fraction=fraction)
        train = part.splits["train"]
        assert len(train) == data.train_size(name, fraction) == data.train_size(SOURCES[name], fraction)
        assert len(train) == max(1, round(fraction * size))
        assert train.inputs.data_ptr() == whole.splits["train"].inputs.data_ptr()
        assert torch.equal(train.labels, whole.splits["train"].labels[: len(train)])
        assert part.splits["val"] is whole.splits["val"]
        assert part.splits["test"] is whole.splits["test"]
        assert part.sha256 == whole.sha256
    assert data.load(name, train_fraction=1, label_noise=0) is whole


@pytest.mark.parametrize("fraction", [1.0, 0.37])
def test_noise_makes_that_many_labels_wrong_and_no_more(name: str, fraction: float) -> None:
    right = data.load(name, train_fraction=fraction).splits["train"]
    seen = torch.zeros_like(right.labels, dtype=torch.bool)
    wrong_before = right.labels
    for noise in (0.0001, 0.1, 0.25, 0.9):
        varied = data.load(name, train_fraction=fraction, label_noise=noise)
        train = varied.splits["train"]
        wrong = train.labels != right.labels
        assert int(wrong.sum()) == round(noise * right.labels.numel())
        assert train.labels.min() >= 0
        assert train.labels.max() < SOURCES[name].num_classes
        assert train.inputs.data_ptr() == right.inputs.data_ptr()
        assert varied.splits["val"] is data.load(name).splits["val"]
        assert varied.splits["test"] is data.load(name).splits["test"]
        assert wrong[seen].all()  # less noise is part of more
        assert torch.equal(train.labels[seen], wrong_before[seen])
        seen, wrong_before = wrong, train.labels


def test_a_wrong_label_is_any_other_class_and_falls_anywhere(name: str) -> None:
    right, wrong = data.load(name).splits["train"].labels, data.load(name, label_noise=0.9).splits["train"].labels
    classes = SOURCES[name].num_classes
    shifts = ((wrong - right) % classes).flatten()
    count = shifts.bincount(minlength=classes)[1:].double()
    expected = float(count.mean())
    assert float(((count - expected) ** 2 / expected).sum()) < 30  # chi squared: 0.1 % of draws for 10 classes
    half = len(right) // 2
    assert abs(float((shifts != 0).view(right.shape)[:half].double().mean()) - 0.9) < 0.03


def test_a_wrong_label_stays_wrong_alike_in_a_smaller_fraction() -> None:
    right = data.load("digits").splits["train"].labels[:300]
    large = data.load("digits", label_noise=0.5).splits["train"].labels[:300]
    small = data.load("digits", train_fraction=300 / 997, label_noise=0.5).splits["train"].labels
    both = (large != right) & (small != right)
    assert both.sum() > 120
    assert torch.equal(large[both], small[both])


def test_noise_is_as_ever_on_every_device_and_dtype(device: str) -> None:
    for dtype in (torch.float32, torch.float64):
        train = data.load("digits", device, dtype, 0.5, 0.2).splits["train"]
        assert train.inputs.dtype == dtype
        assert train.labels.device.type == device
        # Recorded when noise was defined: results are comparable only as long as it stays.
        digest = sha256(train.labels.cpu().numpy().tobytes()).hexdigest()
        assert digest == "1a0b11432b1416b69becf0684d3bbc3d6815aefa25f296275b232aca81126e21"


def test_what_is_read_is_read_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fetch = SOURCES[name].fetch
    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], fetch=lambda: (calls.append(name), fetch())[1]))
    data.forget()
    whole = data.load(name)
    assert data.load(name, "cpu", torch.float32) is whole
    noisy = data.load(name, label_noise=0.1).splits["train"].labels
    assert data.load(name, "cpu", label_noise=0.1).splits["train"].labels is noisy
    assert len(calls) == 1
    data.load(name, dtype=torch.float64)
    assert len(calls) == (1 if SOURCES[name].tokens else 2)


@pytest.mark.parametrize("value", [0, -0.1, 1.0001, 5, float("nan"), float("inf"), "0.5", None])
def test_a_bad_fraction_is_refused(value: float) -> None:
    for call in (lambda: data.load("digits", train_fraction=value), lambda: data.train_size("digits", value)):
        with pytest.raises(UserError, match=r"^train_fraction is [^\n]*above 0 and at most 1$"):
            call()


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, float("nan"), "0.5", None])
def test_bad_noise_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=r"^label_noise is [^\n]*at least 0 and below 1$"):
        data.load("digits", label_noise=value)


def test_an_unknown_data_set_is_refused_with_the_nearest_name() -> None:
    for call in (data.load, data.train_size, data.find_source):
        with pytest.raises(UserError, match="did you mean 'cifar10'"):
            call("cifar-10")


OWN = """
from dataclasses import replace
from lr_env import TASKS
MINE = replace(TASKS["DigitsMLP"], name="Mine", budget=20, segment=10)
NO_TASK = 3
"""


def test_a_task_of_ones_own_is_found_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_tasks_here.py").write_text(OWN)
    (tmp_path / "broken_tasks_here.py").write_text("raise ValueError('two\\nlines')")
    few = ("--planners", "constant", "--rates", "0.1", "--seeds", "2", "--tune-seeds", "1")
    done = lr_env("compare", "own_tasks_here:MINE", *few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "MINE" / "summary.md").is_file()
    done = lr_env("compare", "own_tasks_here:NO_TASK", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "lr-env: task 'own_tasks_here:NO_TASK' is int, and no lr_env.Task: give the name of a Task\n"
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name, words in (
        ("own_tasks_here:OTHER", "it cannot be imported (AttributeError: "),
        ("nowhere_at_all:X", "it cannot be imported (ModuleNotFoundError: "),
        ("broken_tasks_here:X", "it cannot be imported (ValueError: two): give MODULE:NAME"),
    ):
        with pytest.raises(UserError, match=re.escape(words)) as told:
            find_task(name)
        assert "\n" not in str(told.value)
