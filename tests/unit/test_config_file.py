"""Files of settings: dotted and nested keys, what other jobs read, and what YAML lets pass."""

from pathlib import Path
from typing import Any

import pytest

from mgray.config import JOB_CONFIGS, IngestJobConfig, TrainJobConfig
from mgray.config.command_line import parse_args
from mgray.config.search_space import read_space
from mgray.errors import InputError


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """read(text, *options, job=...): the config of a job for a file with this text, or these bytes."""

    def parse(text: str | bytes, *options: str, job: str = "train") -> Any:
        file = tmp_path / "c.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return parse_args(JOB_CONFIGS[job], f"jobs/{job}.py", ["--config", str(file), *options])

    return parse


@pytest.mark.parametrize(
    "text",
    [
        "data: {source: x, columns: {user_id: v}, clean: {min_rating: 2}}\ntrain: {epochs: 7}\n",
        "data.source: x\ndata.columns.user_id: v\ndata.clean.min_rating: 2\ntrain.epochs: 7\n",
        "data: {source: x, columns.user_id: v, clean.min_rating: 2}\ntrain.epochs: 7\n",
        "data.columns: {user_id: v}\ndata: {source: x}\ndata.clean: {min_rating: 2}\ntrain: {epochs: 7}\n",
        "data.source: x\ndata: {source: x, columns.user_id: v, clean.min_rating: 2}\ntrain: {epochs: 7}\n",
    ],
)
def test_keys_are_nested_or_dotted(read: Any, text: str) -> None:
    config = read(text)
    assert config == TrainJobConfig.model_validate(
        {"data": {"source": "x", "columns": {"user_id": "v"}, "clean": {"min_rating": 2}}, "train": {"epochs": 7}}
    )
    assert config.data.is_named
    changed = read(text, "--data.columns.user_id", "w", "--train.epochs", "3")
    assert (changed.data.columns.user_id, changed.data.source, changed.train.epochs) == ("w", "x", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data.source: x\ndata: {source: y}\n", "data.source is given twice, as 'x' and as 'y'; keep one of them"),
        ("data: {columns.user_id: v, columns: {user_id: w}}\n", "data.columns.user_id is given twice, as 'v' and as"),
        ("train:\n  epochs: 3\n  depth: 1\n  epochs: 4\n", "the key 'epochs' is given twice, first in line 2"),
        ("data.source: x\ndata.source: x\n", "the key 'data.source' is given twice, first in line 1"),
        ("train: {epochs: 3}\nmodel: {width: 8}\n'train': {epochs: 4}\n", "the key 'train' is given twice"),
        ("train: 3\n", "train is a section, of keys such as train.augment_crop, not 3; mend the file"),
        ("train: [epochs, 3]\n", "train is a section, of keys such as train.augment_crop, not ['epochs', 3]"),
        ("model: models:/mgray-interest@champion\n", "model is a section, of keys such as model.conv, not 'models:/"),
        ("data: {columns: user_id}\n", "data.columns is a section, of keys such as data.columns."),
        ("predict: fast\n", "predict is a section, of keys such as predict."),
        ("1: x\n", "a key is 1, which is no text; keys are names, such as data.source"),
        ("data: {on: x}\n", "a key of data is True, which is no text"),
        ("~: x\n", "a key is None, which is no text"),
        ("[1, 2]: x\n", "not valid YAML"),
        ("data:\n\tsource: x\n", r"not valid YAML: while scanning for the next token found character '\t'"),
        ("data: {valid_from: 2020-13-45}\n", "not valid YAML: month must be in 1..12"),
        ("trian: {epochs: 3}\n", "unknown config key 'trian' (did you mean train?)"),
        ("train: {epohcs: 3}\n", "unknown config key 'train.epohcs' (did you mean train.epochs?); valid keys: "),
        ("predict.kk: 3\n", "unknown config key 'predict.kk' (did you mean predict.k?); valid keys: "),
        ("data.source.file: x\n", "unknown config key 'data.source.file'"),
        ("data: &a {columns: *a}\n", "unknown config key 'data.columns.columns'"),
        ("data: {source: {a: 1}}\n", "data.source: "),
        ("a: 1\n---\nb: 2\n", "not valid YAML: expected a single document"),
        ("- data\n", "expected a mapping of sections, found list"),
        (b"data: {source: \xe9}\n", "not valid YAML"),
    ],
)
def test_a_mistake_is_one_line(read: Any, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=r"^--config .*c\.yaml: ") as error:
        read(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_other_jobs_read_is_left_out_and_said(read: Any, capsys: pytest.CaptureFixture[str]) -> None:
    text = "data: {source: x}\nhome: /h\ntrain.epochs: 3\nmodel: {width: no matter}\nresume: true\nscale: {}\n"
    config = read(text, job="ingest")
    assert config == IngestJobConfig.model_validate({"data": {"source": "x"}, "home": "/h"})
    said = capsys.readouterr().err
    assert said.endswith("c.yaml: jobs/ingest.py leaves out what only other jobs read: model.*, resume, train.*\n")
    assert said.count("\n") == 1
    read("data: {source: x}\n", job="ingest")
    assert capsys.readouterr().err == ""


def test_a_name_that_is_a_section_of_one_job_and_a_key_of_another(read: Any, capsys: pytest.CaptureFixture) -> None:
    """`model`: settings to train.py, a registered version to eval.py."""
    config = read("model: {width: 8}\ndata.source: x\nevaluate: {k: 5}\n", job="eval")
    assert (config.model, config.data.source, config.evaluate.k) == ("models:/mgray-interest@champion", "x", 5)
    assert capsys.readouterr().err.endswith("only other jobs read: model.*\n")
    assert read("model: models:/m/7\n", job="eval").model == "models:/m/7"
    assert read("model:\n", job="eval").model == "models:/mgray-interest@champion"
    assert read("model: models:/m/7\ndata: {source: x}\n", job="ingest").data.source == "x"


@pytest.mark.parametrize("job", ["ingest", "eval", "predict", "retrain", "tune"])
@pytest.mark.parametrize("text", ["train: {epohcs: 3}\n", "trian: {epochs: 3}\n", "data: {sorce: x}\n", "sourc: x\n"])
def test_a_misspelling_is_one_for_every_job(read: Any, job: str, text: str) -> None:
    with pytest.raises(InputError, match=r"unknown config key '(train\.epohcs|trian|data\.sorce|sourc)'"):
        read(text, job=job)


def test_a_shared_section_is_checked(read: Any) -> None:
    with pytest.raises(InputError, match=r"data\.split: .*'leave_one_out' or 'temporal'.*'random'"):
        read("data: {split: random}\n", job="retrain")
    assert read("data: {split: random}\n", job="ingest").data.split == "random"


@pytest.mark.parametrize(
    ("job", "option", "jobs"),
    [
        ("ingest", "--train.epochs", "jobs/retrain.py, jobs/train.py, jobs/tune.py"),
        ("train", "--predict.k", "jobs/predict.py"),
        ("eval", "--register_as", "jobs/export.py"),
    ],
)
def test_an_option_of_another_job_is_an_error_that_names_the_job(job: str, option: str, jobs: str) -> None:
    key = option.removeprefix("--")
    message = rf"^command line: unknown config key '{key}' \(an option of {jobs}, not of this job\); valid keys: "
    for argv in ([option, "3"], [f"{option}=3"]):
        with pytest.raises(InputError, match=message):
            parse_args(JOB_CONFIGS[job], f"jobs/{job}.py", argv)


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfdata: {source: x}\r\ntrain:\r\n  epochs: 7\r\n",
        "data: {source: x}\ntrain: {epochs: 7}\n".encode("utf-16"),  # as PowerShell's > writes
        b"data: {source: x}\nmodel:\ntrain: {epochs: 7}\nevaluate: {}\n",
        b"---\ntrain: {epochs: 7}  # a comment\ndata.source: 'x'\n...\n",
    ],
)
def test_an_editor_s_habits_are_read(read: Any, text: bytes) -> None:
    config = read(text)
    assert (config.data.source, config.train.epochs) == ("x", 7)
    assert read(text, "--train.epochs", "3").train.epochs == 3


