"""The command line: every mistake is one line that names the place and the mend."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from mgray.config import (
    JOB_CONFIGS,
    CleanConfig,
    DataConfig,
    IngestJobConfig,
    JobConfig,
    RetrainJobConfig,
    TrainJobConfig,
    TuneJobConfig,
    resolve_home,
    resolve_out,
)
from mgray.config.command_line import flatten, parse_args, validate
from mgray.config.keys import leaves
from mgray.errors import InputError


def parse(*argv: str) -> TrainJobConfig:
    return parse_args(TrainJobConfig, "jobs/train.py", list(argv))


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: {width: 32, depth: 2}\ntrain: {epochs: 7}\n")
    config = parse("--config", str(file), "--model.width", "16")
    assert (config.model.width, config.model.depth, config.train.epochs) == (16, 2, 7)
    assert config.model.kernel == TrainJobConfig().model.kernel


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--model.granularities", '[1, 4, "decay:2..50"]'], (1, 4, "decay:2..50")),
        (["--model.granularities=[2]"], (2,)),
    ],
)
def test_granularities_are_yaml(argv: list[str], value: tuple) -> None:
    assert parse(*argv).model.granularities == value


def test_numbers_and_none_are_read_as_meant() -> None:
    config = parse("--train.learning_rate", "4e-3", "--train.max_time_s", "none", "--scale.use_gpu", "false")
    assert (config.train.learning_rate, config.train.max_time_s, config.scale.use_gpu) == (0.004, None, False)


def test_text_stays_text() -> None:
    """A user column named 12 or a path named `true` is not YAML's number or truth value."""
    config = parse("--data.columns.user_id", "12", "--data.source", "true")
    assert (config.data.columns.user_id, config.data.source) == ("12", "true")
    assert parse("--data.source", "[a.csv, 'b c.csv']").data.source == ("a.csv", "b c.csv")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model.widht", "3"], "did you mean model.width"),
        (["--model.width", "-3"], "model.width: Input should be greater than or equal to 1"),
        (["--model.width", "63"], "must be a multiple of heads"),
        (["--model.granularities", "[4, 1]"], "strides must grow"),
        (["--model.granularities", "[weekly]"], "neither a stride"),
        (["--model.granularities", "['decay:9..2']"], "the range runs"),
        (["--model.granularities", "["], "not a YAML value"),
        (["--train.epochs", "1.5"], "train.epochs"),
        (["--train.learning_rate", "nan"], "train.learning_rate"),
        (["--train.label_smoothing", "0.1", "--train.exclude_seen", "true"], "turn it or exclude_seen off"),
        (["--train.loss", "gbce", "--train.hard_negatives", "0.5"], "hard_negatives needs loss: sampled_softmax"),
        (["--train.warmup_share", "0.8", "--train.decay_share", "0.8"], "at most 1"),
        (["--data.valid_from", "3"], "split: temporal"),
        (["--data.source", ""], "data.source: an empty path"),
        (["--data.source", "[a.csv, '']"], "data.source: an empty path"),
        (["--data.columns.item_id", "user_id"], "user_id and item_id name one column, 'user_id'"),
        (["--data.columns.timestamp", "item_id"], "item_id and timestamp name one column, 'item_id'"),
        (["--data.clean.min_timestamp", "2", "--data.clean.max_timestamp", "1"], "min_timestamp (2.0) must not be"),
        (["--data.clean.min_rating", "5", "--data.clean.max_rating", "4.5"], "above max_rating (4.5)"),
        (["--model.width"], "expected one argument"),
        (["stray"], "unexpected argument 'stray'"),
        (["--config", "no-such-file.yaml"], "No such file"),
    ],
)
def test_a_mistake_is_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(*argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_keys_list_the_valid_ones(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: {widht: 3}\n")
    for argv in (["--config", str(file)], ["--model.widht", "3"]):
        with pytest.raises(InputError) as error:
            parse(*argv)
        assert all(key in str(error.value) for key in ("model.widht", "model.width", "train.epochs"))


@pytest.mark.parametrize("text", ["- 1\n", "a: [\n", "\x00"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"c\.yaml"):
        parse("--config", str(file))


def test_every_option_has_a_description_and_shows_in_help(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for key, field in leaves(TrainJobConfig).items():
        assert f"--{key} " in shown
        assert field.description, f"{key} says nothing of its meaning"


def test_flat_params_hold_every_value() -> None:
    assert flatten(TrainJobConfig()).keys() == leaves(TrainJobConfig).keys()
    assert flatten(TrainJobConfig())["model.width"] == 64


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MGRAY_HOME", raising=False)
    assert resolve_home(IngestJobConfig()) == tmp_path / "var"
    monkeypatch.setenv("MGRAY_HOME", "/data/mgray")
    assert resolve_home(IngestJobConfig()) == Path("/data/mgray")
    assert resolve_home(IngestJobConfig(home="/other")) == Path("/other")


def test_versions_go_to_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/users/me")
    assert resolve_out(DataConfig(), Path("/home")) == Path("/home/datasets")
    assert resolve_out(DataConfig(out="made"), Path("/home")) == tmp_path / "made"
    assert resolve_out(DataConfig(out="~/made"), Path("/home")) == Path("/users/me/made")
    for where in ("s3://bucket/made", "gs://me:secret@bucket/made", "file:///made"):
        with pytest.raises(InputError, match=r"^--data.out \w+://\.\.\.: .*give a folder's path$") as error:
            resolve_out(DataConfig(out=where), Path("/home"))
        assert "secret" not in str(error.value)
    with pytest.raises(InputError, match=r"^--home s3://\.\.\.: "):
        resolve_home(IngestJobConfig(home="s3://bucket/home"))
    monkeypatch.setenv("MGRAY_HOME", "s3://bucket/home")
    with pytest.raises(InputError, match=r"^\$MGRAY_HOME s3://\.\.\.: "):
        resolve_home(IngestJobConfig())


def test_bounds_may_be_one_value() -> None:
    assert CleanConfig(min_rating=4, max_rating=4).max_rating == 4


def test_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrainJobConfig().model.width = 3  # type: ignore[misc]


SHIPPED = sorted(set(Path("jobs/configs").glob("*.yaml")) - {Path("jobs/configs/space.yaml")})


def test_shipped_configs_are_valid() -> None:
    assert len(SHIPPED) >= 3
    for path in SHIPPED:
        parse("--config", str(path))


def test_every_job_is_in_the_table() -> None:
    assert sorted(JOB_CONFIGS) == sorted(path.stem for path in Path("jobs").glob("[a-z]*.py"))


# A random split, and ratings alone, are for training.
REFUSED = {("rating", job) for job in ("retrain", "tune")}


@pytest.mark.parametrize("job", JOB_CONFIGS)
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_job_reads_its_part_of_a_shipped_config(path: Path, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--config", str(path)]
    if (path.stem, job) in REFUSED:
        with pytest.raises(InputError, match=r"model\.outputs rating trains no ranking"):
            parse_args(JOB_CONFIGS[job], f"jobs/{job}.py", argv)
        return
    config = parse_args(JOB_CONFIGS[job], f"jobs/{job}.py", argv)
    given = parse(*argv)
    for section in {"data", "scale", "train"} & set(type(config).model_fields):
        mine, theirs = getattr(config, section), getattr(given, section)
        assert mine.model_dump(exclude_unset=True) == theirs.model_dump(exclude_unset=True), section
    sections = {"data", "model", "scale", "train"} & given.model_fields_set
    left_out = {name for name in sections if not isinstance(getattr(config, name, None), BaseModel)}
    said = capsys.readouterr().err
    assert left_out == set(re.findall(r"(\w+)\.\*", said)), said
    assert said.count("\n") == bool(left_out)


@pytest.mark.parametrize("schema", [TuneJobConfig, RetrainJobConfig])
def test_jobs_that_compare_rankings_want_a_model_that_ranks(schema: type[JobConfig]) -> None:
    with pytest.raises(InputError, match="trains no ranking"):
        validate(schema, {"model": {"outputs": "rating"}})
    assert validate(schema, {"model": {"outputs": "both"}})


@pytest.mark.parametrize("name", [".", "..", "é" * 128, "a/b"])
def test_a_searchs_name_is_that_of_a_folder_of_its_own(name: str) -> None:
    with pytest.raises(InputError, match=r"search\.name: "):
        parse_args(TuneJobConfig, "jobs/tune.py", ["--search.name", name])


@pytest.mark.parametrize("name", ["...", "..a", "123", "é-1"])
def test_a_searchs_name_is_text(name: str) -> None:
    assert parse_args(TuneJobConfig, "jobs/tune.py", ["--search.name", name]).search.name == name
