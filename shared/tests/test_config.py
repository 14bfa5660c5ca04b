"""Configuration: merging, strict YAML, errors that name key, value, file and remedy, round trip and hash."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic
import pytest

from shared.config import Anchored, Schema, config_hash, load_config, merged, to_yaml
from shared.errors import ConfigError


class Optim(Schema):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    scale: dict[str, float] = pydantic.Field(default_factory=dict)


class Stage(Schema):
    epochs: int = 3
    augment: bool = True
    optim: Optim = Optim()


class Settings(Schema):
    name: str = "run"
    data: Path | None = None
    rule: Literal["gt", "ge"] = "gt"
    stage1: Stage = Stage()
    stage2: Stage | None = None
    tags: list[str] = pydantic.Field(default_factory=list)


@pytest.fixture
def write(tmp_path):
    def write_file(text: str, name: str = "settings.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


def error_of(files, overrides=()) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(Settings, files, overrides)
    return str(caught.value)


class Weights(Schema):
    file: Annotated[str | None, Anchored(lambda text, folder: str(folder / text))] = None


class Placed(Schema):
    results: Path = Path("results")
    teacher: Weights = Weights()
    student: Weights | None = None


# --- paths ---


def test_a_path_may_be_the_default_of_a_path(write):
    assert load_config(Placed, []).results == Path("results") == Placed().results
    assert load_config(Placed, [write("results: there\n")]).results == Path("there")
    with pytest.raises(pydantic.ValidationError):
        Placed(results=3)


def test_a_relative_path_counts_from_where_it_was_written(write, tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    first = write("teacher: {file: a.pt}\nstudent: {file: b.pt}\n", "deep/first.yaml")
    second = write("student: {file: c.pt}\n", "second.yaml")
    monkeypatch.chdir(elsewhere)
    both = load_config(Placed, [Path("../deep/first.yaml"), second])
    assert Path(both.teacher.file).resolve() == tmp_path / "deep" / "a.pt"
    assert Path(both.student.file) == tmp_path / "c.pt", "the later file's folder counts"
    assert Path(both.teacher.file).is_absolute()
    told = load_config(Placed, [first], ["teacher.file=x/d.pt", f"student.file={tmp_path}/e.pt"])
    assert Path(told.teacher.file) == elsewhere / "x" / "d.pt"
    assert Path(told.student.file) == tmp_path / "e.pt"
    assert load_config(Placed, [first], ["student=null", "teacher.file=null"]) == Placed()


@pytest.mark.fault(19)
def test_a_wrong_value_where_a_path_may_stand_is_told_as_ever(write):
    with pytest.raises(ConfigError, match=r"teacher\.file = 3 .*settings\.yaml:1"):
        load_config(Placed, [write("teacher: {file: 3}\n")])
    with pytest.raises(ConfigError, match=r"teacher = 'x'"):
        load_config(Placed, [write("teacher: x\n")])


# --- merging ---


def test_no_files_gives_the_defaults():
    assert load_config(Settings, []) == Settings()


def test_order_is_defaults_files_then_overrides(write):
    first = write("name: a\nstage1: {epochs: 5, optim: {lr: 0.1}}\ntags: [x, y]\n", "first.yaml")
    second = write("stage1: {epochs: 7}\ntags: [z]\n", "second.yaml")
    config = load_config(Settings, [first, second], ["stage1.optim.lr=1e-4"])
    assert (config.name, config.stage1.epochs, config.stage1.optim.lr) == ("a", 7, 1e-4)
    assert config.tags == ["z"], "lists are replaced, not joined"
    assert config.stage1.augment is True


@pytest.mark.parametrize(
    ("override", "value"),
    [("data=null", None), ("data=", None), ("data=some/folder", Path("some/folder"))],
)
def test_override_values_are_yaml(write, override, value):
    assert load_config(Settings, [write("data: other")], [override]).data == value


def test_override_creates_a_section_and_merges_mappings(write):
    file = write("stage1: {optim: {scale: {'backbone.*': 0.1}}}\n")
    config = load_config(Settings, [file], ["stage2.epochs=1", "stage1.optim.scale={'head.*': 2}"])
    assert config.stage2 == Stage(epochs=1)
    assert config.stage1.optim.scale == {"backbone.*": 0.1, "head.*": 2.0}


def test_an_override_changes_only_its_own_copy_of_an_alias(write):
    config = load_config(Settings, [write("stage1: &s {epochs: 9}\nstage2: *s\n")], ["stage1.epochs=2"])
    assert (config.stage1.epochs, config.stage2.epochs) == (2, 9)


def test_merged_is_not_yet_checked(write):
    assert merged([write("stage1: {epochs: x, odd: 1}\n")], ["stage1.odd=2"]) == {"stage1": {"epochs": "x", "odd": 2}}


def test_config_is_immutable():
    with pytest.raises(pydantic.ValidationError):
        Settings().name = "other"


# --- the YAML faults ---


@pytest.mark.fault(19)
def test_python_tag_is_refused_and_not_run(write, tmp_path):
    canary = tmp_path / "canary"
    message = error_of([write(f"name: !!python/object/apply:os.system ['touch {canary}']\n")])
    assert "!!python/object/apply:os.system" in message and "settings.yaml:1" in message
    assert not canary.exists()


@pytest.mark.fault(19)
def test_unknown_key_names_file_line_and_nearest(write):
    message = error_of([write("name: a\nstage1:\n  epoch: 4\n")])
    assert "stage1.epoch = 4" in message and "settings.yaml:3" in message and "did you mean stage1.epochs?" in message


@pytest.mark.fault(19)
def test_unknown_key_is_looked_for_in_other_sections_too(write):
    assert "did you mean stage1.optim.lr or stage2.optim.lr?" in error_of([], ["lr=3"])


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    "line",
    [
        "epochs: '3'", "epochs: three", "epochs: 3.0", "epochs: true", "augment: 1", "optim: 3",
        "optim: {lr: '1e-4'}", "optim: {lr: .nan}", "optim: {betas: [0.9]}",
    ],
)  # fmt: skip
def test_wrong_type_is_refused(write, line):
    message = error_of([write(f"stage1:\n  {line}\n")])
    assert "stage1." in message and "settings.yaml:2" in message


@pytest.mark.fault(19)
def test_duplicate_key_is_refused_with_both_lines(write):
    message = error_of([write("name: a\ntags: []\nname: b\n")])
    assert "'name' stands twice (first on line 1)" in message and "settings.yaml:3" in message


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1E4", 1e4), ("-2.5e+3", -2500.0), (".5", 0.5), ("3", 3.0)]
)
def test_numbers_are_floats(write, text, value):
    assert load_config(Settings, [write(f"stage1: {{optim: {{lr: {text}}}}}")]).stage1.optim.lr == value


@pytest.mark.fault(19)
@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "Yes", "2020-01-01", "1:30", "0o17x", "1_000"])
def test_words_that_yaml_1_1_would_twist_stay_text(write, word):
    assert load_config(Settings, [write(f"name: {word}\n")]).name == word


@pytest.mark.fault(19)
@pytest.mark.parametrize("word", ["no", "yes", "on", "off"])
def test_such_words_are_no_booleans(write, word):
    assert "write true or false" in error_of([write(f"stage1: {{augment: {word}}}\n")])


@pytest.mark.fault(19)
def test_leading_zero_is_decimal(write):
    assert load_config(Settings, [write("stage1: {epochs: 010}\n")]).stage1.epochs == 10


@pytest.mark.fault(19)
@pytest.mark.parametrize("text", ["stage1:\n\tepochs: 3\n", "stage1:\n  epochs: 3\n\taugment: true\n"])
def test_tabs_are_named(write, text):
    assert "a tab stands where YAML wants spaces" in error_of([write(text)])


@pytest.mark.fault(19)
def test_alias_bomb_is_refused_quickly(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "aliases" in error_of([write("\n".join(lines))])


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("tags: &a [*a]", "contains itself"),
        ("tags: " + "[" * 5000, "nested too deeply"),
        ("- a\n- b\n", "top level is a list"),
        ("name: 'unclosed\n", "not readable as YAML"),
        ("name: !!bool maybe\n", "not readable as YAML"),
        ("? [1, 2]\n: 3\n", "is not a name"),
        ("name: !!binary aGk=\n", "tag !!binary is refused"),
    ],
)
def test_other_broken_yaml_is_a_clear_error(write, text, part):
    message = error_of([write(text)])
    assert part in message and "settings.yaml" in message


@pytest.mark.fault(19)
def test_unreadable_files_are_clear_errors(tmp_path):
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: é".encode("latin-1"))
    assert "not UTF-8" in error_of([latin])
    assert "No such file" in error_of([tmp_path / "absent.yaml"])
    assert "directory" in error_of([tmp_path])


@pytest.mark.fault(19)
@pytest.mark.parametrize("text", ["name", "=3", "a..b=1", ".a=1"])
def test_malformed_override(text):
    assert "a.b=value" in error_of([], [text])


# --- errors ---


@pytest.mark.fault(19)
def test_all_errors_are_listed_at_once_with_their_origins(write):
    first = write("name: 3\nstage1: {epochs: x}\nrule: g\n", "first.yaml")
    second = write("nam: y\n", "second.yaml")
    message = error_of([first, second], ["stage1.augment=maybe"])
    assert message.startswith("5 settings are wrong:")
    places = {"name = 3": "first.yaml:1", "stage1.epochs": "first.yaml:2", "rule = 'g'": "first.yaml:3",
              "nam = ": "second.yaml:1", "stage1.augment": "--set"}  # fmt: skip
    for key, place in places.items():
        assert [line for line in message.splitlines() if key in line and place in line], (key, place)


def test_the_last_writer_of_a_key_is_blamed(write):
    first, second = write("stage1: {epochs: x}\n", "first.yaml"), write("stage1: {epochs: y}\n", "second.yaml")
    assert "first.yaml" not in error_of([first, second])


def test_missing_key_and_cross_field_message():
    class Pair(Schema):
        low: int
        high: int = 3

        @pydantic.model_validator(mode="after")
        def ordered(self):
            if self.low > self.high:
                raise ValueError("low is above high; raise high")
            return self

    with pytest.raises(ConfigError, match=r"low .*is missing"):
        load_config(Pair, [])
    with pytest.raises(ConfigError, match="low is above high; raise high"):
        load_config(Pair, [], ["low=5"])


# --- writing back ---

TRICKY = [
    "no",
    "1e-4",
    "null",
    "~",
    "",
    "true",
    "2020-01-01",
    "0x10",
    "010",
    "1:30",
    " a ",
    "é",
    "a\nb",
    "#x",
    "*a",
    "- x",
]


def test_yaml_round_trip_of_tricky_text(write):
    config = Settings(
        name="1e-4", data=Path("a/b"), tags=TRICKY, stage2=Stage(optim=Optim(lr=1e-30, scale={"a.*": 2.0}))
    )
    assert load_config(Settings, [write(to_yaml(config))]) == config


def test_hash_depends_on_values_only(write):
    base = Settings()
    assert config_hash(base) == config_hash(load_config(Settings, [write("stage1: {epochs: 3}\nname: run\n")]))
    assert len(config_hash(base)) == 8
    assert config_hash(base) != config_hash(Settings(stage1=Stage(epochs=4)))


def test_hash_ignores_excluded_keys_only():
    one, two = Settings(stage1=Stage(epochs=1)), Settings(stage1=Stage(epochs=2), name="x")
    assert config_hash(one, ["stage1.epochs", "name"]) == config_hash(two, ["stage1.epochs", "name"])
    assert config_hash(one, ["stage1.epochs"]) != config_hash(two, ["stage1.epochs"])
    config_hash(one, ["stage2.epochs"])  # the section is None
    with pytest.raises(KeyError, match=r"stage1\.epoch'"):
        config_hash(one, ["stage1.epoch"])
