"""Reading and caching data sets; no test needs a network or prepared data."""

import gzip
import hashlib
import io
import json
import os
import pathlib
import struct
import subprocess
import sys
import urllib.error

import numpy as np
import PIL.Image
import pytest

from farsign_jax import validation
from farsign_jax.data import dataset as dataset_lib
from farsign_jax.data import datasets, idx, license_text, sources
from farsign_jax.validation import InvalidConfig

N_TRAIN, N_TEST = 30, 12


def fake():
    rng = np.random.default_rng(0)
    return dataset_lib.Dataset(
        rng.integers(0, 256, (N_TRAIN, 28, 28, 1), dtype=np.uint8),
        rng.integers(0, 10, N_TRAIN).astype(np.int32),
        rng.integers(0, 256, (N_TEST, 28, 28, 1), dtype=np.uint8),
        rng.integers(0, 10, N_TEST).astype(np.int32),
    )


def idx_bytes(array):
    array = array.astype(np.uint8)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write_idx(folder, dataset, zipped):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = dataset[0][..., 0], dataset[1], dataset[2][..., 0], dataset[3]
    for name, array in zip(idx.IDX_FILES, arrays[:4], strict=True):
        content = idx_bytes(array)
        path = folder / (name + ".gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)


def assert_equal(a, b):
    for x, y in zip(a[:4], b[:4], strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.fixture(autouse=True)
def any_mnist(monkeypatch, request):
    """Tests of reading use small files; those of recognition have contents of their own."""
    for name in ("mnist", "kmnist"):
        source = datasets.DATASETS[name]._replace(contents=None)
        monkeypatch.setitem(datasets.DATASETS, name, source)


@pytest.fixture
def no_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no such folder


@pytest.fixture
def no_network(monkeypatch):
    def refuse(url, timeout=None):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(sources.urllib.request, "urlopen", refuse)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("inside", ["", "mnist", "mnist/raw"])
def test_reads_idx_files_once_and_then_the_cache(tmp_path, monkeypatch, zipped, inside):
    source, cache = tmp_path / "data", tmp_path / "cache"
    write_idx(source / inside, fake(), zipped)
    assert_equal(datasets.load("mnist", str(source), str(cache)), fake())
    with monkeypatch.context() as patched:
        patched.setattr(sources, "read_idx", None)
        assert_equal(datasets.load("mnist", str(source), str(cache)), fake())


def test_the_cache_follows_the_files(tmp_path):
    """What the key is made of: contents by size and times, and whether the files are there."""
    source, cache = tmp_path / "data", tmp_path / "cache"
    load = lambda: datasets.load("mnist", str(source), str(cache))  # noqa: E731
    write_idx(source, fake(), False)
    load()
    times = {path: path.stat() for path in source.iterdir()}
    other = fake()._replace(train_images=255 - fake().train_images)
    write_idx(source, other, False)
    for path, status in times.items():  # as `cp -p` and `rsync -t` do
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert_equal(load(), other)
    write_idx(source, fake(), True)
    for name in idx.IDX_FILES:
        (source / name).unlink()
    assert_equal(load(), fake())
    assert len(list(cache.iterdir())) == 1
    next(source.iterdir()).unlink()
    with pytest.raises(validation.DataError, match="does not contain mnist: looked for"):
        load()


def test_reads_prepared_data_without_tensorflow(tmp_path):
    write_prepared(tmp_path / "data" / "mnist" / "3.0.1", fake())
    code = (
        "import sys\n"
        "import numpy as np\n"
        "from farsign_jax.data import dataset, datasets\n"
        "datasets.DATASETS['mnist'] = dataset.LocalSource('small files')\n"
        "d = datasets.load('mnist', sys.argv[1], sys.argv[2])\n"
        "assert 'tensorflow' not in sys.modules\n"
        "np.savez(sys.argv[3], *d[:4])\n"
    )
    copy = tmp_path / "copy.npz"
    command = [sys.executable, "-c", code, tmp_path / "data", tmp_path / "cache", copy]
    subprocess.run(command, check=True, capture_output=True)
    with np.load(copy) as arrays:
        assert_equal([arrays[name] for name in arrays.files], fake())


def test_a_damaged_prepared_directory_is_named(tmp_path):
    folder = tmp_path / "data" / "mnist" / "3.0.1"
    write_prepared(folder, fake())
    (folder / "mnist-test.array_record-00000-of-00001").write_bytes(b"cut")
    code = (
        "import sys\n"
        "from farsign_jax.data import datasets\n"
        "from farsign_jax.validation import DataError\n"
        "try:\n"
        "    datasets.load('mnist', sys.argv[1], sys.argv[2])\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "data", tmp_path / "cache"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "mnist could not be read by tensorflow-datasets" in done.stdout


def write_prepared(folder, dataset):
    """Writes the files of `tfds build mnist --file_format=array_record` without TensorFlow."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.example_parser import tf_example_pb2

    folder.mkdir(parents=True)
    splits = []
    for split, images, labels in (("train", *dataset[:2]), ("test", *dataset[2:4])):
        writer = ArrayRecordWriter(
            str(folder / f"mnist-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        for image, label in zip(images, labels, strict=True):
            png = io.BytesIO()
            PIL.Image.fromarray(image[..., 0]).save(png, "PNG")
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(png.getvalue())
            example.features.feature["label"].int64_list.value.append(int(label))
            writer.write(example.SerializeToString())
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append(
            {"name": split, "numBytes": "1", "shardLengths": [str(len(labels))]}
            | {"filepathTemplate": template}
        )
    module = "tensorflow_datasets.image_classification.mnist"
    info = {"fileFormat": "array_record", "moduleName": module, "name": "mnist"}
    info |= {"splits": splits, "version": "3.0.1", "description": "fake", "citation": ""}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    sizes = {"dimensions": ["28", "28", "1"]}
    prefix = "tensorflow_datasets.core.features"
    features = {
        "image": {
            "image": {"dtype": "uint8", "shape": sizes},
            "pythonClassName": f"{prefix}.image_feature.Image",
        },
        "label": {
            "classLabel": {"numClasses": "10"},
            "pythonClassName": f"{prefix}.class_label_feature.ClassLabel",
        },
    }
    tree = {"featuresDict": {"features": features}}
    tree |= {"pythonClassName": f"{prefix}.features_dict.FeaturesDict"}
    (folder / "features.json").write_text(json.dumps(tree))


def test_a_half_written_cache_is_rebuilt(tmp_path, caplog):
    source, cache = tmp_path / "data", tmp_path / "cache"
    write_idx(source, fake(), False)
    datasets.load("mnist", str(source), str(cache))
    (path,) = cache.iterdir()
    content = path.read_bytes()
    for damage in (
        content[: len(content) // 2],
        b"",
        content[:-200] + bytes(200),
        b"\0" * 5000,
    ):
        path.write_bytes(damage)
        assert_equal(datasets.load("mnist", str(source), str(cache)), fake())
        assert path.read_bytes() == content
    middle = bytearray(content)
    middle[len(content) // 3] ^= 1  # one bit of one image
    path.write_bytes(bytes(middle))
    assert_equal(datasets.load("mnist", str(source), str(cache)), fake())


def test_a_cut_idx_file_is_named(tmp_path):
    for zipped in (False, True):
        source = tmp_path / f"data{zipped}"
        write_idx(source, fake(), zipped)
        (path,) = source.glob("t10k-images*")
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(
            validation.DataError, match=r"t10k-images.* is not a complete IDX file"
        ):
            datasets.load("mnist", str(source), str(tmp_path / "cache"))


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    dataset = fake()._replace(train_labels=fake().train_labels[:-1])
    write_idx(tmp_path / "data", dataset, False)
    with pytest.raises(validation.DataError, match="30 training images, 29 training labels"):
        datasets.load("mnist", str(tmp_path / "data"), str(tmp_path / "cache"))


def test_the_error_without_files_and_network_says_what_to_do(tmp_path, no_network, no_home):
    cache = str(tmp_path / "cache")
    with pytest.raises(
        validation.DataError, match=r"cannot be reached.*--data_dir.*mnist_subset"
    ):
        datasets.load("mnist", None, cache)
    with pytest.raises(
        validation.DataError, match="tfds build cifar10 --file_format=array_record"
    ):
        datasets.load("cifar10", None, cache)
    (tmp_path / "data").mkdir()
    for name in ("mnist", "cifar10"):  # which are not downloaded in the place of a folder
        looked = f"does not contain {name}: looked for .*dataset_info.json.*train-images-idx3"
        with pytest.raises(validation.DataError, match=looked):
            datasets.load(name, str(tmp_path / "data"), cache)
    with pytest.raises(validation.DataError, match="is not a directory"):
        datasets.load("mnist", str(tmp_path / "nowhere"), str(tmp_path / "cache"))


def test_downloads_are_verified_and_kept(tmp_path, monkeypatch, no_home):
    write_idx(tmp_path / "server", fake(), True)
    requested = []

    def urlopen(url, timeout):
        requested.append(url)
        return open(tmp_path / "server" / url.rsplit("/", 1)[1], "rb")

    monkeypatch.setattr(sources.urllib.request, "urlopen", urlopen)
    load = lambda: datasets.load("kmnist", None, str(tmp_path / "cache"))  # noqa: E731
    with pytest.raises(validation.DataError, match="not the expected file: its MD5"):
        load()
    sums = tuple(
        hashlib.md5((tmp_path / "server" / f"{n}.gz").read_bytes()).hexdigest()
        for n in idx.IDX_FILES
    )
    source = dataset_lib.IdxSource("http://example.invalid/", sums)
    monkeypatch.setitem(datasets.DATASETS, "kmnist", source)
    assert_equal(load(), fake())
    requested.clear()
    assert_equal(load(), fake())
    assert requested == []
    kept = tmp_path / "cache" / "kmnist" / f"{idx.IDX_FILES[0]}.gz"
    kept.write_bytes(kept.read_bytes()[:-1])
    assert_equal(load(), fake())
    assert [url.rsplit("/", 1)[1] for url in requested] == [kept.name]
    monkeypatch.setattr(datasets.cache_lib, "folder", lambda path: None)
    assert_equal(load(), fake())  # without a cache


def test_unknown_names_are_refused():
    with pytest.raises(InvalidConfig, match="unknown dataset 'minst': did you mean 'mnist'"):
        datasets.load("minst")


def test_the_embedded_subset_is_stratified():
    subset = datasets.load("mnist_subset")
    assert subset.train_images.shape == (10_000, 28, 28, 1)
    assert subset.test_images.shape == (2_000, 28, 28, 1)
    assert (np.bincount(subset.train_labels) == 1000).all()
    assert (np.bincount(subset.test_labels) == 200).all()
    assert datasets.EMBEDDED.stat().st_size < 2.5e6
    images = np.concatenate([subset.train_images, subset.test_images]).reshape(12_000, -1)
    assert len(np.unique(images, axis=0)) > 11_990  # MNIST itself repeats hardly any image


def test_the_selection_of_the_subset_does_not_depend_on_the_order():
    from farsign_jax.data.build_mnist_subset import select

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 5, 5, 1), dtype=np.uint8)
    labels = np.arange(200) % 4
    order = rng.permutation(200)
    a = select(images, labels, 10)
    b = select(images[order], labels[order], 10)
    np.testing.assert_array_equal(images[a], images[order][b])
    assert (np.bincount(labels[a]) == 10).all()


def test_the_licence_is_beside_the_data():
    licence = pathlib.Path(datasets.__file__).parent / "LICENSE-mnist.md"
    assert "Attribution-Share Alike 3.0" in licence.read_text()


def test_license_text_contains_the_license():
    data = datasets.load("license_text")
    assert data.train_images.shape[1:] == (license_text.CONTEXT, len(license_text.ALPHABET), 1)
    assert data.train_images.dtype == np.uint8 and data.num_classes == len(
        license_text.ALPHABET
    )

    def read(image):
        return "".join(license_text.ALPHABET[i] for i in image[:, :, 0].argmax(axis=1))

    first = read(data.train_images[0]) + license_text.ALPHABET[data.train_labels[0]]
    assert first == "apache li"
    contexts = {read(image) for image in data.test_images}
    assert any("source" in text for text in contexts)
    assert len(data.test_labels) > 1000 and (data.train_images.sum(axis=(2, 3)) == 255).all()