def test_merge_keys_keep_working(read: Any) -> None:
    config = read("train: &base {epochs: 7, seed: 1}\nmodel: {width: 8}\n")
    assert config.train.epochs == 7
    text = "data: {columns: &names {user_id: u, item_id: i}}\n"
    text += "data.columns: {<<: *names, item_id: i, timestamp: t}\n"
    columns = read(text).data.columns
    assert (columns.user_id, columns.item_id, columns.timestamp) == ("u", "i", "t")
    # A mapping that merges is merged again: its own keys are still given once.
    text = "train: &a {<<: &b {epochs: 7, seed: 1}, seed: 2}\nevaluate: {k: 3}\ntrain.seed: 2\n"
    assert (read(text).train.epochs, read(text).train.seed) == (7, 2)


def test_none_is_off_in_a_file_too(read: Any) -> None:
    config = read("train: {max_time_s: none, ema_decay: null}\ndata: {items: None}\n")
    assert (config.train.max_time_s, config.train.ema_decay, config.data.items) == (None, None, None)


def test_a_space_is_read_alike(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_bytes(b"\xef\xbb\xbfmodel.width: {choice: [8, 16]}\r\n")
    assert list(read_space(str(file), TrainJobConfig())) == ["model.width"]
    file.write_text("model.width: {choice: [8, 16]}\nmodel.width: {choice: [8]}\n")
    with pytest.raises(InputError, match=r"the key 'model\.width' is given twice, first in line 1"):
        read_space(str(file), TrainJobConfig())
